"""Rates and histories on a scripted clock."""

from __future__ import annotations

import sys

import pytest

from vigiloconn.control.history import HOURS, PERIOD_S, History
from vigiloconn.control.rates import Meter, drain_s


def metered(*samples: tuple[float, float]) -> Meter:
    meter = Meter()
    for now_s, count in samples:
        meter.take(now_s, {"accepted": count})
    return meter


def test_a_rate_is_that_of_its_period() -> None:
    meter = metered(*((second, second * 2.0 if second <= 290 else 580 + (second - 290) * 100) for second in range(301)))
    assert meter.rate("accepted", 10) == 100
    assert meter.rate("accepted", 300) == pytest.approx((580 + 1000) / 300)


def test_before_its_period_has_passed_a_rate_is_that_of_what_is_known() -> None:
    assert metered((0, 0)).rate("accepted", 10) == 0
    assert metered((0, 0), (2, 10)).rate("accepted", 300) == 5


def test_a_counter_that_begins_anew_gives_no_negative_rate_and_an_unknown_one_none() -> None:
    assert metered((0, 500), (1, 3)).rate("accepted", 10) == 0
    assert metered((0, 0), (1, 3)).rate("other", 10) == 0


def test_samples_older_than_the_long_period_are_forgotten() -> None:
    assert len(metered(*((second, 0) for second in range(5000)))._samples) <= 302


@pytest.mark.parametrize(("waiting", "in_per_s", "out_per_s", "expected"), [
    (0, 5, 0, 0.0), (1000, 0, 100, 10.0), (1000, 50, 100, 20.0), (1000, 100, 100, None), (1000, 0, 0, None),
])  # fmt: skip
def test_a_drain_ends_only_where_more_goes_than_comes(
    waiting: float, in_per_s: float, out_per_s: float, expected: float | None
) -> None:
    assert drain_s(waiting, in_per_s, out_per_s) == expected


def test_a_history_keeps_the_newest_rows_in_order() -> None:
    history = History(("a",), rows=3)
    for number in range(5):
        history.add(number, {"a": number * 10})
    assert history.since(0) == {"time": [2, 3, 4], "a": [20, 30, 40]}
    assert history.since(3.5) == {"time": [4], "a": [40]}
    assert history.since(9) == {"time": [], "a": []}


def test_a_row_is_due_once_a_period() -> None:
    history = History(("a",))
    assert [history.is_due(second) for second in (0.0, 1.0, PERIOD_S - 0.1, PERIOD_S)] == [True, False, False, True]


def test_eight_hours_take_less_than_two_megabytes() -> None:
    history = History(("a", "b", "c", "d", "e", "f"))
    rows = int(HOURS * 3600 / PERIOD_S)
    for number in range(rows + 10):
        history.add(number, dict.fromkeys("abcdef", 1.0))
    assert len(history.since(0)["time"]) == rows
    assert sum(sys.getsizeof(column) for column in history._columns) < 2_000_000
