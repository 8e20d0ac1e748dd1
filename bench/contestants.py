"""What takes lines from a socket to an exchange: connector, relays on libraries, syslog-ng. Knows how each is started.

What runs has a `pid` and a `socket_path`, and is a context manager that waits until that takes connections.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.driver import ROOT
from bench.support import connector
from tests.support import children
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until


class Running(Protocol):
    """One that runs."""

    pid: int
    socket_path: Path

    def __enter__(self) -> Running: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def log_text(self) -> str: ...


@dataclass(frozen=True)
class Contestant:
    """What can be started. `full_lines` is how many lines it does in some seconds at full speed."""

    name: str
    guarantee: str
    start: Callable[[RabbitNode, Path], Running]
    full_lines: int = 60_000


class ConnectorRun:
    """The connector under test."""

    def __init__(self, node: RabbitNode, directory: Path, **options: object) -> None:
        self._process = connector(node, directory, **options)
        self.socket_path = self._process.socket_path

    def __enter__(self) -> ConnectorRun:
        self._process.__enter__()
        self.pid = self._process.process.pid
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.close()

    def log_text(self) -> str:
        return self._process.log_text()


class Program:
    """Another program with a socket at `socket_path`."""

    def __init__(self, argv: Sequence[str], socket_path: Path) -> None:
        self._argv = argv
        self.socket_path = socket_path
        self._log_path = socket_path.with_suffix(".log")

    def __enter__(self) -> Program:
        with self._log_path.open("ab") as log:
            self._process = children.spawn(self._argv, cwd=ROOT, stdout=log)
        self.pid = self._process.pid
        try:
            wait_until(self._listens, 20, f"{self._argv[0]} listens on {self.socket_path}")
        except BaseException:
            children.end(self._process)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        children.end(self._process)

    def log_text(self) -> str:
        return self._log_path.read_text(errors="replace")

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{' '.join(self._argv)} ended with {self._process.returncode}: {self.log_text()}")
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(self.socket_path))
        except OSError:
            return False
        return True


def _connector(**options: object) -> Callable[[RabbitNode, Path], Running]:
    return lambda node, directory: ConnectorRun(node, directory, **options)


def _relay(module: str, *mode: str) -> Callable[[RabbitNode, Path], Running]:
    def start(node: RabbitNode, directory: Path) -> Running:
        directory.mkdir(parents=True)
        path = directory / "relay.sock"
        account = (node.address, node.user, node.password)
        argv = [sys.executable, "-m", f"bench.relays.{module}", *mode, *account, str(path)]
        return Program(argv, path)

    return start


_SYSLOG_NG = """\
@version: 3.35
options { stats-freq(0); };
source lines { unix-stream("%(socket)s" flags(no-parse) max-connections(10) log-iw-size(20000)); };
destination bus {
    amqp(host("127.0.0.1") port(%(port)d) vhost("/") exchange("event") exchange-type("fanout") routing-key("event")
         username("%(user)s") password("%(password)s") body("$MSG") persistent(yes) %(buffer)s);
};
log { source(lines); destination(bus); flags(flow-control); };
"""
_BUFFER = 'disk-buffer(reliable(yes) disk-buf-size(1073741824) mem-buf-size(10485760) dir("%s"))'


def find_syslog_ng() -> str | None:
    """Return the program, None where it is not installed."""
    return shutil.which("syslog-ng") or shutil.which("syslog-ng", path="/usr/sbin")


def _syslog_ng(*, reliable: bool) -> Callable[[RabbitNode, Path], Running]:
    def start(node: RabbitNode, directory: Path) -> Running:
        directory.mkdir(parents=True)
        program = find_syslog_ng()
        if program is None:
            raise AssertionError("syslog-ng is not installed: `make bench-peers` installs it")
        path = directory / "syslog.sock"
        values: Mapping[str, object] = {
            "socket": path, "port": node.port, "user": node.user, "password": node.password,
            "buffer": _BUFFER % directory if reliable else "",
        }  # fmt: skip
        (directory / "syslog-ng.conf").write_text(_SYSLOG_NG % values)
        files = [f"--{key}={directory / name}" for key, name in _SYSLOG_FILES.items()]
        return Program([program, "--foreground", "--no-caps", *files], path)

    return start


_SYSLOG_FILES = {
    "cfgfile": "syslog-ng.conf", "persist-file": "persist", "pidfile": "pid", "control": "control",
}  # fmt: skip

CONNECTOR = Contestant(
    "connector", "fsync before it is accepted, confirm, mandatory, order, again after any fault", _connector(), 100_000
)
OVERFLOW = Contestant(
    "connector, overflow", "confirm, mandatory, order; on disk only what can't be sent now",
    _connector(connector={"durability": "overflow"}), 100_000,
)  # fmt: skip
COMMITTED = Contestant(
    "bare loop: recv, SQLite FULL, confirm", "fsync, confirm, mandatory, order; nothing after a fault",
    _relay("plain", "committed"), 20_000,
)  # fmt: skip
UNCONFIRMED = Contestant("py-amqp unconfirmed", "order; no confirm, no fsync", _relay("plain", "unconfirmed"))
_ONE_BY_ONE = "confirm, mandatory, order, one at a time; no fsync"
PEERS = (
    CONNECTOR,
    OVERFLOW,
    COMMITTED,
    UNCONFIRMED,
    Contestant("py-amqp confirmed", _ONE_BY_ONE, _relay("plain", "confirmed"), 8_000),
    Contestant("pika Blocking", _ONE_BY_ONE, _relay("pika_relay", "blocking"), 5_000),
    Contestant(
        "pika Select", "confirm, mandatory, order, window of 2000; no fsync", _relay("pika_relay", "select"), 30_000
    ),
    Contestant("aio-pika", "confirm, mandatory, order, a read ahead; no fsync", _relay("aio"), 15_000),
    Contestant("syslog-ng", "order; no confirm, no fsync", _syslog_ng(reliable=False)),
    Contestant("syslog-ng, reliable", "order, in a file first, without fsync; no confirm", _syslog_ng(reliable=True)),
)


def connector_with(title: str, **options: object) -> Contestant:
    """Return the connector with other settings."""
    return Contestant(title, CONNECTOR.guarantee, _connector(**options), CONNECTOR.full_lines)


@dataclass
class Names:
    """Gives directories that were not used yet."""

    place: Path
    _count: int = field(default=0)

    def fresh(self) -> Path:
        self._count += 1
        return self.place / str(self._count)
