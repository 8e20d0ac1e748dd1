"""From the socket to a consumer at a gentle rate, beside py-amqp publishing to the same consumer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import amqp

from bench.support import EXCHANGE, QUEUE, Report, connector, fresh_queue, open_bus
from tests.support.rabbit import RabbitNode

_RATE = 100


class _Consumer(threading.Thread):
    """Notes when each numbered message arrives."""

    def __init__(self, node: RabbitNode, count: int) -> None:
        super().__init__(daemon=True)
        self.arrived: dict[str, float] = {}
        self._count = count
        self._connection = amqp.Connection(node.address, userid=node.user, password=node.password)
        self._connection.connect()
        channel = self._connection.channel()
        channel.basic_consume(QUEUE, no_ack=True, callback=self._got)

    def _got(self, message: amqp.Message) -> None:
        body = message.body.decode() if isinstance(message.body, bytes) else message.body
        self.arrived[body.rpartition("#")[2].partition('"')[0]] = time.perf_counter()

    def run(self) -> None:
        deadline = time.monotonic() + self._count / _RATE + 20
        while len(self.arrived) < self._count and time.monotonic() < deadline:
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                continue
        self._connection.close()


def _percentiles(sent: dict[str, float], arrived: dict[str, float]) -> tuple[float, float]:
    if arrived.keys() < sent.keys():
        raise AssertionError(f"{len(sent) - len(arrived)} messages did not arrive")
    delays = sorted((arrived[key] - at) * 1000 for key, at in sent.items())
    return delays[len(delays) // 2], delays[int(len(delays) * 0.99)]


def _paced(count: int, send: object) -> dict[str, float]:
    sent: dict[str, float] = {}
    began = time.perf_counter()
    for number in range(count):
        pause = began + number / _RATE - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        sent[str(number)] = time.perf_counter()
        send(number)  # type: ignore[operator]
    return sent


def measure(report: Report, node: RabbitNode, directory: Path, seconds: int) -> None:
    """Measure for `seconds` each."""
    count = seconds * _RATE
    report.section(f"latency at {_RATE} lines/s, {seconds} s each")
    with open_bus(node) as bus:
        fresh_queue(bus)
        consumer = _Consumer(node, count)
        consumer.start()
        connection = amqp.Connection(node.address, userid=node.user, password=node.password)
        connection.connect()
        channel = connection.channel()
        sent = _paced(
            count,
            lambda number: channel.basic_publish(
                amqp.Message(f'{{"message":"#{number}"}}'.encode(), delivery_mode=2), EXCHANGE, "event"
            ),
        )
        consumer.join()
        connection.close()
        middle, high = _percentiles(sent, consumer.arrived)
        report.figure("py-amqp to consumer, unconfirmed: p50", middle, "ms")
        report.figure("py-amqp to consumer, unconfirmed: p99", high, "ms")
        fresh_queue(bus)
        with connector(node, directory / "latency") as process, process.writer() as writer:
            consumer = _Consumer(node, count)
            consumer.start()
            sent = _paced(count, lambda number: writer.send(f"event|1165939739|srv1|Load|OK|#{number}"))
            consumer.join()
        middle, high = _percentiles(sent, consumer.arrived)
        report.figure("socket to consumer, journaled: p50", middle, "ms")
        report.figure("socket to consumer, journaled: p99", high, "ms", target="< 8", met=high < 8)
