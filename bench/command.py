"""From the bus to a command pipe, beside a plain py-amqp consumer that writes the same commands to the same pipe.

`python -m bench.command ADDRESS USER PASSWORD QUEUE PIPE COUNT` is that baseline, a process of its own so that its
CPU can be told from the reader's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import amqp

from bench.relays.plain import PATIENT
from bench.support import DEADLINE_S, connector, open_bus
from bench.trial import Bench
from tests.support.bus import Bus
from tests.support.connector import ROOT
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.serialize import encode

_QUEUE = "commands"
_COMMAND = "PROCESS_SERVICE_CHECK_RESULT"
_PADDING = "x" * 60
#: Publishes in one write.
_CHUNK = 200
_PREFETCH = 500
#: The Twisted connectors' default.
_FEW = 5
_COUNT = 100_000
_ACK_EVERY = 100


def message(number: int) -> dict[str, str]:
    """Return a `nagios` message as the connector makes it of a line."""
    value = f"srv1.example.com;Load;1;{_PADDING} {number:07d}"
    return {"type": "nagios", "timestamp": "1165939739", "cmdname": _COMMAND, "value": value}


def command(message: dict[str, str]) -> bytes:
    """Return the command that Nagios is to read."""
    return f"[{float(message['timestamp'])}] {message['cmdname']};{message['value']}\n".encode()


class PipeReader(threading.Thread):
    """Reads the pipe, as Nagios would, until `size` bytes have come, and notes when the first and the last did."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(daemon=True)
        self.began = 0.0
        self.ended = 0.0
        self._size = size
        self._parts: list[bytes] = []
        # Open before the thread runs: from here on a writer finds a reader.
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._pipe, True)

    def run(self) -> None:
        read = 0
        while read < self._size:
            data = os.read(self._pipe, 1 << 20)
            if not data:
                # The writer has not opened it yet, or again.
                time.sleep(0.001)
                continue
            self.began = self.began or time.monotonic()
            self._parts.append(data)
            read += len(data)
        self.ended = time.monotonic()
        os.close(self._pipe)

    def finish(self, explain: Callable[[], str]) -> tuple[bytes, float]:
        """Return all that came, and the seconds from the first to the last of it."""
        self.join(DEADLINE_S)
        if self.is_alive():
            raise AssertionError(f"{sum(map(len, self._parts))} of {self._size} bytes: {explain()}")
        return b"".join(self._parts), self.ended - self.began


def fill(node: RabbitNode, bus: Bus, count: int) -> None:
    """Put `count` persistent messages into an empty durable queue."""
    bus.declare_queue(_QUEUE)
    bus.channel.queue_purge(_QUEUE)
    connection = amqp.Connection(node.address, userid=node.user, password=node.password, socket_settings=PATIENT)
    connection.connect()
    channel = connection.channel()
    frames = PublishFrames(channel.channel_id, "", _QUEUE, frame_max=connection.frame_max)
    ready = [frames.render(encode(message(number)), b"bench-%d" % number) for number in range(count)]
    for start in range(0, count, _CHUNK):
        connection.transport.write(b"".join(ready[start : start + _CHUNK]))
    wait_until(lambda: bus.queue_depth(_QUEUE) == count, DEADLINE_S, f"{count} messages in the queue", 0.2)
    connection.close()


def check_equal(got: bytes, wanted: bytes, who: str) -> None:
    """Raise AssertionError unless each command came once, whole and in order."""
    if got != wanted:
        pairs = zip(got.split(b"\n"), wanted.split(b"\n"), strict=False)
        place, (came, expected) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        raise AssertionError(f"{who}: command {place}: expected {expected!r}, got {came!r}")


