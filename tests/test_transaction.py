"""A transaction that is cut for want of room: the parts do what the whole does, in order, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.journals import KEY
from vigiloconn.interfaces import Record
from vigiloconn.journal.transaction import Transaction

RECORDS = [Record(id, KEY, b"{}", 1.0) for id in range(1, 8)]
HOLDS = [("x", record) for record in RECORDS]
PARKS = [("x", record, "why") for record in RECORDS]


def smallest(transaction: Transaction) -> list[Transaction]:
    """Cut a transaction again and again, until nothing more can be cut."""
    parts = transaction.parts()
    return [each for part in parts for each in smallest(part)] if parts else [transaction]


def test_a_transaction_is_cut_by_kind_first_with_the_deletions_in_front() -> None:
    whole = Transaction(RECORDS, holds=HOLDS, parks=PARKS, discards=[(1, 3)], held_discards=[(4, 6)])
    assert whole.parts() == [
        Transaction(discards=[(1, 3)]), Transaction(held_discards=[(4, 6)]), Transaction(holds=HOLDS),
        Transaction(parks=PARKS), Transaction(appends=RECORDS),
    ]  # fmt: skip


@pytest.mark.parametrize("runs", [
    [(1, 1)], [(1, 2)], [(1, 3)], [(10, 11)], [(10, 17)], [(-3, 4)], [(10**12, 10**12 + 4)], [(1, 2), (5, 9), (20, 20)],
])  # fmt: skip
def test_deletions_in_parts_name_the_same_ids_in_order_and_no_other(runs: list[tuple[int, int]]) -> None:
    wanted = [id for first, last in runs for id in range(first, last + 1)]
    for kind in ("discards", "held_discards"):
        parts = smallest(Transaction(**{kind: runs}))
        assert [getattr(part, kind) for part in parts] == [[(id, id)] for id in wanted]


def test_deletions_are_cut_in_the_middle() -> None:
    assert Transaction(discards=[(11, 14)]).parts() == [
        Transaction(discards=[(11, 12)]), Transaction(discards=[(13, 14)])
    ]  # fmt: skip
    assert [part.discards for part in Transaction(discards=[(1, 9), (11, 11), (15, 15), (17, 17)]).parts()] == [
        [(1, 9), (11, 11)], [(15, 15), (17, 17)]
    ]  # fmt: skip


def test_moves_in_parts_move_each_message_once_in_order() -> None:
    assert [part.holds for part in smallest(Transaction(holds=HOLDS))] == [[each] for each in HOLDS]
    assert [part.parks for part in smallest(Transaction(parks=PARKS))] == [[each] for each in PARKS]
    assert [len(part.holds) for part in Transaction(holds=HOLDS).parts()] == [3, 4]


def test_new_messages_are_accepted_together_or_not_at_all() -> None:
    assert Transaction(appends=RECORDS).parts() == []


def test_a_transaction_that_only_deletes_never_makes_the_file_grow() -> None:
    assert not Transaction(discards=[(1, 2)], held_discards=[(3, 3)]).grows
    for grows in (Transaction(appends=RECORDS), Transaction(holds=HOLDS), Transaction(parks=PARKS)):
        assert grows.grows
        assert grows
    assert not Transaction()
    assert Transaction(held_discards=[(3, 3)])
