"""The connector's eye on itself: what it looks at and when, and how parts fare, without a bus."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest
from gevent.event import Event

from vigiloconn.control.exchange import Request
from vigiloconn.control.inquiry import Inquiry
from vigiloconn.control.metrics import Metrics
from vigiloconn.control.operator import Operator
from vigiloconn.control.report import Insight, Report
from vigiloconn.control.state import StateLog
from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.histogram import Histogram
from vigiloconn.supervisor import Handler, Supervisor

DEADLINE_S = 5.0


class Part(Handler):
    """A part that is told what to say."""

    name = "part"

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.error: Exception | None = None
        self.over = Event()
        self.runs = 0

    def run(self) -> None:
        self.runs += 1
        if self.error is not None and self.runs == 1:
            raise self.error
        self.over.wait()

    def stop_service(self) -> None:
        self.over.set()

    def problems(self) -> list[Problem]:
        return self.found

    def details(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"color": "red"}


class Clock:
    """Seconds by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_a_part_finds_is_the_state_and_the_watchers_are_called() -> None:
    part, clock, seen = Part(), Clock(), []
    state_log = StateLog(clock=clock, wall=clock)
    operator = Operator(Inquiry(lambda: [part]), state_log, seen.append, clock=clock)
    part.found = [Problem("disk-full", Level.CRITICAL, "full")]
    operator.look(clock())
    assert (state_log.state.word, seen) == ("CRITICAL", [1000.0])


def test_the_longest_delay_of_the_last_minute_is_told_and_older_ones_are_not() -> None:
    clock = Clock()
    operator = Operator(Inquiry(list), StateLog(), clock=clock)
    for delay_s in (0.5, 0.1, 0.3):
        clock.now_s += 10
        operator._note_delay(clock.now_s, delay_s)
    assert operator.stats() == {"loop_stall": 0.5, "loop_stalled": 0.9}
    clock.now_s += 45
    assert operator.stall_s == 0.3
    clock.now_s += 60
    assert operator.stall_s == 0.0
    assert operator.stats()["loop_stalled"] == 0.9


def test_the_stop_is_told_once_and_at_once() -> None:
    told: list[str] = []
    supervisor = Supervisor(stop_timeout_s=1.0)
    supervisor.add(Operator(Inquiry(list), StateLog(), on_stop=lambda: told.append("stopping")))
    life = gevent.spawn(supervisor.run)
    gevent.sleep(0)
    supervisor.stop()
    assert life.get(timeout=DEADLINE_S) == 0
    assert told == ["stopping"]


def test_how_a_part_fares_is_known_from_its_preparation_over_a_crash_to_its_end() -> None:
    part = Part()
    part.error = ValueError("a bug")
    supervisor = Supervisor(stop_timeout_s=1.0)
    supervisor.add(part)
    assert supervisor.life_of(part)[::2] == ("prepared", 0)
    life = gevent.spawn(supervisor.run)
    with gevent.Timeout(DEADLINE_S):
        while part.runs < 2:
            gevent.sleep(0.01)
    assert supervisor.life_of(part)[::2] == ("running", 1)
    supervisor.stop()
    life.get(timeout=DEADLINE_S)
    assert supervisor.life_of(part)[::2] == ("ended", 1)


def test_a_part_whose_details_fail_is_a_problem_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    part = Part()
    inquiry = Inquiry(lambda: [part])
    assert inquiry.details_of(part) == {"color": "red"}
    part.error = ValueError("a bug")
    assert inquiry.details_of(part) == {}
    [found] = inquiry.problems()
    assert (found.problem.name, found.problem.level) == ("part-mute", Level.WARNING)
    assert "details() failed" in found.problem.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_of_parts_with_one_name_each_is_told_and_each_has_its_problems_and_metrics() -> None:
    parts = [Part(), Part()]
    for number, part in enumerate(parts):
        part.found = [Problem("own-problem", Level.WARNING, f"of part {number}")]
    supervisor = Supervisor()
    for part in parts:
        supervisor.add(part)
    inquiry = Inquiry(lambda: supervisor.handlers)
    insight = Insight(lambda: 0.0, (), (), Histogram(), Histogram())
    report = Report("c", supervisor, inquiry, StateLog(), insight)
    document = report.document()
    assert [part["name"] for part in document["parts"]] == ["part", "part 2"]
    assert [problem["text"] for problem in document["state"]["problems"]] == ["of part 0", "of part 1"]
    reply = Metrics(report.document, Histogram(), Histogram()).answer(Request("GET", "/metrics", {}, b"", None))
    lines = bytes(reply.body).decode().splitlines()  # type: ignore[arg-type]
    samples = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(set(samples)) == len(samples)


def test_without_a_connection_nothing_is_said_to_drain() -> None:
    class Flow(Part):
        broker: str | None = "b:5672"
        confirmed = 0.0

        def stats(self) -> dict[str, float]:
            return {"backup": 100.0, "published": 0.0, "confirmed": self.confirmed}

        def details(self) -> dict[str, Any]:
            return {"broker": self.broker}

    part, now_s = Flow(), 0.0
    supervisor = Supervisor()
    supervisor.add(part)
    inquiry = Inquiry(lambda: supervisor.handlers)
    insight = Insight(lambda: 0.0, (), (), Histogram(), Histogram())
    report = Report("c", supervisor, inquiry, StateLog(), insight, clock=lambda: now_s)
    report.watch(now_s)
    now_s, part.confirmed = 10.0, 500.0
    report.watch(now_s)
    assert report.document()["flow"]["drained_in_s"] == 2.0
    part.broker = None
    assert report.document()["flow"]["drained_in_s"] is None
