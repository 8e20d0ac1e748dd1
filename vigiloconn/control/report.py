"""The whole connector as one document: `/status`. Knows how it is put together, not who reads it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vigiloconn import __version__
from vigiloconn.control.advice import advice_for
from vigiloconn.control.exchange import HTML, Refused, Reply, Request, as_json
from vigiloconn.control.flow import COUNTERS, Totals, backlog_text, totals
from vigiloconn.control.history import PERIOD_S, History
from vigiloconn.control.inquiry import Inquiry, named
from vigiloconn.control.journalfile import Contents
from vigiloconn.control.lookout import JournalFile
from vigiloconn.control.page import PAGE
from vigiloconn.control.rates import LONG_S, SHORT_S, Meter, drain_s
from vigiloconn.control.state import Standing, StateLog
from vigiloconn.kit.histogram import Histogram
from vigiloconn.kit.memory import process_memory
from vigiloconn.kit.spans import span
from vigiloconn.supervisor import Handler, Supervisor

#: What a row of the history has.
COLUMNS = ("in_per_s", "out_per_s", "waiting", "oldest_s", "acceptance_s", "confirm_s")
#: How long a request waits for what stands in the file; a disk that takes longer gives what was seen before.
_WAIT_S = 1.0


class Insight(NamedTuple):
    """What a report needs beside the parts."""

    oldest_s: Callable[[], float]
    """Age of the oldest message in memory."""
    ages: tuple[JournalFile, ...]
    """For the age of the oldest message."""
    files: tuple[JournalFile, ...]
    """For the kinds of parked messages."""
    acceptance: Histogram
    confirm: Histogram


class Report:
    """Answers `/status`, `/history` and the page; `watch` is to be called once a second with monotonic seconds."""

    def __init__(
        self, name: str, supervisor: Supervisor, inquiry: Inquiry, state_log: StateLog, insight: Insight,
        *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._supervisor = supervisor
        self._inquiry = inquiry
        self._state_log = state_log
        self._insight = insight
        self._clock = clock
        self._wall = wall
        self._began_s = clock()
        self._meter = Meter()
        self._history = History(COLUMNS)
        self._looked_at = (0.0, 0.0)
        self._lately = _Lately(insight.acceptance), _Lately(insight.confirm)

    # -- watching --------------------------------------------------------------------------------------------

    def watch(self, now_s: float) -> None:
        """Take up what there is now."""
        now = self._totals()
        self._meter.take(now_s, {name: getattr(now, name) for name in COUNTERS})
        self._look(now)
        if self._history.is_due(now_s):
            acceptance, confirm = self._lately
            values = {
                "in_per_s": self._meter.rate("accepted", SHORT_S) or self._meter.rate("consumed", SHORT_S),
                "out_per_s": self._meter.rate("confirmed", SHORT_S) or self._meter.rate("acknowledged", SHORT_S),
                "waiting": now.waiting,
                "oldest_s": self._oldest_s(now),
                "acceptance_s": acceptance.mean_s(),
                "confirm_s": confirm.mean_s(),
            }
            self._history.add(self._wall(), values)

    def _look(self, now: Totals) -> None:
        """Let the oldest message's age be read where it may be another message now: an age grows by itself."""
        seen_at, self._looked_at = self._looked_at, (now.waiting, now.finished)
        for file in self._insight.ages if now.waiting else ():
            file.seen(PERIOD_S if self._looked_at == seen_at else 0.0)

    def backlog(self) -> tuple[Totals, float]:
        """Return the totals, and the age of the oldest message in seconds."""
        now = self._totals()
        return now, self._oldest_s(now)

    def line(self) -> str:
        """Return the state and what waits, in one line."""
        state = self._state_log.state
        backlog = backlog_text(*self.backlog(), span)
        return f"{state.word}: {state.text}{'; ' if backlog else ''}{backlog}"

    def _totals(self) -> Totals:
        return totals(self._supervisor.handlers, self._inquiry)

    def _oldest_s(self, now: Totals) -> float:
        if not now.waiting:
            return 0.0
        return max([self._insight.oldest_s(), *(file.oldest_s() for file in self._insight.ages)])

    # -- answers ---------------------------------------------------------------------------------------------

    def status(self, request: Request) -> Reply:
        """Answer with everything."""
        return as_json(self.document())

    def history(self, request: Request) -> Reply:
        """Answer with the rows of the last hour, or of `hours`."""
        try:
            hours = float(request.query.get("hours", "1"))
        except ValueError:
            raise Refused(f"hours: expected a number, got {request.query['hours']!r}") from None
        return as_json(self._history.since(self._wall() - hours * 3600))

    def page(self, request: Request) -> Reply:
        """Answer with the page that a person looks at."""
        return Reply(PAGE, HTML)

    def document(self) -> dict[str, Any]:
        """Return everything, as JSON can hold it."""
        now = self._totals()
        contents = [file.seen(0.0, _WAIT_S) for file in self._insight.files if now.parked]
        for file in self._insight.ages if now.waiting else ():
            file.seen(0.0, _WAIT_S)
        handlers = dict(named(self._supervisor.handlers))
        details = {name: self._inquiry.details_of(part) for name, part in handlers.items()}
        parts = [self._part(name, part, details[name]) for name, part in handlers.items()]
        return {
            "connector": self._name,
            "version": __version__,
            "pid": os.getpid(),
            "time": round(self._wall(), 3),
            "uptime_s": round(self._clock() - self._began_s, 1),
            "state": self._state(),
            "flow": self._flow(now, _is_connected(details)),
            "latency": {
                "acceptance": _latency(self._insight.acceptance), "confirm": _latency(self._insight.confirm),
            },
            "brokers": {
                name: told for name, told in details.items() if "broker" in told
            },
            "exchanges": [exchange for told in details.values() for exchange in told.get("exchanges", ())],
            "held": _held(details),
            "parked": _parked(contents),
            "dead_lettered": now.dead_lettered,
            "files": [
                _followed(part["name"], part["figures"]) for part in parts if "follow_position" in part["figures"]
            ],
            "parts": parts,
            "process": process_memory(),
        }  # fmt: skip

    def _state(self) -> dict[str, Any]:
        state = self._state_log.look(self._inquiry.problems())
        now_s = self._clock()
        return {
            "level": state.level,
            "word": state.word,
            "text": state.text,
            "since": round(state.since, 3),
            "for_s": round(now_s - state.since_s, 1),
            "problems": [_problem(standing, now_s) for standing in state.standing],
        }

    def _flow(self, now: Totals, is_connected: bool) -> dict[str, Any]:
        rates = {
            name: {"10s": round(self._meter.rate(name, SHORT_S), 2), "5min": round(self._meter.rate(name, LONG_S), 2)}
            for name in COUNTERS
        }
        # Without a connection the rates are those of before.
        leaving_per_s = rates["finished"]["10s"] if is_connected else 0.0
        left_s = drain_s(now.waiting, rates["accepted"]["10s"], leaving_per_s)
        return {
            "in_per_s": rates["accepted"],
            "out_per_s": rates["confirmed"],
            "consumed_per_s": rates["consumed"],
            "acknowledged_per_s": rates["acknowledged"],
            "waiting": now.waiting,
            "waiting_bytes": now.waiting_bytes,
            "oldest_s": round(self._oldest_s(now), 1),
            "in_flight": now.in_flight,
            "parked": now.parked,
            "drained_in_s": round(left_s, 1) if left_s is not None else None,
        }

    def _part(self, name: str, part: Handler, details: Mapping[str, Any]) -> dict[str, Any]:
        life = self._supervisor.life_of(part)
        return {
            "name": name,
            "state": life.state,
            "for_s": round(max(0.0, self._clock() - life.since_s), 1),
            "crashes": life.crashes,
            "figures": dict(self._inquiry.figures_of(part)),
            "details": dict(details),
        }


