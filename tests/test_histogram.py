"""Counting how long things took, with the numbers of a test's own."""

from __future__ import annotations

from vigiloconn.kit.histogram import Histogram


def test_values_are_counted_up_to_their_bound_and_what_is_above_all_of_them_too() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.5):
        histogram.observe(value)
    assert histogram.cumulative() == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert (histogram.number, round(histogram.total, 9)) == (4, 2.15)


def test_what_was_measured_together_counts_as_often_as_it_was() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(0.5, 300)
    assert histogram.cumulative() == [("1.0", 300), ("+Inf", 300)]
    assert histogram.total == 150.0
