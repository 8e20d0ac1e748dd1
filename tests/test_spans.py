"""Durations and sizes as people say them."""

from __future__ import annotations

import pytest

from vigiloconn.kit.spans import size, span


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0.0 s"), (0.34, "0.3 s"), (42.4, "42 s"), (60, "1 min"), (185, "3 min 5 s"), (3600, "1 h"),
    (7260, "2 h 1 min"), (187_200, "2 d 4 h"), (-1, "0.0 s"),
])  # fmt: skip
def test_a_duration_is_said_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("number", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB"),
])  # fmt: skip
def test_a_size_is_said_in_the_unit_that_fits(number: float, text: str) -> None:
    assert size(number) == text
