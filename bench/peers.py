"""What else takes lines to a bus, in one run, each with what it guarantees."""

from __future__ import annotations

from collections import defaultdict

from bench.contestants import CONNECTOR, PEERS
from bench.driver import Load
from bench.trial import Bench, Outcome, at_rate, run

_RATES_S = {100: 6.0, 1000: 5.0}
_FULL = 0
_RELIABLE = "syslog-ng, reliable"


def measure(bench: Bench) -> None:
    """Each at 100 and 1,000 lines/s and at full speed, all of them in each round."""
    report = bench.report
    report.section("peers", f"one writer, 120-byte lines, a consumer attached; {bench.rounds} rounds in turn")
    report.note("all but the connector send the line as it is; the connector makes JSON of it")
    for contestant in PEERS:
        report.note(f"{contestant.name}: {contestant.guarantee}")
    found: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for _ in range(bench.rounds):
        for contestant in PEERS:
            for rate, seconds in _RATES_S.items():
                found[contestant.name, rate].append(run(bench, contestant, at_rate(rate, bench.seconds(seconds))))
            found[contestant.name, _FULL].append(run(bench, contestant, Load(bench.lines(contestant.full_lines))))
    for rate in (*_RATES_S, _FULL):
        where = f"at {rate:,}/s" if rate else "at full speed"
        for contestant in PEERS:
            outcomes = found[contestant.name, rate]
            report.figure(f"CPU {where}, {contestant.name}", [outcome.cpu_us for outcome in outcomes], "us a line")
            if rate:
                report.figure(f"p50 {where}, {contestant.name}", [outcome.p50_ms for outcome in outcomes], "ms")
                report.figure(f"p99 {where}, {contestant.name}", [outcome.p99_ms for outcome in outcomes], "ms")
            else:
                report.figure(f"rate {where}, {contestant.name}", [outcome.rate for outcome in outcomes], "lines/s")
    pairs = zip(found[CONNECTOR.name, 1000], found[_RELIABLE, 1000], strict=True)
    shares = [ours.cpu_us / theirs.cpu_us for ours, theirs in pairs]
    report.figure("CPU at 1,000/s, connector over syslog-ng reliable", shares, "times", at_most=1)
