"""The journal on disks that are really full, or really read-only."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cycle import Crank
from tests.support.journals import append, assert_totals_are_exact, held_ids, ids, reopened, take
from vigiloconn.errors import JournalFull, StartError
from vigiloconn.interfaces import Record
from vigiloconn.journal import room
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction

MIB = 1 << 20

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


def append_in_portions(journal: DbRetry, count: int, size: int) -> list[Record]:
    """Add messages as the journal's owner does on a small disk."""
    return [record for _ in range(count // 100) for record in append(journal, 100, size=size)]


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
def test_the_reserve_is_for_deletions_and_comes_back_with_room(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=512 * 1024)
    reserve = small_disk / "backup.sqlite.reserve"
    accepted = append_in_portions(journal, 3000, size=100)
    ballast = fill_disk(small_disk)
    for not_worth_it in (
        Transaction(appends=take(journal, 1)),
        Transaction(holds=[("gone", r) for r in accepted[:300]]),
        Transaction(parks=[("lost", r, "nobody") for r in accepted[300:400]]),
    ):
        with pytest.raises(JournalFull, match="the disk is full"):
            journal.apply(not_worth_it)
        assert reserve.exists()
    journal.apply(Transaction(discards=[(1, accepted[-2].id)]))
    assert ids(journal) == [accepted[-1].id]
    assert_totals_are_exact(journal)
    ballast.unlink()
    append(journal, 1)
    assert reserve.stat().st_blocks * 512 >= 512 * 1024
    journal.close()


@needs_root
def test_deletions_make_room_for_the_moves_of_the_same_transaction(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=512 * 1024)
    accepted = fill_journal(journal)
    journal.apply(
        Transaction(
            holds=[("gone", r) for r in accepted[:500]],
            parks=[("lost", r, "nobody") for r in accepted[500:600]],
            discards=[(601, accepted[-2].id)],
        )
    )
    assert ids(journal) == [accepted[-1].id]
    assert held_ids(journal, "gone") == [r.id for r in accepted[:500]]
    assert journal.parked_rows == 100
    assert_totals_are_exact(journal)
    journal.close()


@needs_root
@pytest.mark.parametrize("size", [60_000, 400_000])
def test_large_bodies_are_deleted_on_a_full_disk_though_one_is_larger_than_the_reserve(
    small_disk: Path, size: int
) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=128 * 1024, min_free_bytes=0)
    accepted = append(journal, 1, size=size)
    while (small_disk / "backup.sqlite").stat().st_size < MIB:
        accepted += append(journal, 1, size=size)
    ballast = fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[-1].id)]))
    assert (journal.rows, journal.size_bytes) == (0, 0)
    ballast.unlink()
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
    accepted = append_in_portions(journal, 2000, size=300)
    others = append_in_portions(journal, 600, size=100)
    journal.apply(Transaction(holds=[("gone", r) for r in others]))
    journal._space.checkpoint()
    fill_disk(small_disk)
    journal.apply(Transaction(discards=[(1, accepted[-1].id)], held_discards=[(1, others[-2].id)]))
    assert (journal.rows, ids(journal), held_ids(journal, "gone")) == (1, [], [others[-1].id])
    assert_totals_are_exact(journal)
    journal.close()


@needs_root
def test_with_the_reserve_spent_new_messages_do_not_eat_what_the_next_discard_needs(small_disk: Path) -> None:
    journal = reopened(small_disk / "backup.sqlite", reserve_bytes=512 * 1024)
    accepted = append_in_portions(journal, 2000, size=100)
    journal._space.checkpoint()
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
    accepted = append_in_portions(journal, 2000, size=300)
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


# From filled to drained, as the journal's owner does it.


