"""CPU a line and latency by rate, around the standard case, beside baselines of the same rounds."""

from __future__ import annotations

from collections import defaultdict

from bench.contestants import COMMITTED, CONNECTOR, OVERFLOW, UNCONFIRMED
from bench.trial import Bench, Outcome, at_rate, run

_RATES_S = {10: 20.0, 100: 10.0, 1000: 8.0, 5000: 6.0}
_LIMITS = {100: (3.0, 7.0), 1000: (6.0, 15.0)}
#: How much dearer than the bare loop a line may be.
_OVER_BARE = 1.5


def measure(bench: Bench) -> None:
    """Run each contestant at each rate, all of them in each round."""
    report = bench.report
    report.section("rates", f"one writer, one line a write, a consumer attached; {bench.rounds} rounds in turn")
    report.note("latency runs from the write on the socket to the consumer; the baselines send the line as it is")
    found: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for _ in range(bench.rounds):
        for rate, seconds in _RATES_S.items():
            for contestant in (CONNECTOR, COMMITTED, UNCONFIRMED, OVERFLOW):
                if contestant in (COMMITTED, UNCONFIRMED) and rate not in _LIMITS:
                    continue
                if contestant is OVERFLOW and rate < 1000:
                    continue
                found[contestant.name, rate].append(run(bench, contestant, at_rate(rate, bench.seconds(seconds))))
    for (name, rate), outcomes in sorted(found.items(), key=lambda item: (item[0][1], item[0][0] != CONNECTOR.name)):
        p50, p99 = _LIMITS.get(rate, (None, None)) if name == CONNECTOR.name else (None, None)
        report.figure(f"CPU at {rate:,}/s, {name}", [outcome.cpu_us for outcome in outcomes], "us a line")
        report.figure(f"p50 at {rate:,}/s, {name}", [outcome.p50_ms for outcome in outcomes], "ms", at_most=p50)
        report.figure(f"p99 at {rate:,}/s, {name}", [outcome.p99_ms for outcome in outcomes], "ms", at_most=p99)
    for rate in _LIMITS:
        ours, bare = found[CONNECTOR.name, rate], found[COMMITTED.name, rate]
        report.figure(
            f"CPU at {rate:,}/s, connector over the bare loop",
            [mine.cpu_us / theirs.cpu_us for mine, theirs in zip(ours, bare, strict=True)], "times", at_most=_OVER_BARE,
        )  # fmt: skip
    pairs = zip(found[OVERFLOW.name, 5000], found[CONNECTOR.name, 5000], strict=True)
    report.figure("p99 at 5,000/s, overflow over journal", [a.p99_ms / b.p99_ms for a, b in pairs], "times", at_most=1)
