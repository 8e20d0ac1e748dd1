"""When messages go one by one because one of them closes the channel."""

from __future__ import annotations

from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.publishing.suspicion import Suspicion


def records(*numbers: int) -> list[Record]:
    return [Record(number, RouteKey("event", None, True), b"{}", 0.0) for number in numbers]


def test_one_close_may_be_an_accident_the_second_at_the_same_head_is_none() -> None:
    suspicion = Suspicion()
    suspicion.closed(records(1, 2, 3))
    assert not suspicion.is_careful
    suspicion.closed(records(1, 2, 3, 4))
    assert suspicion.is_careful


def test_close_after_progress_is_a_first_one_again() -> None:
    suspicion = Suspicion()
    suspicion.closed(records(1, 2, 3))
    suspicion.closed(records(2, 3))
    assert not suspicion.is_careful
    suspicion.closed(records(2, 3))
    assert suspicion.is_careful


def test_close_with_nothing_on_its_way_accuses_nobody() -> None:
    suspicion = Suspicion()
    suspicion.closed([])
    suspicion.closed([])
    assert not suspicion.is_careful


def test_care_ends_with_the_last_that_was_on_its_way() -> None:
    suspicion = Suspicion()
    suspicion.closed(records(1, 2, 3))
    suspicion.closed(records(1, 2, 3))
    suspicion.finished(2)
    assert suspicion.is_careful
    suspicion.finished(3)
    assert not suspicion.is_careful
