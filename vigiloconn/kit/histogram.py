"""How long things took, counted in ranges. Pure: knows numbers, not what they measure."""

from __future__ import annotations

from bisect import bisect_left

#: Seconds: from one commit of an idle connector to an outage of a week.
BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400, 604800,
)  # fmt: skip


class Histogram:
    """Counts of values up to each bound. Values that were measured together are counted by one call."""

    __slots__ = ("bounds", "counts", "number", "total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values up to each bound and above the one before it; the last: above all bounds."""
        self.number = 0
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float, number: int = 1) -> None:
        """Count a value `number` times."""
        self.counts[bisect_left(self.bounds, value)] += number
        self.number += number
        self.total += value * number

    def cumulative(self) -> list[tuple[str, int]]:
        """Return (bound as a text, values up to it), the last bound being `+Inf`."""
        rows, upto = [], 0
        for bound, count in zip([*map(repr, map(float, self.bounds)), "+Inf"], self.counts, strict=True):
            upto += count
            rows.append((bound, upto))
        return rows
