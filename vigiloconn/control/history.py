"""The last hours in numbers: one row every ten seconds, in memory of a fixed size. Pure; the clock is handed in."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

PERIOD_S = 10.0
HOURS = 8
_ROWS = int(HOURS * 3600 / PERIOD_S)


class History:
    """A ring of rows, one value for each of `names` in a row; `time` is UNIX seconds and comes first."""

    def __init__(self, names: tuple[str, ...], rows: int = _ROWS) -> None:
        self.names = ("time", *names)
        self._rows = rows
        self._columns = [array("d") for _ in self.names]
        self._next = 0
        self._due_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Answer whether it is time for a row (monotonic seconds); if so, the next one is due a period later."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + PERIOD_S
        return True

    def add(self, at: float, values: Mapping[str, float]) -> None:
        """Keep a row; the oldest one goes when there is no more room."""
        row = (at, *(values[name] for name in self.names[1:]))
        is_full = len(self._columns[0]) == self._rows
        for column, value in zip(self._columns, row, strict=True):
            if is_full:
                column[self._next] = value
            else:
                column.append(value)
        if is_full:
            self._next = (self._next + 1) % self._rows

    def since(self, at: float) -> dict[str, list[float]]:
        """Return the rows since a time, the oldest first, by columns."""
        ordered = [[*column[self._next:], *column[:self._next]] for column in self._columns]
        first = next((index for index, time in enumerate(ordered[0]) if time >= at), len(ordered[0]))
        return {name: column[first:] for name, column in zip(self.names, ordered, strict=True)}