def measure_plain(node: RabbitNode, pipe: Path, wanted: bytes, count: int) -> tuple[float, float]:
    """Return commands/s and CPU in microseconds a command of the baseline."""
    reader = PipeReader(pipe, len(wanted))
    reader.start()
    arguments = [node.address, node.user, node.password, _QUEUE, str(pipe), str(count)]
    argv = [sys.executable, "-m", "bench.command", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    got, seconds = reader.finish(lambda: done.stderr)
    check_equal(got, wanted, "the baseline")
    return count / seconds, json.loads(done.stdout)["cpu_s"] / count * 1e6


def measure_ours(
    node: RabbitNode, bus: Bus, directory: Path, pipe: Path, wanted: bytes, count: int, prefetch: int = _PREFETCH
) -> tuple[float, float]:
    """Return commands/s and CPU in microseconds a command of the connector."""
    nagios = {"nagios_pipe": pipe, "accepted_commands": _COMMAND}
    with connector(node, directory, bus={"queue": _QUEUE, "prefetch_count": prefetch}, nagios=nagios) as process:
        # It waits for a reader of the pipe: its start is not measured, its finding the reader is.
        cpu_before = process.cpu_s()
        reader = PipeReader(pipe, len(wanted))
        reader.start()
        got, seconds = reader.finish(process.log_text)
        cpu_s = process.cpu_s() - cpu_before
        check_equal(got, wanted, "the connector")
        if process.terminate() != 0:
            raise AssertionError(process.log_text())
    left = bus.queue_depth(_QUEUE)
    if left:
        raise AssertionError(f"{left} commands that were written are in the queue again: they were not acknowledged")
    return count / seconds, cpu_s / count * 1e6


def measure(bench: Bench) -> None:
    """Measure the baseline and the connector in turn, each on a queue that was filled beforehand."""
    report, node, count = bench.report, bench.node, bench.lines(_COUNT)
    report.section(
        "command", f"{count:,} commands to a command pipe, prefetch {_PREFETCH}; {bench.rounds} rounds in turn"
    )
    wanted = b"".join(command(message(number)) for number in range(count))
    directory = bench.names.fresh()
    directory.mkdir()
    pipe = directory / "nagios.cmd"
    os.mkfifo(pipe)
    plain, ours = [], []
    with open_bus(node) as bus:
        for _ in range(bench.rounds):
            fill(node, bus, count)
            plain.append(measure_plain(node, pipe, wanted, count))
            fill(node, bus, count)
            ours.append(measure_ours(node, bus, bench.names.fresh(), pipe, wanted, count))
        fill(node, bus, count)
        few, _ = measure_ours(node, bus, bench.names.fresh(), pipe, wanted, count, _FEW)
        bus.delete_queue(_QUEUE)
    report.figure("py-amqp, ack of 100 at a time", [rate for rate, _ in plain], "commands/s")
    report.figure("CPU of py-amqp", [cpu for _, cpu in plain], "us a command")
    report.figure("queue to pipe, acknowledged after it", [rate for rate, _ in ours], "commands/s")
    report.figure("CPU of the connector", [cpu for _, cpu in ours], "us a command")
    ratios = [mine / theirs for (mine, _), (theirs, _) in zip(ours, plain, strict=True)]
    report.figure("queue to pipe over py-amqp", ratios, "times", at_least=4)
    report.figure(f"queue to pipe with a prefetch of {_FEW}", few, "commands/s")


def main(arguments: list[str]) -> int:
    """Be the baseline: consume, write each command to the pipe, print the CPU used since the first one."""
    address, user, password, queue, path, text = arguments
    count = int(text)
    pipe = os.open(path, os.O_WRONLY)
    connection = amqp.Connection(address, userid=user, password=password, socket_settings=PATIENT)
    connection.connect()
    channel = connection.channel()
    channel.basic_qos(0, _PREFETCH, False)
    taken = 0

    def take(delivery: amqp.Message) -> None:
        nonlocal taken
        os.write(pipe, command(json.loads(delivery.body)))
        taken += 1
        if taken % _ACK_EVERY == 0 or taken == count:
            channel.basic_ack(delivery.delivery_tag, multiple=True)

    before = time.process_time()
    channel.basic_consume(queue, callback=take)
    while taken < count:
        connection.drain_events(timeout=30)
    print(json.dumps({"cpu_s": time.process_time() - before}))
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