class Flow:
    """Writers that never stop, on a disk of 8 MiB, and a bus that is away or takes all."""

    def __init__(self, disk: Path, body_bytes: int) -> None:
        self._path = disk / "backup.sqlite"
        self._body_bytes = body_bytes
        self.crank = Crank(self._path)

    def turn(self) -> None:
        provider = self.crank.provider
        if not provider.problems() and provider.stats()["backup_in_buf"] * self._body_bytes < 600_000:
            for _ in range(10):
                self.crank.put(max(1, 60_000 // self._body_bytes), size=self._body_bytes)
        provider.cycle()
        self.crank.monotonic.now_s += 0.5

    def fill(self, hold: bool) -> None:
        """Accept until the disk is full; with `hold` each message is held as it comes."""
        for _ in range(400):
            self.turn()
            records = self.crank.provider.take(2000) if hold else []
            if hold:
                self.crank.provider.hold("gone", records)
            if self.crank.provider.problems() and not records:
                assert self.problem_names() == ["disk-full"]
                return
        raise AssertionError("the disk never filled up")

    def drain(self) -> int:
        """Take and finish all that can be had, held or not; return the number."""
        provider, done, after, idle = self.crank.provider, 0, 0, 0
        while idle < 3:
            records = provider.take(2000)
            provider.discard([record.id for record in records])
            provider.ask_held("gone", after)
            provider.cycle()
            page = provider.take_held("gone") or []
            provider.discard_held([record.id for record in page])
            after = max([after, *(record.id for record in page)])
            self.crank.monotonic.now_s += 0.5
            done += len(records) + len(page)
            idle = 0 if records or page else idle + 1
        provider.cycle()
        return done

    def problem_names(self) -> list[str]:
        return [problem.name for problem in self.crank.provider.problems()]

    def crash(self) -> None:
        """Leave all as a killed process does, and open it anew."""
        self.crank.journal._lock.release()
        self.crank = Crank(self._path)


@pytest.fixture
def eight_mib(small_disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    return small_disk


@needs_root
@pytest.mark.parametrize("hold", [False, True], ids=["waiting", "held"])
@pytest.mark.parametrize("body_bytes", [200, 2000, 4000])
def test_a_journal_that_filled_the_disk_drains_by_itself_and_accepts_again(
    eight_mib: Path, body_bytes: int, hold: bool
) -> None:
    flow = Flow(eight_mib, body_bytes)
    flow.fill(hold)
    accepted = flow.crank.provider.accepted
    assert accepted * body_bytes > 2 << 20
    assert flow.drain() >= accepted
    assert flow.crank.provider.accepted > accepted, "what waited is accepted once there is room"
    assert (flow.crank.journal.rows, flow.problem_names()) == (0, [])
    assert_totals_are_exact(flow.crank.journal)
    flow.crank.close()


@needs_root
@pytest.mark.parametrize("hold", [False, True], ids=["waiting", "held"])
@pytest.mark.parametrize("body_bytes", [200, 2000, 4000])
def test_a_journal_on_a_disk_without_any_room_drains_after_a_kill_too(
    eight_mib: Path, body_bytes: int, hold: bool
) -> None:
    flow = Flow(eight_mib, body_bytes)
    flow.fill(hold)
    fill_disk(eight_mib)
    flow.crash()
    waiting = flow.crank.journal.rows
    assert waiting > 0
    assert flow.drain() == waiting
    assert flow.crank.journal.rows == 0
    flow.crank.close()


@needs_root
def test_messages_that_a_full_disk_keeps_out_of_the_held_table_go_on_to_the_bus_from_memory(eight_mib: Path) -> None:
    flow = Flow(eight_mib, 2000)
    flow.fill(hold=False)
    fill_disk(eight_mib)
    provider = flow.crank.provider
    records = provider.take(500)
    provider.hold("gone", records)
    provider.cycle()
    assert flow.crank.held("gone") == []
    provider.ask_held("gone", records[99].id)
    provider.cycle()
    page = provider.take_held("gone") or []
    assert [record.id for record in page] == [record.id for record in records[100:500]]
    provider.discard_held([record.id for record in page])
    provider.cycle()
    provider.cycle()
    # What went on is gone, and has made room to move the others.
    assert flow.crank.stored()[0] == records[-1].id + 1
    assert flow.crank.held("gone") == [record.id for record in records[:100]]
    assert_totals_are_exact(flow.crank.journal)
    flow.crank.close()


def test_a_reader_that_keeps_the_log_from_being_folded_stops_acceptance_with_a_name_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOG_MAX_BYTES", 1 << 20)
    crank = Crank(tmp_path / "backup.sqlite")
    crank.put(10)
    crank.provider.cycle()
    reader = sqlite3.connect(crank.journal.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM tobus").fetchall()
    while not crank.provider.problems():
        assert crank.journal.rows < 10_000
        crank.put(100, size=300)
        crank.provider.cycle()
    [problem] = crank.provider.problems()
    assert (problem.name, "reader" in problem.text) == ("journal-log", True)
    accepted = crank.provider.accepted
    ids = [record.id for record in crank.take()]
    crank.provider.discard(ids)
    crank.provider.cycle()
    assert (crank.stored(), crank.provider.accepted) == ([], accepted)
    reader.close()
    crank.monotonic.now_s += 1.0
    crank.provider.cycle()
    assert (crank.provider.problems(), crank.provider.accepted) == ([], accepted + 100)
    crank.close()
