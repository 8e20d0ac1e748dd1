"""The disk that a backlog took is given back once it is gone, in small steps, and never while the disk is short."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cycle import Crank
from tests.support.journals import append, assert_totals_are_exact, ids, reopened
from vigiloconn.errors import OutsideChange
from vigiloconn.journal.room import GIVE_BACK_BYTES, Disk, is_worth_giving_back
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[DbRetry]:
    journal = reopened(path, reserve_bytes=0)
    yield journal
    journal.close()


def drain(journal: DbRetry, messages: int, left: int) -> list[int]:
    """Let a backlog come and go; return the ids of what is left of it, the newest."""
    records = [record for _ in range(messages // 500) for record in append(journal, 500, size=2000)]
    gone = records[: messages - left]
    journal.apply(Transaction(discards=[(gone[0].id, gone[-1].id)]))
    journal._space.checkpoint()
    return [record.id for record in records[messages - left :]]


def steps(journal: DbRetry) -> int:
    """Give back all that there is; return in how many steps."""
    for done in range(1, 1000):
        if not journal.give_back():
            return done
    raise AssertionError("there is no end of it")


def as_version_0_1(path: Path) -> None:
    """Make a file as SQLite makes it by default."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
    connection.close()


def test_a_file_is_as_small_after_a_backlog_as_before_and_holds_what_is_left(journal: DbRetry, path: Path) -> None:
    left = drain(journal, 10_000, left=100)
    assert path.stat().st_size > 19 * MIB
    assert steps(journal) > 10
    assert path.stat().st_size < 6 * MIB
    assert ids(journal) == left
    assert_totals_are_exact(journal)
    assert append(journal, 1)[0].id == left[-1] + 1


def test_one_step_gives_back_no_more_than_one_mebibyte(journal: DbRetry, path: Path) -> None:
    drain(journal, 10_000, left=0)
    before = path.stat().st_size
    assert journal.give_back()
    # The map of the pages goes with them.
    assert 0 < before - path.stat().st_size <= GIVE_BACK_BYTES + 8192


def test_what_is_given_back_is_no_change_of_another_program(journal: DbRetry) -> None:
    drain(journal, 10_000, left=10)
    steps(journal)
    journal.look()


def test_an_older_file_is_given_back_when_it_holds_nothing_and_not_before(path: Path) -> None:
    as_version_0_1(path)
    journal = reopened(path, reserve_bytes=0)
    left = drain(journal, 10_000, left=1)
    before = path.stat().st_size
    assert not journal.give_back()
    assert path.stat().st_size == before
    journal.apply(Transaction(discards=[(left[0], left[0])]))
    assert steps(journal) == 1
    assert path.stat().st_size < MIB
    try:
        journal.look()
    except OutsideChange:
        # SQLite may take what was written anew for that.
        journal.take_in(0, [])
    left = drain(journal, 10_000, left=10)
    assert steps(journal) > 10
    journal.close()
    again = reopened(path, reserve_bytes=0)
    assert ids(again) == left
    again.close()


def test_nothing_is_given_back_while_the_disk_is_short(path: Path) -> None:
    free = [1 << 40]
    journal = reopened(path, reserve_bytes=0, free_bytes=lambda _: free[0])
    drain(journal, 10_000, left=0)
    free[0] = 9 * MIB
    assert not journal.give_back()
    free[0] = 1 << 40
    assert journal.give_back()
    journal.close()


def test_what_another_program_has_written_is_taken_in_first(journal: DbRetry, path: Path) -> None:
    drain(journal, 10_000, left=0)
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO tobus (msg) VALUES ('{}')")
    other.close()
    with pytest.raises(OutsideChange):
        journal.give_back()


def test_a_file_of_which_most_is_in_use_is_left_as_it_is() -> None:
    assert is_worth_giving_back(20 * MIB, Disk(100 * MIB, 0, emptied_bytes=10 * MIB), floor=8 * MIB)
    assert not is_worth_giving_back(20 * MIB, Disk(100 * MIB, 0, emptied_bytes=9 * MIB), floor=8 * MIB)
    assert not is_worth_giving_back(4 * MIB, Disk(100 * MIB, 0, emptied_bytes=3 * MIB), floor=8 * MIB)
    assert not is_worth_giving_back(20 * MIB, Disk(11 * MIB, 0, emptied_bytes=19 * MIB), floor=8 * MIB)


def test_a_journal_gives_back_by_itself_a_little_now_and_then_idle_or_not(path: Path) -> None:
    crank = Crank(path)
    for _ in range(20):
        crank.put(500, size=2000)
        crank.provider.cycle()
    crank.provider.discard(record.id for record in crank.take())
    crank.provider.cycle()
    crank.journal._space.checkpoint()
    before = path.stat().st_size
    crank.monotonic.now_s += 9.0
    crank.put()
    crank.provider.cycle()
    assert path.stat().st_size >= before

    crank.monotonic.now_s += 1.0
    crank.put()
    crank.provider.cycle()
    after = path.stat().st_size
    assert before - 2 * GIVE_BACK_BYTES < after < before
    # Not at once again, though there is work.
    crank.put()
    crank.provider.cycle()
    assert path.stat().st_size == after

    # An idle one wakes up for it.
    crank.monotonic.now_s += 0.06
    crank.provider.cycle()
    assert crank.provider._seconds_to_work() <= 0.05
    for _ in range(60):
        crank.monotonic.now_s += 0.06
        crank.provider.cycle()
    assert path.stat().st_size < 6 * MIB
    assert len(crank.stored()) == 3
    crank.close()
