"""A log call that a flood can't turn into a flood of lines."""

from __future__ import annotations

import logging

import pytest

from tests.support.cycle import Hand
from vigiloconn.kit.ratelog import RateLimitedLog

log = logging.getLogger("tests.ratelog")


def test_first_call_of_each_period_is_logged_with_the_number_of_those_kept_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Hand(100.0)
    limited = RateLimitedLog(log, period_s=10.0, clock=clock)
    for now_s in (100.0, 100.0, 109.9, 110.0, 119.9, 130.0, 140.0):
        clock.now_s = now_s
        limited("at %.1f", now_s)
    assert [record.getMessage() for record in caplog.records] == [
        "at 100.0",
        "at 110.0 (and 2 more since the last such line)",
        "at 130.0 (and 1 more since the last such line)",
        "at 140.0",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_level_is_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    RateLimitedLog(log, logging.ERROR)("bad")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
