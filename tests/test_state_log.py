"""What is said of problems, and when: on a scripted clock."""

from __future__ import annotations

import logging

import pytest

from vigiloconn.control.inquiry import Found
from vigiloconn.control.state import REMIND_S, TOLD_AFTER_S, StateLog
from vigiloconn.interfaces import Level, Problem

AWAY = Found("client", Problem("bus-away", Level.WARNING, "no connection to the bus: it sleeps"))
FULL = Found("journal", Problem("journal-full", Level.CRITICAL, "the journal is full: 7 messages"))


def held(exchange: str, count: int = 1) -> Found:
    text = f"exchange {exchange} is held, {count} messages wait"
    return Found("publisher", Problem("exchange-held", Level.WARNING, text, exchange))


class Told:
    """A state log with a clock by hand, and what it has written."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now_s = 100.0
        self.log = StateLog(lambda: "12 messages wait", clock=lambda: self.now_s, wall=lambda: self.now_s + 1e9)

    def look(self, *found: Found, after_s: float = 0.0) -> list[str]:
        """Return the lines of one look."""
        self._caplog.clear()
        self.now_s += after_s
        self.log.look(found)
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_nothing_wrong_is_not_worth_a_line(told: Told) -> None:
    assert told.look() == told.look(after_s=REMIND_S * 2) == []
    assert told.log.state[:2] == (0, "running")


def test_a_problem_is_said_with_what_to_do_when_it_has_lasted_and_again_when_it_is_over(told: Told) -> None:
    assert told.look(AWAY) == []
    lines = told.look(AWAY, after_s=TOLD_AFTER_S)
    assert lines[0].startswith("problem: bus-away: no connection to the bus: it sleeps -- start the broker")
    assert lines[1:] == ["state: WARNING: bus-away; 12 messages wait"]
    assert told.look(AWAY, after_s=60) == []
    assert told.look(after_s=1) == [
        "problem over after 1 min 3 s: bus-away", "state: OK: running; 12 messages wait",
    ]  # fmt: skip


def test_a_problem_of_a_moment_stands_in_the_state_and_not_in_the_log(told: Told) -> None:
    assert told.look(AWAY) == []
    assert told.log.state.word == "WARNING"
    assert told.look(after_s=TOLD_AFTER_S / 2) == []
    assert told.log.state.word == "OK"


def test_what_lasts_is_said_again_in_five_minutes(told: Told) -> None:
    told.look(AWAY)
    told.look(AWAY, after_s=TOLD_AFTER_S)
    assert told.look(AWAY, after_s=REMIND_S - 1) == []
    assert told.look(AWAY, after_s=1) == ["state: WARNING for 5 min 2 s: bus-away; 12 messages wait"]
    assert told.look(AWAY, after_s=1) == []


def test_words_and_counts_that_change_are_the_same_problem_and_another_exchange_is_another(told: Told) -> None:
    told.look(held("a", 1))
    told.look(held("a", 1), after_s=TOLD_AFTER_S)
    assert told.look(held("a", 500), after_s=5) == []
    [standing] = told.log.state.standing
    assert (standing.since, standing.problem.text) == (1e9 + 100, "exchange a is held, 500 messages wait")
    told.look(held("a"), held("b"))
    lines = told.look(held("a"), held("b"), after_s=TOLD_AFTER_S)
    assert lines[0].startswith("problem: exchange-held (b):")


def test_the_worst_problem_is_the_state_and_the_level_counts_since_it_has_that(told: Told) -> None:
    told.look(AWAY)
    told.look(AWAY, FULL, after_s=60)
    state = told.log.state
    assert (state.word, state.since_s) == ("CRITICAL", 160.0)
    assert [standing.problem.name for standing in state.standing] == ["journal-full", "bus-away"]
    told.look(AWAY, after_s=5)
    assert (told.log.state.word, told.log.state.since_s) == ("WARNING", 165.0)
    assert told.log.state.standing[0].since_s == 100.0


def test_the_state_is_never_called_ok_while_there_is_a_problem_that_is_not_worth_a_line_yet(told: Told) -> None:
    told.look(FULL)
    told.look(FULL, after_s=TOLD_AFTER_S)
    lines = told.look(AWAY, after_s=1)
    assert lines == ["problem over after 3.0 s: journal-full", "state: WARNING: bus-away; 12 messages wait"]
