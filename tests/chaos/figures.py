"""The connector's figures, as it tells them on the bus; and what the kernel says of its process."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from tests.chaos.consumer import Delivery


def total_figures(deliveries: Iterable[Delivery], names: Iterable[str]) -> dict[str, int]:
    """Return what the connector has counted in all its lives, as far as it has told: what falls begins anew."""
    totals: Counter[str] = Counter()
    latest: dict[str, int] = {}
    wanted = tuple(f"-{name}" for name in names)
    for delivery in deliveries:
        message = json.loads(delivery.body)
        source = message.get("datasource", "")
        if message.get("type") != "perf" or not source.endswith(wanted):
            continue
        name, value = source.rpartition("-")[2], int(message["value"])
        before = latest.get(name, 0)
        totals[name] += value - before if value >= before else value
        latest[name] = value
    return dict(totals)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a process at one time."""

    at_s: float
    pid: int
    descriptors: int
    rss_mb: float
    stall_s: float
    """The longest stall of its loop since the sample before."""


class Usage:
    """What a process, life after life, has used: at first, at most and at last, and in a long run from time to time."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._started_s = time.monotonic()

    def look(self, pid: int, stall_s: float) -> None:
        """Look at a process, which may be gone."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                used = process.num_fds(), process.memory_info().rss / 1e6
        except psutil.Error:
            used = 0, 0.0
        self.samples.append(Sample(time.monotonic() - self._started_s, pid, *used, stall_s))

    def course(self, each_s: float) -> list[str]:
        """Return a line for each `each_s` seconds: descriptors and memory at its end, the longest stall in it."""
        lines = []
        periods: dict[int, list[Sample]] = {}
        for sample in self.samples:
            periods.setdefault(int(sample.at_s // each_s), []).append(sample)
        for period, group in sorted(periods.items()):
            last = next((sample for sample in reversed(group) if sample.rss_mb), None)
            if last is not None:
                stall_ms = max(sample.stall_s for sample in group) * 1000
                lines.append(
                    f"minute {(period + 1) * each_s / 60:.0f}: {last.descriptors} descriptors, {last.rss_mb:.1f} MB, "
                    f"longest stall {stall_ms:.0f} ms, process {last.pid}"
                )
        return lines

    @property
    def stall_s(self) -> float:
        """The longest stall."""
        return max((sample.stall_s for sample in self.samples), default=0.0)

    def __str__(self) -> str:
        seen = [sample for sample in self.samples if sample.rss_mb]
        if not seen:
            return "nothing seen of its process"
        few, much = [sample.descriptors for sample in seen], [sample.rss_mb for sample in seen]
        return (
            f"loop's longest stall {self.stall_s * 1000:.0f} ms; "
            f"descriptors {few[0]} at first, {max(few)} at most, {few[-1]} at last; "
            f"memory {much[0]:.0f}, {max(much):.0f}, {much[-1]:.0f} MB"
        )
