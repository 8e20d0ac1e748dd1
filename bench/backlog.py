"""A backlog while no broker is there: appending it, its size, starting on it, sending it; and the loop's stalls."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from statistics import median

from bench.driver import Driver, Load
from bench.procfs import usage
from bench.support import QUEUE, connector, fresh_queue, open_bus, wait_depth
from bench.trial import QUEUE_WITH_CONSUMER, Bench, receiver
from tests.support.connector import ConnectorProcess

_WRITERS = 3
_DRAINED = 500_000
_STARTS = 3
_STOP_S = 60.0


def measure(bench: Bench) -> None:
    """One million, then five; where it has to be quick a tenth and no more."""
    report = bench.report
    sizes = (200_000,) if bench.quick else (1_000_000, 5_000_000)
    report.section("backlog", f"lines by {_WRITERS} writers while there is no broker, then a start, then the broker")
    empty_s = _starts(bench, bench.names.fresh())
    report.figure("start, empty journal", empty_s, "s")
    for size in sizes:
        _measure_size(bench, size // _WRITERS * _WRITERS, median(empty_s))
    _measure_stall(bench)


def _starts(bench: Bench, directory: Path) -> list[float]:
    """Return the seconds from launch to a socket that takes connections, some times, each after an orderly stop."""
    times = []
    for _ in range(_STARTS):
        began = time.monotonic()
        with connector(bench.node, directory, bus={"hosts": "127.0.0.1:1"}) as process:
            times.append(time.monotonic() - began)
            _stop(process)
    return times


def _stop(process: ConnectorProcess) -> None:
    if process.terminate(_STOP_S) != 0:
        raise AssertionError(process.log_text())


def _measure_size(bench: Bench, size: int, empty_s: float) -> None:
    report, directory = bench.report, bench.names.fresh()
    name = f"{size / 1e6:.1f} million" if size < 999_000 else f"{round(size / 1e6)} million"
    with connector(bench.node, directory, bus={"hosts": "127.0.0.1:1"}) as process:
        pid = process.process.pid
        before = usage(pid)
        with Driver(process.socket_path, Load(size, writers=_WRITERS, sync=True)) as driver:
            driver.wait_warm()
            driver.go()
            written = driver.result()
        after = usage(pid)
        _stop(process)
    seconds = written["ended"] - written["began"]
    report.figure(f"{name}: appended", size / seconds, "lines/s")
    report.figure(f"{name}: CPU of appending", (after.cpu_s - before.cpu_s) / size * 1e6, "us a line")
    report.figure(f"{name}: memory, growth", after.rss_mb - before.rss_mb, "MB", at_most=20)
    file_bytes = process.journal_path.stat().st_size
    report.figure(f"{name}: file", file_bytes / 1e6, "MB")
    report.figure(f"{name}: file, a line", file_bytes / size, "bytes")
    starts = _starts(bench, directory)
    report.figure(f"{name}: start after an orderly stop", starts, "s")
    ratios = [value / empty_s for value in starts]
    report.figure(f"{name}: start over that of an empty journal", ratios, "times", at_most=2)
    _drain(bench, directory, name, min(size, _DRAINED))


def _drain(bench: Bench, directory: Path, name: str, wanted: int) -> None:
    with open_bus(bench.node) as bus:
        fresh_queue(bus)
        with connector(bench.node, directory) as process:
            wait_depth(bus, 2000, time.monotonic())
            first, began, before = bus.queue_depth(QUEUE), time.monotonic(), usage(process.process.pid)
            wait_depth(bus, wanted, began)
            sent, seconds, after = bus.queue_depth(QUEUE) - first, time.monotonic() - began, usage(process.process.pid)
        bus.channel.queue_purge(QUEUE)
    bench.report.figure(f"{name}: sent from the journal", sent / seconds, "messages/s")
    bench.report.figure(f"{name}: CPU of sending", (after.cpu_s - before.cpu_s) / sent * 1e6, "us a message")
    bench.report.figure(f"{name}: memory at most while sending", after.peak_mb, "MB")


def _measure_stall(bench: Bench) -> None:
    """Three greedy writers and a consumer; a monitor in the process notes what kept the loop for longest."""
    directory = bench.names.fresh()
    directory.mkdir()
    stall_file = directory / "stall"
    load = Load(bench.lines(150_000) // _WRITERS * _WRITERS, writers=_WRITERS, sync=True)
    with open_bus(bench.node) as bus:
        fresh_queue(bus)
    process = connector(bench.node, directory, name="bench.observed:build", environment={"STALL_FILE": str(stall_file)})
    with (
        process,
        receiver(bench, load, QUEUE_WITH_CONSUMER) as consumer,
        Driver(process.socket_path, load) as driver,
    ):
        driver.wait_warm()
        consumer.wait_warm()
        # The monitor begins anew: a start is not what is asked about.
        process.process.send_signal(signal.SIGHUP)
        driver.go()
        driver.result()
        consumer.result(load.lines)
        time.sleep(0.5)
        stall_ms, cpu_ms = map(float, stall_file.read_text().split())
    bench.report.figure("longest stall of the loop, 3 greedy writers", stall_ms, "ms", at_most=25)
    bench.report.figure("CPU of the loop's thread in one such stretch, at most", cpu_ms, "ms")
