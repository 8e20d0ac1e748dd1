"""The journal's thread: what one call does, and what it says when the disk or the file fails it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inline import InLine
from tests.support.journals import append, held_ids, ids, reopened, take
from vigiloconn.control.exchange import Request
from vigiloconn.control.health import Health
from vigiloconn.errors import JournalBusy, JournalDamaged, JournalFull
from vigiloconn.handlers.backup import backupprovider_factory
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.thread import JournalReply, JournalThread, outcome
from vigiloconn.journal.transaction import HeldRequest, StoredRecord, Transaction, Wanted
from vigiloconn.options import parse_settings

NOTHING = Wanted(None, {})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[DbRetry]:
    made = reopened(tmp_path / "backup.sqlite")
    yield made
    made.close()


class Refusing:
    """Lets a journal refuse the transactions that `refuses` says."""

    def __init__(self, journal: DbRetry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = lambda transaction: bool(transaction.appends)
        self.asked: list[Transaction] = []
        self.error: JournalFull | JournalBusy = JournalFull("no room")
        self._apply = journal.apply
        monkeypatch.setattr(journal, "apply", self.apply)

    def apply(self, transaction: Transaction) -> None:
        self.asked.append(transaction)
        if self.refuses(transaction):
            raise self.error
        self._apply(transaction)


def turn(journal: DbRetry, transaction: Transaction, wanted: Wanted = NOTHING) -> JournalReply:
    reply: JournalReply = outcome(JournalThread(journal, InLine).commit_and_read(transaction, wanted))
    return reply


def page_ids(page: list[StoredRecord] | None) -> list[int]:
    assert page is not None
    return [row.id for row in page]


def test_it_commits_and_then_reads_so_that_the_page_shows_what_was_committed(journal: DbRetry) -> None:
    first, second, third = append(journal, 3)
    new = take(journal, 1)
    asked = HeldRequest(0)
    reply = turn(
        journal, Transaction(appends=new, holds=[("x", first)], discards=[(second.id, second.id)]),
        Wanted(first.id, {"x": asked}),
    )  # fmt: skip
    assert (reply.error, reply.has_moved, reply.has_deleted) == (None, True, True)
    assert page_ids(reply.page) == [third.id, new[0].id]
    assert reply.held["x"][0] is asked
    assert page_ids(reply.held["x"][1]) == [first.id]


def test_only_what_is_wanted_is_read(journal: DbRetry) -> None:
    append(journal, 3)
    reply = turn(journal, Transaction())
    assert (reply.page, reply.held) == (None, {})
    assert page_ids(turn(journal, Transaction(), Wanted(2, {})).page) == [3]


def test_nothing_is_committed_where_nothing_is_to_be_done(
    journal: DbRetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(journal, monkeypatch)
    turn(journal, Transaction())
    assert refusing.asked == []


def test_without_room_for_new_messages_the_rest_is_done(journal: DbRetry, monkeypatch: pytest.MonkeyPatch) -> None:
    old = append(journal, 4)
    refusing = Refusing(journal, monkeypatch)
    reply = turn(
        journal,
        Transaction(appends=take(journal, 1), holds=[("x", old[0])], parks=[("x", old[1], "why")], discards=[(3, 3)]),
        Wanted(0, {}),
    )
    assert str(reply.error) == "no room"
    assert (reply.has_moved, reply.has_deleted) == (True, True)
    assert page_ids(reply.page) == ids(journal) == [4]
    assert (held_ids(journal, "x"), [row.id for row in journal.parked()]) == ([1], [2])
    assert len(refusing.asked) == 3


def test_new_messages_alone_are_not_tried_again_as_nothing(journal: DbRetry, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Refusing(journal, monkeypatch)
    reply = turn(journal, Transaction(appends=take(journal, 1)))
    assert (str(reply.error), reply.has_moved, reply.has_deleted, len(refusing.asked)) == ("no room", True, True, 1)


def test_where_nothing_can_be_written_pages_are_still_read(journal: DbRetry, monkeypatch: pytest.MonkeyPatch) -> None:
    old = append(journal, 3)
    Refusing(journal, monkeypatch).refuses = lambda transaction: True
    for appends in ((), take(journal, 1)):
        reply = turn(journal, Transaction(appends=appends, discards=[(1, 1)]), Wanted(old[0].id, {}))
        assert (str(reply.error), reply.has_deleted, page_ids(reply.page)) == ("no room", False, [2, 3])


def test_a_busy_journal_is_not_asked_a_second_time(journal: DbRetry, monkeypatch: pytest.MonkeyPatch) -> None:
    old = append(journal, 3)
    refusing = Refusing(journal, monkeypatch)
    refusing.error = JournalBusy("locked")
    reply = turn(journal, Transaction(appends=take(journal, 1), discards=[(1, 1)]), Wanted(old[0].id, {}))
    assert (reply.error, reply.has_deleted, page_ids(reply.page)) == (refusing.error, False, [2, 3])
    assert len(refusing.asked) == 1


def test_damage_is_raised_where_the_answer_is_looked_at(journal: DbRetry) -> None:
    journal.path.unlink()
    answer = JournalThread(journal, InLine).commit_and_read(Transaction(appends=take(journal, 1)), NOTHING)
    assert answer.ready()
    with pytest.raises(JournalDamaged):
        outcome(answer)


def test_on_a_native_thread_results_and_errors_come_back_to_the_caller(journal: DbRetry) -> None:
    thread = JournalThread(journal)
    assert thread.call(journal.last_id) == 0
    append(journal, 2)
    reply = outcome(thread.commit_and_read(Transaction(discards=[(1, 1)]), Wanted(0, {})))
    assert page_ids(reply.page) == [2]
    journal.path.unlink()
    with pytest.raises(JournalDamaged):
        thread.call(journal.apply, Transaction(discards=[(2, 2)]))
    thread.end()
    thread.end()


def test_a_connector_whose_thread_hangs_is_not_alive_until_it_goes_on(tmp_path: Path) -> None:
    provider = backupprovider_factory(parse_settings(f"[connector]\nbackup_file = {tmp_path}/hanging.sqlite\n"))
    health = Health(lambda timeout_s: provider.is_alive(min(timeout_s, 5.0)), provider.refusal)
    impatient = Health(lambda timeout_s: provider.is_alive(0.05), provider.refusal)
    question = Request("GET", "/healthz", {}, b"", None)
    provider.start_service()
    assert health.healthz(question).status == 200
    # Reading an empty pipe hangs as a disk does.
    read, write = os.pipe()
    provider._thread.begin(os.read, read, 1)
    assert impatient.healthz(question).status == 503
    os.write(write, b"x")
    assert health.healthz(question).status == 200
    provider.close()
    os.close(read)
    os.close(write)
