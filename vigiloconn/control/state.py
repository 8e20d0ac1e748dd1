"""The state of a connector: which problems there are, since when. Said in the log as it changes, and while it lasts.

Knows problems and time, both handed in; not the parts that have them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vigiloconn.control.advice import advice_for
from vigiloconn.control.inquiry import Found
from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.spans import span

log = logging.getLogger(__name__)

LEVELS = ("OK", "WARNING", "CRITICAL")
#: How often a state that is not OK is said again.
REMIND_S = 300.0
#: A problem that was there for less than this is not worth two lines: a start, a reconnect.
TOLD_AFTER_S = 2.0
#: Nagios reads commands of up to 8 KiB, but what an operator reads at a glance is one line.
_MAX_TEXT = 400
#: `;` ends a field and `|` the text, a backslash may begin a second line, a real newline a second command.
_UNSAFE = {ord(";"): ",", ord("|"): "/", ord("\\"): "/", **dict.fromkeys([*range(32), 127, 0x85, 0x2028, 0x2029], " ")}


class Standing(NamedTuple):
    """A problem that is there."""

    part: str
    problem: Problem
    since: float
    """UNIX seconds, for people."""
    since_s: float
    """Monotonic seconds, for durations."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same problem, whatever its words say by now."""
        return self.part, self.problem.name, self.problem.about


class State(NamedTuple):
    """How the connector is."""

    level: int
    """0, or that of the worst problem: Nagios' numbers."""
    text: str
    """One line: `running`, or the problems, the worst first."""
    since: float
    """UNIX seconds: since when it has had this level."""
    since_s: float
    standing: tuple[Standing, ...]
    """The problems, the worst first, the oldest of them first."""

    @property
    def word(self) -> str:
        """The level in Nagios' word."""
        return LEVELS[self.level]


class StateLog:
    """Remembers since when each problem is there, and writes its beginning and its end into the log.

    `clock` gives monotonic seconds and `wall` UNIX seconds. `backlog` tells in a few words what waits.
    """

    def __init__(
        self,
        backlog: Callable[[], str] = lambda: "",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._backlog = backlog
        self._clock = clock
        self._wall = wall
        self._told: dict[tuple[str, str, str], Standing] = {}
        self._remind_at_s = 0.0
        self._told_level = 0
        self.state = State(0, "running", wall(), clock(), ())

    def look(self, found: Iterable[Found]) -> State:
        """Take up the problems that there are now, and return the state."""
        known = {standing.key: standing for standing in self.state.standing}
        now, now_s = self._wall(), self._clock()
        standing: dict[tuple[str, str, str], Standing] = {}
        for part, problem in found:
            fresh = Standing(part, problem, now, now_s)
            before = known.get(fresh.key, fresh)
            standing.setdefault(fresh.key, before._replace(problem=problem))
        ordered = sorted(standing.values(), key=lambda one: (-one.problem.level, one.since_s))
        level, text = describe_state(one.problem for one in ordered)
        is_same = level == self.state.level
        since, since_s = (self.state.since, self.state.since_s) if is_same else (now, now_s)
        self.state = State(level, text, since, since_s, tuple(ordered))
        self._say(standing, now_s)
        return self.state

    def _say(self, standing: dict[tuple[str, str, str], Standing], now_s: float) -> None:
        over = [self._told.pop(key) for key in self._told.keys() - standing.keys()]
        for one in sorted(over, key=lambda one: one.since_s):
            log.info("problem over after %s: %s", span(now_s - one.since_s), _name(one))
        begun = [
            one for key, one in standing.items()
            if key not in self._told and now_s - one.since_s >= TOLD_AFTER_S
        ]  # fmt: skip
        for one in begun:
            self._told[one.key] = one
            level = logging.ERROR if one.problem.level is Level.CRITICAL else logging.WARNING
            advice = advice_for(one.problem.name)
            log.log(level, "problem: %s: %s%s", _name(one), one.problem.text, f" -- {advice}" if advice else "")
        if over or begun or (self._told and now_s >= self._remind_at_s):
            self._say_state(now_s)

    def _say_state(self, now_s: float) -> None:
        self._remind_at_s = now_s + REMIND_S
        # All that stands, be it told or not: a state that is not OK is never called so.
        worst = self.state.level
        is_new, self._told_level = worst != self._told_level, worst
        names = ", ".join(_name(standing) for standing in self.state.standing)
        lasts = "" if is_new else f" for {span(now_s - self.state.since_s)}"
        backlog = self._backlog()
        log.log(
            (logging.INFO, logging.WARNING, logging.ERROR)[worst], "state: %s%s: %s%s",
            LEVELS[worst], lasts, names or "running", f"; {backlog}" if backlog else "",
        )  # fmt: skip


def _name(standing: Standing) -> str:
    problem = standing.problem
    about = f" ({problem.about})" if problem.about else ""
    return f"{problem.name}{about}"


def describe_state(problems: Iterable[Problem]) -> tuple[int, str]:
    """Return the worst level and one line of text, without what Nagios would take for more than text."""
    worst_first = sorted(problems, key=lambda problem: -problem.level)
    if not worst_first:
        return 0, "running"
    texts = dict.fromkeys(" ".join(problem.text.translate(_UNSAFE).split()) for problem in worst_first)
    text = ", ".join(texts)
    return int(worst_first[0].level), text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."
