"""Consumes a queue and checks each line's arrival and order, as a process of its own: `python -m bench.receiver JSON`.

py-amqp logs in and subscribes; then frames are cut here, since decoding each message would take more of the machine
than what is measured. Says `ready`, then `warm` when the warm-up lines are there, then what came, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from struct import unpack_from
from typing import Any

import amqp

from bench.driver import ROOT, WARM_LINES
from bench.lines import WARM_WRITER, markers
from bench.relays.plain import PATIENT
from tests.support.rabbit import RabbitNode

_PREFETCH = 2000
_ACK_EVERY = 500
_METHOD, _BODY = 1, 3
_DELIVER = b"\x00\x3c\x00\x3c"


class Tally:
    """Counts lines, notes their delays, and holds each writer's to its order."""

    def __init__(self) -> None:
        self.lines = 0
        self.warm = 0
        self.delays_ms: list[float] = []
        self.faults: list[str] = []
        self._next: dict[tuple[int, int], int] = {}

    def note(self, body: bytes, now_ns: int) -> None:
        """Take the lines of one message. One that is none, comes twice, or out of order is a fault."""
        found = markers(body)
        if not found:
            self.faults.append(f"no line in {body[:80]!r}")
        for writer, lane, number, sent_ns in found:
            if writer == WARM_WRITER:
                self.warm += 1
                continue
            wanted = self._next.get((writer, lane), 0)
            if number != wanted and len(self.faults) < 10:
                self.faults.append(f"writer {writer}, exchange {lane}: line {number} in place of {wanted}")
            self._next[writer, lane] = number + 1
            self.lines += 1
            if sent_ns:
                self.delays_ms.append((now_ns - sent_ns) / 1e6)

    def result(self) -> dict[str, Any]:
        """Return what is told at the end."""
        delays = sorted(self.delays_ms)
        points = {f"p{share}": delays[int(len(delays) * share / 100)] for share in (50, 99)} if delays else {}
        return {"lines": self.lines, "ended": time.monotonic(), "faults": self.faults, **points}


def bodies(connection: amqp.Connection, timeout_s: float) -> Iterator[list[bytes]]:
    """Give the bodies that one read brought, each of one frame. Raises TimeoutError when none comes in time."""
    link = connection.transport.sock
    link.settimeout(timeout_s)
    data = b""
    while True:
        more = link.recv(1 << 18)
        if not more:
            raise ConnectionError("the broker has closed the connection")
        data += more
        done: list[bytes] = []
        place, size_bytes = 0, len(data)
        while place + 7 <= size_bytes:
            kind, _, size = unpack_from(">BHI", data, place)
            if place + size + 8 > size_bytes:
                break
            payload_at, place = place + 7, place + size + 8
            if kind == _BODY:
                done.append(data[payload_at : payload_at + size])
            elif kind == _METHOD and data[payload_at : payload_at + 4] != _DELIVER:
                raise ConnectionError(f"the broker says {data[payload_at : payload_at + 80]!r}")
        data = data[place:]
        yield done


def main(order: dict[str, Any]) -> None:
    """Do what the order says."""
    account = {"userid": order["user"], "password": order["password"]}
    connection = amqp.Connection(order["address"], **account, socket_settings=PATIENT)
    connection.connect()
    channel = connection.channel()
    channel.basic_qos(0, _PREFETCH, False)
    arguments = {"x-stream-offset": "first"} if order["stream"] else {}
    channel.basic_consume(order["queue"], arguments=arguments)
    print("ready", flush=True)
    tally = Tally()
    taken = acked = 0
    is_warm = False
    for some in bodies(connection, order["timeout_s"]):
        now_ns = time.monotonic_ns()
        for body in some:
            tally.note(body, now_ns)
        taken += len(some)
        done = tally.lines >= order["lines"]
        if taken - acked >= _ACK_EVERY or done or not is_warm:
            if taken > acked:
                channel.basic_ack(taken, multiple=True)
            acked = taken
        if not is_warm and tally.warm >= WARM_LINES:
            is_warm = True
            print("warm", flush=True)
        if done:
            break
    print(json.dumps(tally.result()), flush=True)


class Receiver:
    """Runs the process. A context manager that ends it."""

    def __init__(self, node: RabbitNode, queue: str, lines: int, *, stream: bool, timeout_s: float) -> None:
        order = {
            "address": node.address, "user": node.user, "password": node.password, "queue": queue, "lines": lines,
            "stream": stream, "timeout_s": timeout_s,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.receiver", json.dumps(order)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._expect("ready")

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_warm(self) -> None:
        """Return once the warm-up lines have come."""
        self._expect("warm")

    def result(self, lines: int) -> dict[str, Any]:
        """Return what came, once all is there. Raises AssertionError unless it was every line, once and in order."""
        text = self._line()
        if not text:
            raise AssertionError("the receiver ended before the last line")
        result = dict(json.loads(text))
        if result["faults"] or result["lines"] != lines:
            raise AssertionError(f"{result['lines']} of {lines} lines, {result['faults']}")
        return result

    def _expect(self, word: str) -> None:
        line = self._line()
        if line != word:
            raise AssertionError(f"the receiver: expected {word!r}, got {line!r}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
