"""An hour's lines while the bus is away, and working them off: memory, rate, and stalls of the loop."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.support import Report, connector, event_lines, fresh_queue, open_bus, wait_depth, write_all
from tests.support.rabbit import RabbitNode

_PIECE = 100_000


def measure(report: Report, node: RabbitNode, directory: Path, outage_lines: int, backlog: int, normal: float) -> None:
    """`outage_lines` are written at full speed, which is harder than at 1,000 a second; `normal` is the
    rate in messages/s that the drain is held against."""
    stall_file = directory / "stall"
    os.environ["STALL_FILE"] = str(stall_file)
    report.section(f"outage of {outage_lines:,} lines (an hour of 1,000 a second is 3,600,000), {backlog:,} sent")
    with open_bus(node) as bus:
        fresh_queue(bus)
        root = Path(__file__).resolve().parents[1]
        # The connection is refused, not the broker stopped: the queue is needed afterwards.
        process = connector(node, directory / "outage", name="bench.observed:build", bus={"heartbeat": 5}, cwd=root)
        with process:
            write_all(process.socket_path, [event_lines(0, 1000)])
            wait_depth(bus, 1000, time.monotonic())
            node.suspend_listeners()
            bus.close()
            node.close_all_connections()
            process.wait_log("bus lost")
            before = process.rss_mb()
            for done in range(0, outage_lines, _PIECE):
                write_all(process.socket_path, [event_lines(done // _PIECE, min(_PIECE, outage_lines - done))])
            growth = process.rss_mb() - before
            report.figure("resident memory before the outage", before, "MB")
            report.figure("its growth by the outage", growth, "MB", target="<= 20", met=growth <= 20)
            _drain(report, node, process, outage_lines, backlog, normal)
            time.sleep(0.5)
            stall_ms = float(stall_file.read_text())
            report.figure("longest stall of the loop in all this", stall_ms, "ms", target="<= 50", met=stall_ms <= 50)


def _drain(report: Report, node: RabbitNode, process: object, lines: int, backlog: int, normal: float) -> None:
    node.resume_listeners()
    with open_bus(node) as bus:
        cpu_before = process.cpu_s()  # type: ignore[attr-defined]
        wait_depth(bus, min(lines, 1000) + 1000, time.monotonic())
        started_at, began = bus.queue_depth("event"), time.monotonic()
        wanted = min(started_at + backlog, lines + 1000)
        seconds = wait_depth(bus, wanted, began)
        rate = (wanted - started_at) / seconds
        report.figure("normal rate, from above", normal, "messages/s")
        report.figure("rate of the drain", rate, "messages/s")
        report.figure("ratio of the two", rate / normal, "", target=">= 0.8", met=rate / normal >= 0.8)
        cpu = (process.cpu_s() - cpu_before) / (wanted - 1000) * 1e6  # type: ignore[attr-defined]
        report.figure("CPU of the connector in the drain", cpu, "us a message")
