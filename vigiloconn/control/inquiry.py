"""Asking all parts for problems and figures. One that can't be asked is a problem, and costs the others nothing.

Knows handlers by `problems()` and `stats()`, not what becomes of the answers.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.escape import printable
from vigiloconn.kit.greenlets import failure_of
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A problem, and the part that has it."""

    part: str
    problem: Problem


class Inquiry:
    """Asks the parts that `parts` returns. An author may have written them: whatever one raises is told and outlived.

    `is_loud`: the first failure of each is logged with its traceback.
    """

    def __init__(self, parts: Callable[[], Iterable[Handler]], *, is_loud: bool = True) -> None:
        self._parts = parts
        self._is_loud = is_loud
        self._mute: dict[tuple[Handler, str], list[Problem]] = {}
        """Which part can't be asked for what -> the problem that says so."""

    def problems(self) -> list[Found]:
        """Return the problems of all parts."""
        return [Found(name, problem) for name, part in named(self._parts()) for problem in self._problems_of(part)]

    def figures(self) -> dict[str, float]:
        """Return the figures of all parts under one name each; see `merge_figures`."""
        return merge_figures(self._parts(), self.figures_of)

    def figures_of(self, part: Handler) -> Mapping[str, float]:
        """Return the figures of one part, name -> number."""
        found: dict[str, float] = {}

        def ask() -> None:
            # A figure that is no number is its part's failure, here and not where all are told.
            found.update({str(name): value + 0 for name, value in part.stats().items()})

        self._note_failure(part, "stats", failure_of(ask))
        return found

    def details_of(self, part: Handler) -> Mapping[str, Any]:
        """Return what a part tells beside figures and problems."""
        found: dict[str, Any] = {}
        self._note_failure(part, "details", failure_of(lambda: found.update(part.details())))
        return found

    def _problems_of(self, part: Handler) -> list[Problem]:
        found: list[Problem] = []

        def ask() -> None:
            found.extend(_checked(*told) for told in part.problems())

        failed = self._note_failure(part, "problems", failure_of(ask))
        return [*found, *failed, *self._mute.get((part, "stats"), []), *self._mute.get((part, "details"), [])]

    def _note_failure(self, part: Handler, what: str, failed: BaseException | None) -> list[Problem]:
        if failed is None:
            self._mute.pop((part, what), None)
            return []
        if (part, what) not in self._mute and self._is_loud:
            log.error("%s: %s() failed", part.name, what, exc_info=failed)
        text = f"{part.name} does not tell its state: {what}() failed: {printable(repr(failed), 100)}"
        problems = self._mute[part, what] = [Problem("part-mute", Level.WARNING, text, what)]
        return problems


def _checked(name: object, level: int, text: object, about: object = "") -> Problem:
    return Problem(str(name), Level(level), str(text), str(about))


def named(parts: Iterable[Handler]) -> Iterator[tuple[str, Handler]]:
    """Return the parts with their names, each of its own: the second of the same name is `NAME 2`."""
    seen: Counter[str] = Counter()
    for part in parts:
        seen[part.name] += 1
        yield (part.name if seen[part.name] == 1 else f"{part.name} {seen[part.name]}"), part


def merge_figures(
    parts: Iterable[Handler], ask: Callable[[Handler], Mapping[str, float]] = lambda part: part.stats()
) -> dict[str, float]:
    """Return the figures of all parts. Of those that give one of the same name the first keeps the name, the others'
    get the handler's name before it (`journal_parked`). `ask` gives those of one."""
    merged: dict[str, float] = {}
    for part in parts:
        for figure, value in ask(part).items():
            merged[next(name for name in _names(part, figure) if name not in merged)] = value
    return merged


def _names(part: Handler, figure: str) -> Iterator[str]:
    prefix = re.sub(r"\W+", "_", part.name).strip("_")
    yield figure
    yield f"{prefix}_{figure}"
    number = 2
    while True:
        yield f"{prefix}_{number}_{figure}"
        number += 1
