"""Numbered results through a Nagios that writes a followed file, and what of them is on the bus."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.nagios.objects import HOST
from tests.nagios.process import NagiosProcess
from tests.support.bus import Bus, Message
from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.nagios.records import RecordReader

PATIENCE_S = 60.0
SERVICES = ("Load", "Disk", "Mail")
#: How many commands go into the pipe at a time: one write of less than PIPE_BUF bytes.
_CHUNK = 30


class Feed:
    """A connector and a Nagios with the file between them. Counts the results that Nagios was given."""

    def __init__(self, connector: ConnectorProcess, nagios: NagiosProcess, bus: Bus, path: Path) -> None:
        self.connector = connector
        self.nagios = nagios
        self.path = path
        self.given: dict[str, list[int]] = defaultdict(list)
        """Name of a service, empty for the host -> numbers, in the order in which Nagios got them."""
        self._bus = bus
        self._count = 0
        self._taken: dict[str, Message] = {}

    def give(self, count: int, text: str = "") -> None:
        """Give Nagios so many results, for services and host in turn. Returns when all are in its pipe."""
        commands = [self._next_command(text) for _ in range(count)]
        # Blocks while Nagios has not read the earlier ones.
        pipe = os.open(self.nagios.pipe_path, os.O_WRONLY)
        try:
            for start in range(0, count, _CHUNK):
                os.write(pipe, "".join(commands[start:start + _CHUNK]).encode())
        finally:
            os.close(pipe)

    def wait_written(self) -> None:
        """Return once Nagios has written all that it was given."""
        last = f"number {self._count}|".encode()
        wait_until(lambda: last in _tail(self.path), PATIENCE_S, f"{last!r} is in the file", 0.02)

    def written(self, paths: Iterable[Path]) -> dict[str, list[int]]:
        """Return what stands in these files, oldest first, as `given` has it."""
        lines = [line for path in paths for line in path.read_bytes().split(b"\n")]
        return _numbers(Message(body, "", "", {}, False) for key, body in RecordReader({}).parse(lines).items
                        if key.type == "state")

    def on_the_bus(self, count: int) -> dict[str, list[int]]:
        """Return what is on the bus, each `message_id` once, as soon as there are `count`; there must be no more."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self._taken) < count and time.monotonic() < deadline:
            self._take()
            time.sleep(0.02)
        self._take()
        return _numbers(self._taken.values())

    def has_arrived(self) -> bool:
        """Answer whether anything has reached the bus."""
        self._take()
        return bool(self._taken)

    def _take(self) -> None:
        for message in self._bus.drain_all("state"):
            self._taken.setdefault(message.properties["message_id"], message)

    def _next_command(self, text: str) -> str:
        self._count += 1
        service = (*SERVICES, "")[self._count % 4]
        self.given[service].append(self._count)
        command = f"PROCESS_SERVICE_CHECK_RESULT;{HOST};{service}" if service else f"PROCESS_HOST_CHECK_RESULT;{HOST}"
        return f"[{int(time.time())}] {command};0;{text}number {self._count}|n={self._count}\n"


def _numbers(messages: Iterable[Message]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        state = message.json()
        found[state["service"]].append(int(state["message"].rpartition("number ")[2]))
    return found


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 10000))
            return file.read()
    except FileNotFoundError:
        return b""
