"""Lines as fast as they go, beside publishers that have their messages ready."""

from __future__ import annotations

import time
from collections import defaultdict

from bench.contestants import CONNECTOR
from bench.driver import WARM_LINES, Load
from bench.publishers import publish
from bench.support import DEADLINE_S, QUEUE, open_bus
from bench.trial import Bench, Outcome, Target, fresh_queue, receiver, run
from tests.support.wait import wait_until

_CONSUMED, _QUEUED = Target(), Target(consumed=False)
_LINES = 100_000
_WRITERS = 3


def measure(bench: Bench) -> None:
    """Each round: unconfirmed and the connector to a consumer; then those two and ready-made frames to a queue."""
    report = bench.report
    lines = bench.lines(_LINES) // _WRITERS * _WRITERS
    report.section("full", f"{lines:,} lines by {_WRITERS} writers at full speed; {bench.rounds} rounds in turn")
    ours: dict[str, list[Outcome]] = defaultdict(list)
    theirs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    load = Load(lines, writers=_WRITERS, sync=True)
    for _ in range(bench.rounds):
        theirs["consumed"].append(_publish(bench, "unconfirmed", load, _CONSUMED))
        ours["consumed"].append(run(bench, CONNECTOR, load, _CONSUMED))
        theirs["queued"].append(_publish(bench, "unconfirmed", load, _QUEUED))
        theirs["ready"].append(_publish(bench, "ready", load, _QUEUED))
        ours["queued"].append(run(bench, CONNECTOR, load, _QUEUED))
    report.figure("py-amqp unconfirmed to a consumer", [rate for rate, _ in theirs["consumed"]], "messages/s")
    report.figure("connector to a consumer", [outcome.rate for outcome in ours["consumed"]], "lines/s")
    report.figure("py-amqp unconfirmed to a queue", [rate for rate, _ in theirs["queued"]], "messages/s")
    ready = [rate for rate, _ in theirs["ready"]]
    report.figure("ready-made frames, confirm and mandatory, to a queue", ready, "messages/s")
    report.figure("connector to a queue", [outcome.rate for outcome in ours["queued"]], "lines/s")
    ratios = _ratios(ours["consumed"], theirs["consumed"])
    report.figure("with a consumer, connector over py-amqp unconfirmed", ratios, "times", at_least=1.2)
    ratios = _ratios(ours["queued"], theirs["ready"])
    report.figure("without a consumer, connector over ready-made frames", ratios, "times", at_least=0.9)
    report.figure("CPU at full speed, connector", [outcome.cpu_us for outcome in ours["consumed"]], "us a line")
    report.figure("CPU at full speed, py-amqp unconfirmed", [cpu for _, cpu in theirs["consumed"]], "us a message")
    shares = [mine.cpu_us / cpu for mine, (_, cpu) in zip(ours["consumed"], theirs["consumed"], strict=True)]
    report.figure("CPU at full speed, connector over py-amqp", shares, "times", at_most=0.25)
    report.figure("memory at most, 3 writers", [outcome.rss_mb for outcome in ours["consumed"]], "MB")


def _ratios(ours: list[Outcome], theirs: list[tuple[float, float]]) -> list[float]:
    return [mine.rate / rate for mine, (rate, _) in zip(ours, theirs, strict=True)]


def _publish(bench: Bench, mode: str, load: Load, target: Target) -> tuple[float, float]:
    """Return messages/s until the last is at the consumer or in the queue, and the publisher's CPU in us a message."""
    with open_bus(bench.node) as bus:
        fresh_queue(bus, target)
        if target.consumed:
            with receiver(bench, load, target) as consumer:
                published = publish(bench.node, mode, load.lines)
                consumer.wait_warm()
                ended = consumer.result(load.lines)["ended"]
        else:
            published = publish(bench.node, mode, load.lines)
            wanted = load.lines + WARM_LINES
            wait_until(lambda: bus.queue_depth(QUEUE) >= wanted, DEADLINE_S, "all messages are in the queue")
            ended = time.monotonic()
    return load.lines / (ended - published["began"]), published["cpu_s"] / load.lines * 1e6
