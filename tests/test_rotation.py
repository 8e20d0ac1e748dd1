"""Which broker is tried next, and after how long."""

from __future__ import annotations

import pytest

from vigiloconn.bus.rotation import FAILURES_BEFORE_NEXT, Rotation
from vigiloconn.kit.endpoint import Endpoint

A, B, C = Endpoint("a", 1), Endpoint("b", 2), Endpoint("c", 3)


class Brokers:
    """A rotation with a clock that passes only while somebody waits out a delay."""

    def __init__(self, *endpoints: Endpoint, max_delay_s: float = 8.0) -> None:
        self.now_s = 1000.0
        self.rotation = Rotation(endpoints, max_delay_s, jitter=lambda: 0.0, clock=lambda: self.now_s)

    def fail(self, times: int = 1, **how: bool) -> list[tuple[str, float]]:
        """Let attempts fail, each after the delay of the one before; return what was tried next and the delay."""
        found = []
        for _ in range(times):
            delay_s = self.rotation.failed(**how)
            self.now_s += delay_s
            found.append((self.rotation.current.host, delay_s))
        return found


def test_next_broker_is_tried_at_once_after_three_failures_in_a_row() -> None:
    assert FAILURES_BEFORE_NEXT == 3
    assert Brokers(A, B).fail(5) == [("a", 0.25), ("a", 0.5), ("b", 0.0), ("b", 0.25), ("b", 0.5)]


def test_back_off_belongs_to_a_broker() -> None:
    brokers = Brokers(A, B)
    brokers.fail(3)
    # The preferred one has failed three times; the second drops a young connection, and that is its first failure.
    assert brokers.fail() == [("b", 0.25)]
    brokers.rotation.note_success()
    assert brokers.fail(2) == [("b", 0.25), ("b", 0.5)]


def test_only_when_all_have_failed_there_is_a_pause_and_it_grows() -> None:
    brokers = Brokers(A, B)
    brokers.fail(5)
    # Each is tried in its turn from now on: whichever is cured first is found within the longest delay.
    tried = brokers.fail(12)
    assert [host for host, _ in tried] == ["a", "b"] * 6
    assert sum(delay_s for _, delay_s in tried[-2:]) == 8.0


def test_delays_grow_to_the_longest_until_the_broker_has_done_its_work() -> None:
    brokers = Brokers(A)
    assert [delay_s for _, delay_s in brokers.fail(7)] == [0.25, 0.5, 1, 2, 4, 8, 8]
    brokers.rotation.note_success()
    assert brokers.fail() == [("a", 0.25)]


def test_success_of_one_broker_says_nothing_of_another() -> None:
    brokers = Brokers(A, B)
    brokers.fail(3)
    brokers.rotation.note_success()
    brokers.fail(2)
    # The first one goes on where it was: its fourth failure in a row costs it two seconds, the third of the other one.
    assert brokers.fail(3) == [("a", 0.25), ("b", 0.75), ("a", 1.25)]


def test_broker_that_is_left_is_not_tried_before_another_and_not_in_a_circle_without_a_pause() -> None:
    brokers = Brokers(A, B)
    assert brokers.fail(4, leave=True) == [("b", 0.0), ("a", 0.25), ("b", 0.0), ("a", 0.5)]
    brokers.rotation.note_success()
    assert brokers.fail(leave=True) == [("b", 0.0)]


def test_broker_that_is_left_is_not_tried_before_one_that_has_to_wait_for_long() -> None:
    brokers = Brokers(A, B)
    brokers.fail(slow=True)
    assert brokers.fail(leave=True) == [("a", 8.0)]


def test_only_broker_is_never_left_for_itself_without_a_delay() -> None:
    brokers = Brokers(A)
    assert brokers.fail(leave=True) == [("a", 0.25)]
    assert not brokers.rotation.has_others
    assert Brokers(A, B).rotation.has_others


def test_refused_login_leads_to_the_next_and_is_not_tried_again_before_the_longest_delay() -> None:
    assert Brokers(A).fail(slow=True) == [("a", 8.0)]
    brokers = Brokers(A, B)
    assert brokers.fail(slow=True) == [("b", 0.0)]
    # The other one, however often it fails, is better than one that refuses us.
    assert {host for host, _ in brokers.fail(5)} == {"b"}
    assert brokers.fail()[0][0] == "a"


def test_list_is_gone_through_in_its_order() -> None:
    assert [host for host, _ in Brokers(A, B, C).fail(3, leave=True)] == ["b", "c", "a"]


def test_way_back_leads_to_the_first_which_is_forgiven() -> None:
    brokers = Brokers(A, B)
    brokers.fail(slow=True)
    assert not brokers.rotation.is_preferred
    brokers.rotation.prefer()
    assert (brokers.rotation.is_preferred, brokers.rotation.current, brokers.rotation.preferred) == (True, A, A)
    assert brokers.fail() == [("a", 0.25)]


def test_no_broker_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Brokers()
