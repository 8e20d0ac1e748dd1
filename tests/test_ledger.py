"""The bookkeeping of what is taken and unfinished."""

from __future__ import annotations

from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.publishing.ledger import Ledger

KEY = RouteKey("event", None, True)


def records(*numbers: int) -> list[Record]:
    return [Record(number, KEY, b"x" * number, 0.0) for number in numbers]


def ledger_of(*numbers: int) -> tuple[Ledger, list[list[int]]]:
    discarded: list[list[int]] = []
    ledger = Ledger(discarded.append)
    ledger.take(records(*numbers))
    return ledger, discarded


def test_what_is_finished_in_any_order_is_named_and_the_rest_stays_in_order() -> None:
    ledger, discarded = ledger_of(1, 2, 3, 5, 8)
    ledger.finish(records(5, 2))
    assert discarded == [[5, 2]]
    assert [record.id for record in ledger.unfinished()] == [1, 3, 8]
    assert len(ledger) == 3
    assert ledger.size_bytes == 1 + 3 + 8


def test_what_is_not_here_or_finished_before_is_not_named_and_changes_no_total() -> None:
    ledger, discarded = ledger_of(1, 2)
    ledger.finish(records(2))
    ledger.finish(records(2, 9))
    assert discarded == [[2]]
    assert (len(ledger), ledger.size_bytes) == (1, 1)
    assert 1 in ledger
    assert 2 not in ledger


def test_what_is_handed_over_is_forgotten_without_a_word_to_the_journal() -> None:
    ledger, discarded = ledger_of(1, 2)
    ledger.hand_over(records(1))
    assert discarded == []
    assert [record.id for record in ledger.unfinished()] == [2]
    assert ledger.size_bytes == 2