def _is_connected(details: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(told.get("broker") is not None for told in details.values())


class _Lately:
    """The mean of what a histogram has counted since it was last asked."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._before = (0, 0.0)

    def mean_s(self) -> float:
        number, total = self._before
        self._before = (self._histogram.number, self._histogram.total)
        grown = self._histogram.number - number
        # JSON's null: nothing took no time.
        return (self._histogram.total - total) / grown if grown else math.nan


def _problem(standing: Standing, now_s: float) -> dict[str, Any]:
    problem = standing.problem
    return {
        "name": problem.name,
        "level": int(problem.level),
        "part": standing.part,
        "about": problem.about,
        "text": problem.text,
        "since": round(standing.since, 3),
        "for_s": round(now_s - standing.since_s, 1),
        "what_to_do": advice_for(problem.name),
    }


def _latency(histogram: Histogram) -> dict[str, Any]:
    number = histogram.number
    mean_s = round(histogram.total / number, 6) if number else None
    return {"messages": number, "mean_s": mean_s, "at_most": dict(histogram.cumulative())}


def _held(details: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    exchanges = [exchange for told in details.values() for exchange in told.get("exchanges", ())]
    return [
        {
            "exchange": exchange["exchange"], "messages": exchange["held"], "state": exchange["state"],
            "reason": exchange["reason"], "next_try_s": exchange["next_try_s"],
        }
        for exchange in exchanges
        if exchange["state"] != "open"
    ]  # fmt: skip


def _parked(contents: list[Contents]) -> list[dict[str, Any]]:
    return [
        {"exchange": kind.exchange, "reason": kind.reason, "messages": kind.messages,
         "oldest_s": round(kind.oldest_s, 1)}
        for seen in contents
        for kind in seen.parked
    ]  # fmt: skip


def _followed(part: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """Return how far a followed file is read, and how much of it is not."""
    return {
        "part": part, "position": figures["follow_position"], "lag_bytes": figures["follow_lag_bytes"],
        "lag_s": round(figures["follow_lag_s"], 1),
    }  # fmt: skip
