"""Texts that are kept with accepted messages: stored with them, never without, and handed on if a file is set aside.

What a source keeps its position in: were it ever ahead of the messages, some would be missing; behind, some would
come twice.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from tests.support.cycle import EVENT, Crank
from tests.support.inline import Held
from tests.support.journals import append, reopened, take
from vigiloconn.accepting.intake import Intake
from vigiloconn.errors import JournalFull
from vigiloconn.interfaces import Batch, Record
from vigiloconn.journal import room
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction
from vigiloconn.options import parse_settings

NAME = "follow:/a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


def batch(text: str | None, messages: int = 1) -> Batch:
    body = b'{"type": "event"}'
    return Batch([(EVENT, body)] * messages, messages * len(body), kept={NAME: text})


def stored(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as reader:
        found = dict(reader.execute("SELECT name, text FROM vigiloconn_kept"))
    reader.close()
    return found


# In the file.


def test_a_text_is_stored_replaced_and_deleted(path: Path) -> None:
    journal = reopened(path)
    journal.apply(Transaction(kept={NAME: "1", "host:a": "UP"}))
    journal.apply(Transaction(appends=take(journal, 2), kept={NAME: "2", "host:a": None}))
    assert (journal.rows, journal.kept("follow:"), journal.kept("host:")) == (2, {NAME: "2"}, {})
    journal.close()
    journal = reopened(path)
    assert journal.kept("") == {NAME: "2"}
    journal.close()


def test_texts_that_are_not_committed_are_not_kept(path: Path) -> None:
    journal = reopened(path, free_bytes=lambda directory: 0)
    with pytest.raises(JournalFull):
        journal.apply(Transaction(kept={NAME: "1"}))
    assert (journal.kept(""), stored(path)) == ({}, {})
    journal.close()


def test_a_transaction_of_texts_alone_is_one_and_is_never_cut() -> None:
    texts = Transaction(kept={NAME: "1"})
    assert (bool(texts), texts.grows, texts.parts()) == (True, True, [])
    both = replace(texts, discards=[(1, 1)])
    assert both.parts() == [Transaction(discards=[(1, 1)]), texts]


def test_texts_leave_as_much_of_the_disk_free_as_messages_do() -> None:
    texts = Transaction(kept={NAME: "x" * 100})
    need = room.need_of(texts)
    assert not room.fits(texts, need, room.Disk(need.log_bytes + need.growth_bytes, 0, 0), 1000)
    assert room.fits(texts, need, room.Disk(need.log_bytes + need.growth_bytes + 1000, 0, 0), 1000)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_file_of_an_earlier_version_gets_the_table(path: Path, version: str) -> None:
    journal = reopened(path)
    records = append(journal, 2)
    journal.close()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE vigiloconn_kept")
        raw.execute("UPDATE vigiloconn_meta SET value = ? WHERE key = 'schema'", (version,))
    raw.close()
    journal = reopened(path)
    journal.apply(Transaction(kept={NAME: "1"}))
    assert [row.id for row in journal.peek(0, 9, 1 << 20)] == [record.id for record in records]
    journal.close()
    assert stored(path) == {NAME: "1"}


# A file that is set aside.


def test_a_journal_that_is_deleted_under_way_hands_its_texts_on(path: Path) -> None:
    crank = Crank(path)
    crank.provider.put(batch("1"))
    crank.provider.cycle()
    path.unlink()
    crank.provider.put(batch(None, messages=0))
    crank.provider.put(Batch([], 0, kept={"host:a": "UP"}))
    crank.provider.cycle()
    assert stored(path) == {NAME: "1"}
    crank.provider.cycle()
    assert stored(path) == crank.provider.kept("") == {"host:a": "UP"}
    crank.close()


def test_a_journal_that_is_found_damaged_at_the_start_hands_on_what_can_be_read(path: Path) -> None:
    journal = reopened(path)
    append(journal, 500, size=300)
    journal.apply(Transaction(kept={NAME: "1"}))
    journal.close()
    with sqlite3.connect(path) as raw:
        page = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tobus'").fetchone()[0]
    raw.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    journal = DbRetry(path)
    report = journal.open()
    assert report.set_aside is not None
    assert journal.kept("") == stored(path) == {NAME: "1"}
    journal.close()


def test_a_journal_whose_log_is_damaged_hands_on_what_the_file_has(path: Path) -> None:
    journal = reopened(path)
    journal.apply(Transaction(kept={NAME: "1"}))
    journal.close()
    Path(f"{path}-wal").write_bytes(b"no log of anybody's" * 10)
    journal = DbRetry(path)
    assert journal.open().set_aside is not None
    assert journal.kept("") == {NAME: "1"}
    journal.close()


def test_a_file_of_which_nothing_can_be_read_hands_nothing_on(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    journal = DbRetry(path)
    assert journal.open().set_aside is not None
    assert journal.kept("") == {}
    journal.close()


def test_a_journal_in_memory_keeps_texts_too() -> None:
    journal = DbRetry(":memory:")
    journal.open()
    journal.apply(Transaction(appends=take(journal, 1), kept={NAME: "1"}))
    assert journal.kept("") == {NAME: "1"}
    journal.start_afresh("for a test")
    assert journal.kept("") == {NAME: "1"}
    journal.close()


# On the way to the file.


def test_texts_go_with_the_batches_of_their_transaction_the_last_one_counts(path: Path) -> None:
    crank = Crank(path)
    for at in range(3):
        crank.provider.put(batch(str(at)))
    crank.provider.cycle()
    assert (stored(path), len(crank.stored())) == ({NAME: "2"}, 3)
    crank.close()


def test_a_batch_without_messages_is_committed_for_its_texts(path: Path) -> None:
    crank = Crank(path)
    crank.provider.put(batch("7", messages=0))
    crank.provider.cycle()
    assert (stored(path), crank.stored()) == ({NAME: "7"}, [])
    crank.close()


def test_overflow_skips_no_commit_for_a_batch_with_texts(path: Path) -> None:
    crank = Crank(path, durability="overflow")
    crank.provider.connection_initialized()
    crank.put()
    crank.provider.cycle()
    assert crank.stored() == []
    crank.provider.put(batch("1"))
    crank.provider.cycle()
    assert (stored(path), len(crank.stored())) == ({NAME: "1"}, 2)
    crank.close()


def test_on_a_full_disk_changes_are_made_and_neither_messages_nor_their_texts(path: Path) -> None:
    crank = Crank(path)
    crank.put(2)
    crank.provider.put(batch("1"))
    crank.provider.cycle()
    first, second, _ = crank.take()
    crank.provider.put(batch("2"))
    crank.provider.discard([first.id])
    enough = crank.journal._space._free_bytes
    crank.journal._space._free_bytes = lambda directory: 3 << 20
    crank.provider.cycle()
    assert (first.id in crank.stored(), second.id in crank.stored()) == (False, True)
    assert (stored(path), len(crank.stored())) == ({NAME: "1"}, 2)
    crank.journal._space._free_bytes = enough
    crank.monotonic.now_s += 10.0
    crank.provider.cycle()
    assert (stored(path), len(crank.stored())) == ({NAME: "2"}, 3)
    crank.close()


def test_where_only_half_of_a_group_finds_room_the_text_is_that_of_the_last_one_in(path: Path) -> None:
    crank = Crank(path)
    body = b'{"type": "event", "text": "%s"}' % (b"x" * 1000)
    for at in range(4):
        crank.provider.put(Batch([(EVENT, body)] * 200, 200 * len(body), kept={NAME: str(at)}))
    enough = crank.journal._space._free_bytes
    half = room.need_of(Transaction(appends=[Record(id, EVENT, body, 1.0) for id in range(400)], kept={NAME: "1"}))
    unfolded_bytes = crank.journal._space.growth_bytes()
    crank.journal._space._free_bytes = lambda directory: (
        (8 << 20) + unfolded_bytes + half.log_bytes + half.growth_bytes + 4096
    )  # fmt: skip
    crank.provider.cycle()
    assert (stored(path), crank.stored()) == ({}, [])
    crank.provider.cycle()
    assert (stored(path), len(crank.stored())) == ({NAME: "1"}, 400)
    crank.journal._space._free_bytes = enough
    crank.monotonic.now_s += 10.0
    crank.provider.cycle()
    assert (stored(path), len(crank.stored())) == ({NAME: "3"}, 800)
    crank.close()


def test_a_text_counts_as_kept_when_its_transaction_is_done_and_no_sooner(path: Path) -> None:
    pool = Held()
    crank = Crank(path, pool)
    crank.provider.put(batch("1"))
    pool.is_slow = True
    turn = gevent.spawn(crank.provider.cycle)
    gevent.sleep(0)
    assert crank.journal.kept("") == {}
    pool.finish()
    turn.get(timeout=5)
    pool.is_slow = False
    assert crank.provider.kept("") == {NAME: "1"}
    crank.close()


# While there is no room.


class Gauges:
    """What the intake asks of a journal."""

    all_rows = 10
    all_bytes = 0


def test_a_batch_with_texts_waits_whole_where_the_full_policy_drops() -> None:
    journal = Gauges()
    drop = replace(parse_settings("").runtime, journal_max_messages=10, when_full="drop-newest")
    intake = Intake(journal, drop, lambda: None)  # type: ignore[arg-type]
    waiting = gevent.spawn(intake.put, batch("1", messages=3))
    gevent.sleep(0)
    assert (waiting.dead, intake.next_group()) == (False, [])
    journal.all_rows = 0
    intake.look_again()
    waiting.get(timeout=5)
    assert (intake.next_group(), intake.dropped.total()) == ([batch("1", messages=3)], 0)


def test_nobody_waits_for_a_batch_with_texts_so_that_it_can_share_a_commit() -> None:
    journal = Gauges()
    journal.all_rows = 0
    intake = Intake(journal, parse_settings("").runtime, lambda: None)  # type: ignore[arg-type]
    asked = batch("1")
    asked.on_accepted = lambda: None
    intake.put(asked)
    assert not intake.is_urgent


def test_who_is_ended_while_the_queue_is_full_has_put_nothing() -> None:
    journal = Gauges()
    journal.all_rows = 0
    intake = Intake(journal, parse_settings("").runtime, lambda: None)  # type: ignore[arg-type]
    while not intake._queue.full():
        intake.put(batch("1"))
    before = intake.messages
    waiting = gevent.spawn(intake.put, batch("2"))
    gevent.sleep(0)
    assert not waiting.dead
    waiting.kill()
    assert intake.messages == before


def test_where_one_finds_no_room_at_the_stop_no_later_one_is_taken_either() -> None:
    journal = Gauges()
    bounds = replace(parse_settings("").runtime, journal_max_messages=10)
    intake = Intake(journal, bounds, lambda: None)  # type: ignore[arg-type]
    waiting = gevent.spawn(intake.put, batch("1"))
    gevent.sleep(0)
    intake.close()
    waiting.get(timeout=5)
    journal.all_rows = 0
    intake.put(batch("2"))
    assert intake.is_empty()
