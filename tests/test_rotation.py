"""Which broker is tried next, and after how long."""

from __future__ import annotations

import pytest

from vigiloconn.bus.rotation import FAILURES_BEFORE_NEXT, Rotation
from vigiloconn.ipv6 import Endpoint

A, B = Endpoint("a", 1), Endpoint("b", 2)


def make(*endpoints: Endpoint, max_delay_s: float = 8.0) -> Rotation:
    return Rotation(endpoints, max_delay_s, jitter=lambda: 0.0)


def test_next_broker_is_tried_after_three_failures_in_a_row_and_the_list_is_a_circle() -> None:
    rotation = make(A, B)
    tried = []
    for _ in range(2 * FAILURES_BEFORE_NEXT + 1):
        tried.append(rotation.current)
        rotation.failed()
    assert tried == [A, A, A, B, B, B, A]


def test_delays_grow_to_the_longest_until_a_broker_has_proved_itself() -> None:
    rotation = make(A)
    assert [rotation.failed() for _ in range(7)] == [0.25, 0.5, 1, 2, 4, 8, 8]
    rotation.note_success()
    assert rotation.failed() == 0.25


def test_broker_that_shuts_down_is_left_at_once_but_not_in_a_circle_without_a_pause() -> None:
    rotation = make(A, B)
    assert rotation.failed(leave=True) == 0.0
    assert rotation.current == B
    assert rotation.failed(leave=True) > 0.0
    assert rotation.current == A
    rotation.note_success()
    assert rotation.failed(leave=True) == 0.0


def test_only_broker_is_never_left_for_itself_without_a_delay() -> None:
    rotation = make(A)
    assert rotation.failed(leave=True) == 0.25
    assert rotation.current == A
    assert not rotation.has_others


def test_refused_login_takes_the_longest_delay() -> None:
    assert make(A).failed(slow=True) == 8.0


def test_way_back_leads_to_the_first() -> None:
    rotation = make(A, B)
    rotation.failed(leave=True)
    assert not rotation.is_preferred
    rotation.prefer()
    assert rotation.is_preferred
    assert rotation.current == A


def test_no_broker_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make()
