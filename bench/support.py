"""What the measurements share: lines, writers, a broker with a queue, and how a figure is printed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitNode

EXCHANGE = QUEUE = "event"
#: Gives a JSON body of 200 bytes, as in the facts that the targets come from.
_PADDING = "x" * 60
DEADLINE_S = 600.0


def event_lines(writer: int, count: int) -> bytes:
    """Return `count` event lines of one writer, numbered."""
    template = f"event|1165939739|srv1.example.com|Load{writer}|CRITICAL|{_PADDING} %07d\n"
    return "".join([template % number for number in range(count)]).encode()


def fresh_queue(bus: Bus) -> None:
    """Declare the exchange and an empty durable queue on it."""
    bus.declare_exchange(EXCHANGE, "fanout")
    bus.delete_queue(QUEUE)
    bus.declare_queue(QUEUE)
    bus.bind(QUEUE, EXCHANGE, QUEUE)


def wait_depth(bus: Bus, depth: int, began: float) -> float:
    """Return the seconds since `began` at which the queue holds `depth` messages."""
    while bus.queue_depth(QUEUE) < depth:
        if time.monotonic() - began > DEADLINE_S:
            raise AssertionError(f"{bus.queue_depth(QUEUE)} of {depth} messages after {DEADLINE_S:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - began


def write_all(path: Path, chunks: Iterable[bytes]) -> float:
    """Write each chunk on a connection of its own, side by side; return the seconds until all are accepted."""

    def write(data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
            link.sendall(data + b"sync|bench\n")
            answer = link.recv(200)
            if answer != b"synced|bench\n":
                failed.append(answer)

    failed: list[bytes] = []
    began = time.monotonic()
    threads = [threading.Thread(target=write, args=(chunk,)) for chunk in chunks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise AssertionError(f"expected synced, got {failed}")
    return time.monotonic() - began


def connector(node: RabbitNode, directory: Path, **options: object) -> ConnectorProcess:
    """Return a connector for the node, not started."""
    bus = {"hosts": node.address, "user": node.user, "password": node.password, **options.pop("bus", {})}  # type: ignore[dict-item]
    return ConnectorProcess(directory, bus=bus, log_level="WARNING", **options)  # type: ignore[arg-type]


def open_bus(node: RabbitNode) -> Bus:
    """Return a client of the node."""
    return connect(node, "/")


def median(values: list[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]
