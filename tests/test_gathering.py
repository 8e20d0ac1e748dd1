"""When a commit is due, by clocks that a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cycle import Crank
from vigiloconn.accepting.gathering import ENOUGH_MESSAGES, Gathering


def seconds(gathering: Gathering, now_s: float, messages: int = 1, *, is_urgent: bool = False) -> float:
    return gathering.seconds_to_commit(now_s, messages, is_urgent=is_urgent)


def test_the_first_message_after_a_pause_waits_for_no_company() -> None:
    gathering = Gathering(0.005)
    assert seconds(gathering, 100.0) == 0.0
    gathering.began(100.0)
    assert seconds(gathering, 100.005) == 0.0


def test_a_message_soon_after_a_commit_waits_for_the_rest_of_the_delay() -> None:
    gathering = Gathering(0.005)
    gathering.began(100.0)
    assert seconds(gathering, 100.002) == pytest.approx(0.003)


def test_nothing_waits_that_somebody_waits_for_or_that_is_enough() -> None:
    gathering = Gathering(0.005)
    gathering.began(100.0)
    assert seconds(gathering, 100.0, is_urgent=True) == 0.0
    assert seconds(gathering, 100.0, ENOUGH_MESSAGES) == 0.0
    assert seconds(gathering, 100.0, ENOUGH_MESSAGES - 1) > 0.0


def test_without_a_delay_nothing_waits() -> None:
    gathering = Gathering(0.0)
    gathering.began(100.0)
    assert seconds(gathering, 100.0) == 0.0


# In the provider.


@pytest.fixture
def crank(tmp_path: Path) -> Iterator[Crank]:
    made = Crank(tmp_path / "backup.sqlite", commit_delay_ms=5)
    made.put(1)
    made.provider.cycle()
    yield made
    made.close()


def test_what_comes_soon_after_a_commit_waits_for_more(crank: Crank) -> None:
    crank.put(1)
    assert 0.0 < crank.provider._seconds_to_work() <= 0.005
    crank.monotonic.now_s += 0.005
    assert crank.provider._seconds_to_work() == 0.0


def test_a_request_for_acceptance_waits_for_nothing_and_takes_what_waits_along(crank: Crank) -> None:
    crank.put(1)
    crank.put(1, "asked")
    assert crank.provider._seconds_to_work() == 0.0
    crank.provider.cycle()
    assert crank.accepted == ["asked"]
    crank.put(1)
    assert crank.provider._seconds_to_work() > 0.0


def test_a_stop_waits_for_nothing(crank: Crank) -> None:
    crank.put(1)
    crank.provider.stop_service()
    assert crank.provider._seconds_to_work() == 0.0


def test_discards_alone_let_no_message_wait(crank: Crank) -> None:
    crank.monotonic.now_s += 1.0
    crank.provider.discard([record.id for record in crank.take()])
    crank.provider.cycle()
    crank.put(1)
    assert crank.provider._seconds_to_work() == 0.0
