"""When periodic work wakes up, by a clock that a test sets."""

from __future__ import annotations

import pytest

from vigiloconn.kit.beat import seconds_to_beat


def wakes(began_s: float, period_s: float, until_s: float, late_s: float = 0.001) -> list[float]:
    """Return when one wakes up that waits again and again, and is woken a moment late."""
    found, now_s = [], began_s
    while (now_s := now_s + seconds_to_beat(now_s, period_s)) < until_s:
        found.append(round(now_s, 6))
        now_s += late_s
    return found


def test_those_who_began_at_different_times_wake_up_together() -> None:
    assert wakes(100.2, 1.0, 105.0) == wakes(100.7, 1.0, 105.0) == [101.0, 102.0, 103.0, 104.0]


def test_a_longer_period_wakes_nobody_at_a_time_of_its_own() -> None:
    assert set(wakes(100.4, 10.0, 150.0)) <= set(wakes(100.2, 1.0, 150.0))


def test_a_period_with_a_fraction_keeps_to_whole_seconds() -> None:
    assert wakes(100.4, 2.5, 107.0) == [102.0, 104.0, 106.0]


@pytest.mark.parametrize("period_s", [0.25, 1.0, 10.0])
def test_a_beat_is_neither_at_once_nor_much_later_than_the_period(period_s: float) -> None:
    waits = [seconds_to_beat(1000.0 + part * period_s / 97, period_s) for part in range(300)]
    assert min(waits) >= 0.1 * period_s
    assert max(waits) <= 1.1 * period_s


def test_one_that_was_woken_a_hair_too_early_does_not_wake_twice() -> None:
    assert seconds_to_beat(100.9999, 1.0) == pytest.approx(1.0001)
