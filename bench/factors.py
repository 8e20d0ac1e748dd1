"""One factor at a time around the standard case: line size, queue type, exchanges, routing keys, writers, batches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from bench.contestants import CONNECTOR, Contestant, connector_with
from bench.driver import Load
from bench.lines import STANDARD, Shape
from bench.trial import FOUR_EXCHANGES, QUEUE_WITH_CONSUMER, Bench, Outcome, Target, at_rate, run

_RATE = 1000
_SECONDS = 5.0
_LINES = 50_000
#: A line of 4 KB is forty standard ones.
_FEWER = {4096: 5}
_HUNDRED = tuple(f"event{number:02d}" for number in range(100))


@dataclass(frozen=True)
class Case:
    """The standard case but for one thing."""

    name: str
    contestant: Contestant = CONNECTOR
    shape: Shape = STANDARD
    target: Target = QUEUE_WITH_CONSUMER
    writers: int = 1


CASES = (
    Case("standard: 120 B, classic, 1 exchange, 1 key, 1 writer"),
    Case("lines of 80 B", shape=replace(STANDARD, line_bytes=80)),
    Case("lines of 500 B", shape=replace(STANDARD, line_bytes=500)),
    Case("lines of 4 KB", shape=replace(STANDARD, line_bytes=4096)),
    Case("quorum queue", target=Target("quorum")),
    Case("stream", target=Target("stream")),
    Case("4 exchanges", shape=replace(STANDARD, lanes=4), target=Target(exchanges=FOUR_EXCHANGES)),
    Case(
        "100 exchanges", connector_with("100 exchanges", name="bench.manytypes:build"), replace(STANDARD, lanes=100),
        Target(exchanges=_HUNDRED),
    ),
    Case("30 routing keys", shape=replace(STANDARD, keys=30)),
    Case("1,000 routing keys", shape=replace(STANDARD, keys=1000)),
    Case("3 writers", writers=3),
    Case("50 writers", writers=50),
)  # fmt: skip
_QUICK = {CASES[0].name, "lines of 4 KB", "quorum queue", "100 exchanges", "1,000 routing keys", "50 writers"}


def measure(bench: Bench) -> None:
    """Each case at 1,000 lines/s and at full speed, all of them in each round."""
    report, rounds = bench.report, min(bench.rounds, 2)
    report.section("factors", f"one thing varied, at {_RATE:,}/s and at full speed; {rounds} rounds in turn")
    report.note("100 exchanges: by a custom connector that renames each line's type, which is part of the cost")
    cases = [case for case in CASES if not bench.quick or case.name in _QUICK]
    paced: dict[str, list[Outcome]] = defaultdict(list)
    full: dict[str, list[Outcome]] = defaultdict(list)
    for _ in range(rounds):
        for case in cases:
            lines = bench.lines(_LINES) // _FEWER.get(case.shape.line_bytes, 1) // case.writers * case.writers
            gentle = at_rate(_RATE, bench.seconds(_SECONDS), writers=case.writers, shape=case.shape)
            gentle = replace(gentle, lines=gentle.lines // case.writers * case.writers)
            paced[case.name].append(run(bench, case.contestant, gentle, case.target))
            quick = Load(lines, writers=case.writers, shape=case.shape)
            full[case.name].append(run(bench, case.contestant, quick, case.target))
    for case in cases:
        gentle_ones, quick_ones = paced[case.name], full[case.name]
        report.figure(f"{case.name}: CPU at {_RATE:,}/s", [outcome.cpu_us for outcome in gentle_ones], "us a line")
        report.figure(f"{case.name}: p99 at {_RATE:,}/s", [outcome.p99_ms for outcome in gentle_ones], "ms")
        report.figure(f"{case.name}: full speed", [outcome.rate for outcome in quick_ones], "lines/s")
        report.figure(f"{case.name}: CPU at full speed", [outcome.cpu_us for outcome in quick_ones], "us a line")
    memory = [outcome.rss_mb for outcome in full["50 writers"]]
    report.figure("memory at most, 50 writers", memory, "MB", at_most=60)
