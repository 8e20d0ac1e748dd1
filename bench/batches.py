"""Performance data, several lines in one message: `batch_send_perf`."""

from __future__ import annotations

from bench.contestants import connector_with
from bench.driver import Load
from bench.lines import Shape
from bench.trial import Bench, Target, run

_SIZES = (1, 10, 100, 500)
_LINES = 200_000
_WRITERS = 3
#: The last batch is seldom whole, and waits for so long: the default, a second, would be half of what is measured.
_LINGER_MS = 20


def measure(bench: Bench) -> None:
    """Each size at full speed."""
    report = bench.report
    report.section(
        "batches", f"performance data of {_WRITERS} writers, by batch_send_perf; {bench.rounds} rounds in turn"
    )
    report.note(f"with batch_linger_ms = {_LINGER_MS}: the last batch is seldom whole, and waits for that long")
    outcomes = {size: [] for size in _SIZES}
    for _ in range(bench.rounds):
        for size in _SIZES:
            bus = {"batch_send_perf": size, "batch_linger_ms": _LINGER_MS}
            contestant = connector_with(f"batches of {size}", bus=bus)
            lines = bench.lines(_LINES if size > 1 else _LINES // 2) // _WRITERS * _WRITERS
            load = Load(lines, writers=_WRITERS, shape=Shape("perf"))
            outcomes[size].append(run(bench, contestant, load, Target(exchanges=("perf",))))
    for size, found in outcomes.items():
        wanted = 120_000 if size == 100 else None
        report.figure(f"batches of {size}: full speed", [outcome.rate for outcome in found], "lines/s", at_least=wanted)
        report.figure(f"batches of {size}: CPU", [outcome.cpu_us for outcome in found], "us a line")
