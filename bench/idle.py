"""What a connector costs that has nothing to do."""

from __future__ import annotations

import contextlib
import time

from bench.procfs import usage
from bench.support import connector, fresh_queue, open_bus
from bench.trial import Bench

_CONNECTIONS = 10
_SETTLE_S = 3.0


def measure(bench: Bench) -> None:
    """Ten writers that write nothing, a broker that is connected."""
    seconds = 10.0 if bench.quick else 60.0
    bench.report.section("idle", f"{_CONNECTIONS} connections on which nothing is written, for {seconds:g} s")
    with open_bus(bench.node) as bus:
        fresh_queue(bus)
        # Where its own figures go: a connector that waits for an exchange is not idle.
        for exchange in ("perf", "nagios"):
            bus.declare_exchange(exchange, "fanout")
            bus.declare_queue(exchange)
            bus.bind(exchange, exchange, exchange)
    process = connector(bench.node, bench.names.fresh())
    with process, contextlib.ExitStack() as writers:
        links = [writers.enter_context(process.writer()) for _ in range(_CONNECTIONS)]
        for link in links:
            link.send("event|1165939739|srv1|Load|OK|hello")
            link.sync()
        time.sleep(_SETTLE_S)
        before = usage(process.process.pid)
        time.sleep(seconds)
        after = usage(process.process.pid)
    report = bench.report
    report.figure("CPU when idle", (after.cpu_s - before.cpu_s) / seconds * 100, "% of a core", at_most=0.1)
    report.figure("wake-ups when idle", (after.wakeups - before.wakeups) / seconds, "a second", at_most=3)
    report.figure("memory when idle", after.rss_mb, "MB")
