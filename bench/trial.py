"""One trial: a contestant between a driver and a receiver, and what it used. Knows how to measure, not what for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from bench.contestants import Contestant, Names
from bench.driver import WARM_LINES, Driver, Load
from bench.lines import KINDS
from bench.procfs import usage
from bench.receiver import Receiver
from bench.report import Report
from bench.support import DEADLINE_S, EXCHANGE, QUEUE, open_bus
from tests.support.bus import Bus
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

#: What is confirmed last is deleted from the journal a moment later: that belongs to its cost.
_SETTLE_S = 0.3
_SILENCE_S = 60.0


@dataclass
class Bench:
    """What every section gets: a broker, room for files, where figures go, and whether it has to be quick."""

    node: RabbitNode
    report: Report
    names: Names
    quick: bool
    rounds: int = 1

    def seconds(self, full: float) -> float:
        """Return how long to measure at a rate: `full`, or two seconds where it has to be quick."""
        return min(full, 2.0) if self.quick else full

    def lines(self, full: int) -> int:
        """Return how many lines to write at full speed."""
        return full // 5 if self.quick else full


class Outcome(NamedTuple):
    """`rate` in lines/s from the first write to the last arrival; delays from write to consumer, 0 at full speed."""

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    rss_mb: float
    wakeups_s: float


@dataclass(frozen=True)
class Target:
    """Where lines end: `queue_type` classic, quorum or stream; `consumed`: somebody reads while they come."""

    queue_type: str = "classic"
    consumed: bool = True
    exchanges: tuple[str, ...] = (EXCHANGE,)


QUEUE_WITH_CONSUMER = Target()


def fresh_queue(bus: Bus, target: Target) -> None:
    """Declare the exchanges, and an empty durable queue on all of them."""
    bus.delete_queue(QUEUE)
    bus.declare_queue(QUEUE, arguments={"x-queue-type": target.queue_type})
    for name in target.exchanges:
        bus.declare_exchange(name, "fanout")
        bus.bind(QUEUE, name, name)


def run(bench: Bench, contestant: Contestant, load: Load, target: Target = QUEUE_WITH_CONSUMER) -> Outcome:
    """Write the load through the contestant. Raises AssertionError unless every line arrived once and in order."""
    with open_bus(bench.node) as bus:
        fresh_queue(bus, target)
        with contestant.start(bench.node, bench.names.fresh()) as running:
            try:
                if target.consumed:
                    return _run_consumed(bench, running, load, target)
                return _run_queued(bench, bus, running, load, target)
            except AssertionError as error:
                raise AssertionError(f"{contestant.name}: {error}\n{running.log_text()[-2000:]}") from error


def receiver(bench: Bench, load: Load, target: Target) -> Receiver:
    """Return a consumer of the queue."""
    stream = target.queue_type == "stream"
    return Receiver(bench.node, QUEUE, load.lines, stream=stream, timeout_s=_SILENCE_S)


def _run_consumed(bench: Bench, running: object, load: Load, target: Target) -> Outcome:
    pid, path = running.pid, running.socket_path  # type: ignore[attr-defined]
    with receiver(bench, load, target) as consumer, Driver(path, load) as driver:
        driver.wait_warm()
        consumer.wait_warm()
        before = usage(pid)
        driver.go()
        written = driver.result()
        came = consumer.result(load.lines)
        time.sleep(_SETTLE_S)
        after = usage(pid)
    seconds = came["ended"] - written["began"]
    cpu_us = (after.cpu_s - before.cpu_s) / load.lines * 1e6
    wakeups = (after.wakeups - before.wakeups) / seconds
    return Outcome(load.lines / seconds, cpu_us, came.get("p50", 0), came.get("p99", 0), after.peak_mb, wakeups)


def _run_queued(bench: Bench, bus: Bus, running: object, load: Load, target: Target) -> Outcome:
    pid, path = running.pid, running.socket_path  # type: ignore[attr-defined]
    with Driver(path, load) as driver:
        driver.wait_warm()
        wait_until(lambda: bus.queue_depth(QUEUE) >= WARM_LINES, 30, "the warm-up lines are in the queue")
        before = usage(pid)
        driver.go()
        written = driver.result()
        wait_until(lambda: bus.queue_depth(QUEUE) >= WARM_LINES + load.lines, DEADLINE_S, "all lines are in the queue")
        seconds = time.monotonic() - written["began"]
        time.sleep(_SETTLE_S)
        after = usage(pid)
    with receiver(bench, load, target) as consumer:
        consumer.wait_warm()
        consumer.result(load.lines)
    cpu_us = (after.cpu_s - before.cpu_s) / load.lines * 1e6
    return Outcome(load.lines / seconds, cpu_us, 0, 0, after.peak_mb, 0)


def at_rate(rate: float, seconds: float, **options: object) -> Load:
    """Return a load of so many lines a second for so long."""
    return Load(int(rate * seconds), rate, **options)  # type: ignore[arg-type]


FOUR_EXCHANGES = KINDS
