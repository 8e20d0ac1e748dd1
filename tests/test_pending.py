"""What waits to be written, alone: nothing of it is lost or done twice, whatever a transaction comes to."""

from __future__ import annotations

import pytest

from vigiloconn.accepting.pending import DISCARD_LINGER_S, Pending
from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.transaction import Transaction

KEY = RouteKey("event", None, True)


def record(id: int) -> Record:
    return Record(id, KEY, b"{}", 1.0)


A, B, C = record(1), record(2), record(3)


def built(pending: Pending, *appends: Record, with_uncommitted: bool = False) -> Transaction:
    return pending.transaction(list(appends), with_uncommitted, {})


def test_a_transaction_holds_parks_and_discards_what_has_gathered() -> None:
    pending = Pending()
    pending.hold("x", [A, B])
    pending.park("y", [C], "nobody wants it")
    pending.discard([7, 5, 6], 0.0)
    pending.discard_held([9], 0.0)
    assert built(pending, record(10)) == Transaction(
        appends=[record(10)], holds=(("x", A), ("x", B)), parks=(("y", C, "nobody wants it"),),
        discards=((5, 7),), held_discards=((9, 9),),
    )  # fmt: skip


def test_what_gathers_while_a_transaction_is_under_way_waits_for_the_next() -> None:
    pending = Pending()
    pending.hold("x", [A])
    pending.park("x", [B], "why")
    pending.discard([5], 0.0)
    under_way = built(pending)
    pending.hold("x", [C])
    pending.park("x", [A], "why")
    pending.discard([6], 0.0)
    pending.discard_held([7], 0.0)
    pending.settle(under_way, 0.0, has_appended=True)
    assert built(pending) == Transaction(
        appends=[], holds=(("x", C),), parks=(("x", A, "why"),), discards=((6, 6),), held_discards=((7, 7),)
    )


def test_what_a_failed_transaction_was_to_do_still_waits() -> None:
    pending = Pending()
    pending.hold("x", [A])
    pending.discard([5], 0.0)
    first = built(pending)
    pending.give_back()
    assert built(pending) == first


def test_moves_are_due_at_once_and_discards_wait_a_moment_for_company() -> None:
    pending = Pending()
    assert pending.seconds_to_work(0.0) is None
    pending.discard([5], 10.0)
    pending.discard([6], 10.05)
    assert pending.seconds_to_work(10.0) == pytest.approx(DISCARD_LINGER_S)
    assert pending.seconds_to_work(11.0) == 0.0
    pending.hold("x", [A])
    assert pending.seconds_to_work(10.0) == 0.0
    pending.settle(built(pending), 10.0, has_appended=True)
    assert pending.seconds_to_work(10.0) is None
    pending.park("x", [A], "why")
    assert pending.seconds_to_work(10.0) == 0.0


def test_discards_that_came_too_late_for_a_transaction_are_due_after_another_moment() -> None:
    pending = Pending()
    pending.discard_held([5], 0.0)
    under_way = built(pending)
    pending.discard_held([6], 0.0)
    pending.settle(under_way, 20.0, has_appended=True)
    assert pending.seconds_to_work(20.0) == pytest.approx(DISCARD_LINGER_S)


def test_what_skipped_its_commit_goes_before_newer_messages_once_it_is_to_be_written() -> None:
    pending = Pending()
    pending.keep([A, B])
    assert built(pending).appends == []
    under_way = built(pending, C, with_uncommitted=True)
    assert under_way.appends == [A, B, C]
    pending.settle(under_way, 0.0, has_appended=True)
    assert (pending.uncommitted, built(pending, with_uncommitted=True).appends) == (0, [])


def test_what_is_finished_held_or_parked_before_its_commit_is_never_appended() -> None:
    pending = Pending()
    pending.keep([A, B, C, record(4)])
    pending.discard([1], 0.0)
    pending.hold("x", [B])
    pending.park("x", [C], "why")
    made = built(pending, with_uncommitted=True)
    assert (made.appends, made.discards, made.holds) == ([record(4)], (), (("x", B),))


def test_what_is_finished_while_it_is_being_written_is_deleted_again() -> None:
    pending = Pending()
    pending.keep([A, B])
    under_way = built(pending, with_uncommitted=True)
    pending.discard([1], 0.0)
    pending.settle(under_way, 0.0, has_appended=True)
    made = built(pending, with_uncommitted=True)
    assert (made.appends, made.discards) == ([], ((1, 1),))


def test_what_could_not_be_appended_stays_uncommitted_while_the_rest_is_done() -> None:
    pending = Pending()
    pending.keep([A, B])
    pending.discard([9], 0.0)
    under_way = built(pending, C, with_uncommitted=True)
    pending.settle(under_way, 0.0, has_appended=False)
    made = built(pending, with_uncommitted=True)
    assert (made.appends, made.discards) == ([A, B], ())
    pending.give_back()
    # Nothing is under way: what was never written needs no discard.
    pending.discard([1], 0.0)
    assert built(pending, with_uncommitted=True) == Transaction(appends=[B], holds=(), parks=())
