"""From the bus to a handler that does nothing, beside pika's Select and a reader that only counts frames.

`python -m bench.handler MODE ADDRESS USER PASSWORD COUNT` is one of the two, `counting` or `select`: it says how long
it was from the first message to the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from struct import unpack_from
from typing import Any

import amqp

from bench.command import fill
from bench.driver import ROOT
from bench.relays.plain import PATIENT
from bench.support import connector, open_bus
from bench.trial import Bench
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until
from vigiloconn.connectors.parts import add_consumer
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor

_QUEUE = "commands"
_COUNT = 100_000
_PREFETCH = 500
_ACK_EVERY = 100


class Counter(MessageHandler):
    """Does nothing but count, and write down the time and CPU (of all threads) from the first to the last message."""

    name = "counter"

    def __init__(self, path: str, count: int) -> None:
        super().__init__()
        self._path, self._left = path, count
        self._began = self._cpu_before = 0.0

    def process_message(self, message: dict[str, Any]) -> None:
        if not self._began:
            self._began, self._cpu_before = time.monotonic(), time.process_time()
        self._left -= 1
        if self._left == 0:
            figures = time.monotonic() - self._began, time.process_time() - self._cpu_before
            with open(f"{self._path}.new", "w") as file:
                json.dump(figures, file)
            os.rename(f"{self._path}.new", self._path)


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    add_consumer(settings, supervisor, Counter(os.environ["COUNT_FILE"], int(os.environ["COUNT"])))


def _ours(bench: Bench, count: int) -> tuple[float, float]:
    """Return messages/s and CPU in us a message."""
    directory = bench.names.fresh()
    told = directory / "count"
    options = {"COUNT_FILE": str(told), "COUNT": str(count)}
    bus = {"queue": _QUEUE, "prefetch_count": _PREFETCH, "subscriptions": ""}
    process = connector(bench.node, directory, name="bench.handler:build", bus=bus, environment=options)
    try:
        process.launch()
        wait_until(told.exists, 120, f"{count} messages are handled")
        seconds, cpu_s = json.loads(told.read_text())
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.log_text()}") from error
    finally:
        process.close()
    return count / seconds, cpu_s / count * 1e6


def _theirs(node: RabbitNode, mode: str, count: int) -> float:
    argv = [sys.executable, "-m", "bench.handler", mode, node.address, node.user, node.password, str(count)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return count / json.loads(done.stdout)


def measure(bench: Bench) -> None:
    """Each round: the frame counter, pika where it is installed, the connector."""
    report = bench.report
    count = bench.lines(_COUNT)
    report.section("handler", f"{count:,} messages to a handler, prefetch {_PREFETCH}; {bench.rounds} rounds in turn")
    modes = ["counting", *(["select"] if _has_pika() else [])]
    theirs: dict[str, list[float]] = {mode: [] for mode in modes}
    ours: list[tuple[float, float]] = []
    with open_bus(bench.node) as bus:
        for _ in range(bench.rounds):
            for mode in modes:
                fill(bench.node, bus, count)
                theirs[mode].append(_theirs(bench.node, mode, count))
            fill(bench.node, bus, count)
            ours.append(_ours(bench, count))
        bus.delete_queue(_QUEUE)
    rates = [rate for rate, _ in ours]
    for mode, name in (("counting", "a reader that only counts frames"), ("select", "pika Select, JSON decoded")):
        if mode in theirs:
            report.figure(name, theirs[mode], "messages/s")
            ratios = [mine / rate for mine, rate in zip(rates, theirs[mode], strict=True)]
            report.figure(f"handler over {name}", ratios, "times")
    report.figure("handler that does nothing", rates, "messages/s")
    report.figure("CPU of it", [cpu for _, cpu in ours], "us a message")
    picks = theirs.get("select", [0.0] * len(rates))
    wanted = [
        max(rate / rival for rival in (0.9 * counted, *([2 * picked] if picked else [])))
        for rate, counted, picked in zip(rates, theirs["counting"], picks, strict=True)
    ]
    report.figure("handler, the better of its share of 0.9 of a counter or 2 pika", wanted, "times", at_least=1)


def _has_pika() -> bool:
    try:
        import pika  # noqa: F401
    except ImportError:
        return False
    return True


def _count_frames(address: str, user: str, password: str, count: int) -> float:
    connection = amqp.Connection(address, userid=user, password=password, socket_settings=PATIENT)
    connection.connect()
    channel = connection.channel()
    channel.basic_qos(0, _PREFETCH, False)
    channel.basic_consume(_QUEUE)
    link = connection.transport.sock
    link.settimeout(30)
    data, taken, acked, began = b"", 0, 0, 0.0
    while taken < count:
        data += link.recv(1 << 18)
        began = began or time.monotonic()
        place = 0
        while place + 7 <= len(data):
            kind, _, size = unpack_from(">BHI", data, place)
            if place + size + 8 > len(data):
                break
            place += size + 8
            taken += kind == 3
        data = data[place:]
        if taken - acked >= _ACK_EVERY or taken == count:
            channel.basic_ack(taken, multiple=True)
            acked = taken
    return time.monotonic() - began


def _select(address: str, user: str, password: str, count: int) -> float:
    from pika.adapters.select_connection import SelectConnection

    from bench.relays.pika_relay import parameters

    taken, began = 0, 0.0

    def got(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        nonlocal taken, began
        began = began or time.monotonic()
        json.loads(body)
        taken += 1
        if taken % _ACK_EVERY == 0 or taken == count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if taken == count:
            connection.ioloop.stop()

    def consume(channel: Any) -> None:
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.basic_consume(_QUEUE, got)

    connection = SelectConnection(
        parameters(address, user, password), on_open_callback=lambda it: it.channel(on_open_callback=consume)
    )
    connection.ioloop.start()
    return time.monotonic() - began


if __name__ == "__main__":
    function = {"counting": _count_frames, "select": _select}[sys.argv[1]]
    print(json.dumps(function(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))))
