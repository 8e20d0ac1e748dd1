"""Ids of messages that are finished, as runs of consecutive ones. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Run = tuple[int, int]
"""(first, last): names each id from `first` to `last`."""


#: What SQLite may use as a row's id.
LOWEST_ID = -(2**63)


def runs_of(ids: Iterable[int]) -> list[Run]:
    """Return `ids`, in any order, as ascending runs. A run spans no id that is not among them."""
    ordered = sorted(set(ids))
    # The usual case, told without a look at each. Counted: a kill puts 10^12 ids between two that finish together.
    if ordered and ordered[-1] - ordered[0] == len(ordered) - 1:
        return [(ordered[0], ordered[-1])]
    return _joined((id, id) for id in ordered)


def merged(*groups: Iterable[Run]) -> list[Run]:
    """Return the runs of all groups as ascending ones, those that touch or overlap made one."""
    return _joined(sorted(run for group in groups for run in group))


def gaps(runs: Iterable[Run], upto: int) -> list[Run]:
    """Return the runs of the ids up to `upto` that `runs`, ascending, don't name; the lowest begins at `LOWEST_ID`."""
    found: list[Run] = []
    first = LOWEST_ID
    for run in runs:
        if first > upto:
            break
        if first < run[0]:
            found.append((first, min(run[0] - 1, upto)))
        first = run[1] + 1
    if first <= upto:
        found.append((first, upto))
    return found


class FinishedIds:
    """Gathers ids until a transaction has deleted their rows.

    As runs they take little memory, even while nothing can be written for hours.
    """

    def __init__(self) -> None:
        self._runs: tuple[Run, ...] = ()
        self._fresh: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._runs or self._fresh)

    def add(self, ids: Iterable[int]) -> None:
        """Gather more. An id that comes twice does no harm."""
        self._fresh += ids

    def runs(self) -> tuple[Run, ...]:
        """Return all that was gathered, for one transaction."""
        if self._fresh:
            self._runs = tuple(merged(self._runs, runs_of(self._fresh)))
            self._fresh = []
        return self._runs

    def forget(self, done: Sequence[Run]) -> None:
        """Drop what `runs` returned last: its rows are deleted. What was added since stays."""
        if self._runs is done:
            self._runs = ()


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Return ascending runs with those that touch or overlap made one."""
    joined: list[Run] = []
    at: Run | None = None
    for run in runs:
        if at is None or run[0] > at[1] + 1:
            if at is not None:
                joined.append(at)
            at = run
        elif run[1] > at[1]:
            at = (at[0], run[1])
    if at is not None:
        joined.append(at)
    return joined
