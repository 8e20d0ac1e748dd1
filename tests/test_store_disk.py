"""The journal on disks that are really full, or really read-only."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journals import append, assert_totals_are_exact, held_ids, ids, reopened, take
from vigiloconn.errors import JournalFull, StartError
from vigiloconn.interfaces import Record
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)  # lazily: a failed test may have left files open


def fill_disk(disk: Path) -> Path:
    """Leave not one block free."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass  # full, as wanted
    return ballast


def fill_journal(journal: DbRetry) -> list[Record]:
    accepted: list[Record] = []
    for _ in range(1000):
        try:
            accepted += append(journal, 100, size=300)
        except JournalFull:
            return accepted
    raise AssertionError("a disk of 3 MiB took 30 MB")


@needs_root
def test_on_a_full_disk_an_append_is_refused_whole_and_discards_go_on(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=256 * 1024)
    accepted = fill_journal(journal)
    ballast = fill_disk(small_disk)
    assert ids(journal) == [r.id for r in accepted]
    assert_totals_are_exact(journal)
    for record in accepted[99::100]:
        journal.apply(Transaction(discards=[(1, record.id)]))
    assert (journal.rows, journal.size_bytes) == (0, 0)
    ballast.unlink()
    append(journal, 1)
    journal.close()
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=256 * 1024)
    assert journal.rows == 1
    assert_totals_are_exact(journal)
    journal.close()


@needs_root
def test_the_reserve_lets_a_full_disk_discard_hold_and_park_and_comes_back_with_room(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=512 * 1024)
    reserve = small_disk / "backup.sqlite.reserve"
    accepted = append(journal, 3000, size=100)
    raw = sqlite3.connect(journal.path)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw.close()
    ballast = fill_disk(small_disk)
    with pytest.raises(JournalFull):
        append(journal, 1)
    assert reserve.exists()  # a new message is not worth the reserve
    journal.apply(
        Transaction(
            holds=[("gone", r) for r in accepted[:300]],
            parks=[("lost", r, "nobody") for r in accepted[300:400]],
            discards=[(1, accepted[-2].id)],
            held_discards=[(1, accepted[9].id)],
        )
    )
    assert not reserve.exists()
    assert ids(journal) == [accepted[-1].id]
    assert held_ids(journal, "gone") == [r.id for r in accepted[10:300]]
    assert journal.parked_rows == 100
    assert_totals_are_exact(journal)
    ballast.unlink()
    append(journal, 1)
    assert reserve.stat().st_blocks * 512 >= 512 * 1024
    journal.close()


@needs_root
def test_a_small_disk_gets_a_smaller_reserve_which_grows_with_the_room(small_disk: Path) -> None:
    reserve = small_disk / "backup.sqlite.reserve"
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=2 << 20)
    assert reserve.stat().st_size == 1 << 20
    accepted = fill_journal(journal)
    fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[-1].id)]))
    assert journal.rows == 0

    subprocess.run(["mount", "-o", "remount,size=12m", small_disk], check=True)
    append(journal, 1)
    assert reserve.stat().st_size == 2 << 20
    journal.close()


@needs_root
def test_a_discard_larger_than_the_reserve_is_done_in_steps(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=64 * 1024)
    accepted = append(journal, 2000, size=300)
    others = take(journal, 600, size=100)
    journal.apply(Transaction(appends=others, holds=[("gone", r) for r in others]))
    raw = sqlite3.connect(journal.path)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw.close()
    fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[-1].id)], held_discards=[(1, others[-2].id)]))
    assert (journal.rows, ids(journal), held_ids(journal, "gone")) == (1, [], [others[-1].id])
    assert_totals_are_exact(journal)
    journal.close()


@needs_root
def test_with_the_reserve_spent_new_messages_do_not_eat_what_the_next_discard_needs(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=512 * 1024)
    accepted = append(journal, 2000, size=100)
    raw = sqlite3.connect(journal.path)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw.close()
    fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[999].id)]))
    again = fill_journal(journal)  # what fits into the emptied pages
    assert len(again) > 200
    waiting = accepted[1000:] + again
    for record in waiting[49::50]:
        journal.apply(Transaction(discards=[(1, record.id)]))
    assert journal.rows == 0
    assert_totals_are_exact(journal)
    journal.close()


@needs_root
def test_a_transaction_that_would_leave_no_room_to_empty_the_log_is_refused(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=256 * 1024)
    with pytest.raises(JournalFull):
        append(journal, 5000, size=400)  # fits into the log, but not a second time into the file
    accepted = fill_journal(journal)
    fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[-1].id)]))
    assert journal.rows == 0
    journal.close()


@needs_root
def test_a_start_without_room_for_a_reserve_leaves_discards_what_room_there_is(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=64 * 1024)
    accepted = append(journal, 2000, size=300)
    journal.close()
    (small_disk / "backup.sqlite.reserve").unlink()
    ballast = fill_disk(small_disk)
    os.truncate(ballast, ballast.stat().st_size - 160 * 1024)  # the log's index takes some as well

    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=64 * 1024)
    accepted += fill_journal(journal)
    for record in accepted[99::100]:
        journal.apply(Transaction(discards=[(1, record.id)]))

    assert journal.rows == 0
    journal.close()


@needs_root
def test_a_start_on_a_full_disk_gives_up_the_reserve_or_goes_on_without(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = small_disk / "backup.sqlite"
    journal = reopened(path, reserve_bytes=64 * 1024)
    accepted = append(journal, 100)
    journal.close()
    fill_disk(small_disk)
    journal = reopened(path, reserve_bytes=64 * 1024)
    assert "no room for a reserve of 65536 bytes" in caplog.text
    journal.apply(Transaction(discards=[(1, accepted[49].id)]))
    assert ids(journal) == [r.id for r in accepted[50:]]
    journal.close()


@needs_root
def test_a_start_on_a_disk_without_any_room_says_so(small_disk: Path) -> None:
    fill_disk(small_disk)
    with pytest.raises(StartError, match="full"):
        DbRetry(small_disk / "backup.sqlite").open()


@needs_root
def test_a_read_only_file_system_is_refused_with_the_directorys_name(small_disk: Path) -> None:
    path = small_disk / "backup.sqlite"
    reopened(path).close()
    before = sorted(small_disk.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StartError, match=f"{small_disk} is not writable.*read-only"):
        DbRetry(path).open()
    assert sorted(small_disk.iterdir()) == before
