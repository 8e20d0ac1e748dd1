"""What a run plays on: a virtual host, a proxy before the broker, a connector with its controls. Knows how to build it
and take it down, not what happens on it."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import amqp

from tests.chaos.cluster import Cluster
from tests.chaos.controls import Controls
from tests.chaos.disk import SmallDisk
from tests.chaos.judge import Parked
from tests.chaos.keeper import Keeper
from tests.chaos.outside import OutsideWriter
from tests.chaos.pipereader import PipeReader
from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.proxy import TcpProxy

#: What flows in a run: lines to the bus, messages to a handler, commands to a pipe.
DIRECTIONS = LINES, HANDLER, PIPE = ("lines", "handler", "pipe")
#: Lines as well, to quorum queues of a cluster.
CLUSTER = "cluster"
QUEUE = "work"
EXCHANGES = ("event", "perf", "state")
STATUS = "status"
#: Where the broker puts what has expired in one of its queues: that is no end by the connector.
EXPIRED = "expired"
#: What a run is measured by: noticed within one heartbeat, tried again within another.
HEARTBEAT_S = 3
BUS: dict[str, object] = {
    "heartbeat": HEARTBEAT_S, "max_reconnect_delay": HEARTBEAT_S, "connect_timeout": HEARTBEAT_S,
    "confirm_timeout": 2 * HEARTBEAT_S, "blocked_timeout": 60,
}

T = TypeVar("T")


@dataclass(slots=True)
class Shape:
    """What differs between the connectors of two runs."""

    name: str
    bus: Mapping[str, object]
    connector: Mapping[str, object]
    nagios: Mapping[str, object]
    publications: Mapping[str, object]
    disk_mb: int | None = None
    channels: int | None = None
    """How many channels the broker allows the connector."""
    has_other_way: bool = False
    """Whether the settings name the broker twice: the faults of the way strike the first address only."""
    reclaims: str = ""
    """Where a file is followed, what becomes of what was taken of it."""


class Stage:
    """A context manager: everything on it is gone afterwards, but for the files in `directory`."""

    def __init__(self, cluster: Cluster, directory: Path, shape: Shape) -> None:
        self.cluster = cluster
        self.node = cluster.nodes[0]
        """The broker, where there is one only."""
        self.directory = directory
        self.vhost = f"chaos-{secrets.token_hex(4)}"
        self.user, self.password = self.vhost, "chaos"
        self._shape = shape
        self._stack = ExitStack()
        self.disk: SmallDisk | None = None
        self.intruders: list[sqlite3.Connection] = []
        """Other programs that hold the journal's lock."""
        self.reader: PipeReader | None = None
        """Nagios' place at the command pipe, where there is one."""
        self.outside: OutsideWriter | None = None
        """Another program that writes to the journal, where there is one."""

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _build(self, stack: ExitStack) -> None:
        node, shape = self.node, self._shape
        self.directory.mkdir(parents=True, exist_ok=True)
        node.add_vhost(self.vhost)
        stack.callback(node.delete_vhost, self.vhost)
        node.add_user(self.user, self.password, self.vhost)
        stack.callback(node.delete_user, self.user)
        if shape.channels is not None:
            node.limit_channels(shape.channels, self.user)
        self.proxy = stack.enter_context(TcpProxy(node.port, speaks_amqp=True))
        hosts = [self.proxy.address] if self.cluster.is_alone else [each.address for each in self.cluster.nodes]
        if shape.has_other_way:
            hosts.append(stack.enter_context(TcpProxy(node.port)).address)
        place = self.directory
        if shape.disk_mb is not None:
            self.disk = stack.enter_context(SmallDisk(self.directory / "disk", shape.disk_mb))
            place = self.disk.path
        # Not on the small disk: the writer is to be hindered by nothing.
        self.followed_path = self.directory / "followed"
        nagios = {**shape.nagios}
        if shape.reclaims:
            nagios.update(follow=self.followed_path, follow_reclaim=shape.reclaims)
        self.controls = Controls(self.directory / "controls")
        self.controls.disarm()
        login = {"hosts": hosts, "user": self.user, "password": self.password, "vhost": self.vhost}
        self.connector = ConnectorProcess(
            self.directory, name=shape.name, bus={**BUS, **login, **shape.bus},
            connector={
                "backup_file": place / "backup.sqlite", "status_period": 1, "hostname": "chaos", **shape.connector,
            },
            nagios=nagios, publications=shape.publications, program="tests.chaos.wrapped",
            environment={"VIGILOCONN_CHAOS": str(self.directory / "controls")}, cwd=self.directory,
        )
        stack.callback(self.connector.close)
        stack.callback(self._send_intruders_away)
        self.keeper = Keeper(self.connector, self.controls)
        stack.callback(self.keeper.close)

    def _send_intruders_away(self) -> None:
        while self.intruders:
            self.intruders.pop().close()

    # -- the bus, as its administrator sees it ------------------------------------------------------------------

    def on_bus(self, action: Callable[[Bus], T]) -> T:
        """Do something on this run's virtual host, past the proxy."""
        with connect(self.cluster.living, self.vhost) as bus:
            return action(bus)

    def declare(self) -> None:
        """Make the exchanges, each with a queue of its name."""
        def act(bus: Bus) -> None:
            bus.declare_exchange(EXPIRED)
            bus.declare_queue(EXPIRED, EXPIRED, arguments=self._queue_type)
            for exchange in (*EXCHANGES, STATUS):
                self.make_exchange(bus, exchange)
        self.on_bus(act)

    def make_exchange(self, bus: Bus, exchange: str) -> None:
        """Make one exchange with its queue, where they are not there."""
        bus.declare_exchange(exchange, "topic")
        bus.declare_queue(exchange, exchange, "#", arguments={"x-dead-letter-exchange": EXPIRED, **self._queue_type})

    @property
    def _queue_type(self) -> dict[str, str]:
        return {} if self.cluster.is_alone else {"x-queue-type": "quorum"}

    def depth(self, queue: str) -> int:
        """Return how many messages wait in a queue, 0 when there is no such queue."""
        try:
            return self.on_bus(lambda bus: bus.queue_depth(queue))
        except amqp.NotFound:
            return 0

    # -- the journal, as any reader sees it ---------------------------------------------------------------------

    def waiting_rows(self) -> int:
        """Return how many messages the journal still has to deliver, the held ones included."""
        return sum(self._query(f"SELECT count(*) FROM {table}")[0][0] for table in ("tobus", "vigiloconn_held"))

    def is_file_taken(self) -> bool:
        """Answer whether all that was written to the followed file is in the journal, or was."""
        kept = self._query("SELECT text FROM vigiloconn_kept WHERE name LIKE 'follow:%'")
        if not kept:
            return False
        mark = json.loads(kept[0][0])
        files = {path.stat().st_ino: path for path in self.directory.glob(f"{self.followed_path.name}*")}
        newest = max(files.values(), key=lambda path: path.stat().st_mtime_ns)
        is_last = files.get(mark["inode"]) in (newest, self.followed_path)
        return is_last and mark["position"] == files[mark["inode"]].stat().st_size

    def parked(self) -> list[Parked]:
        """Return what is parked."""
        rows = self._query("SELECT exchange, CAST(msg AS BLOB), reason FROM vigiloconn_parked")
        return [Parked(*row) for row in rows]

    def _query(self, sql: str) -> list[tuple]:  # type: ignore[type-arg]
        reader = sqlite3.connect(f"file:{self.connector.journal_path}?mode=ro", uri=True, timeout=10.0)
        try:
            return reader.execute(sql).fetchall()
        finally:
            reader.close()
