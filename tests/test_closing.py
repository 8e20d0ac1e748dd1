"""The start after an orderly close: what need not be checked and counted again, and every doubt that makes it so."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.journals import append, assert_totals_are_exact, ids, reopened
from vigiloconn.journal.closing import ClosingNote
from vigiloconn.journal.pagefile import PageFile
from vigiloconn.journal.rows import JournalRows
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with something in each table, closed in order."""
    journal = reopened(tmp_path / "backup.sqlite")
    new = append(journal, 20)
    moves = [("gone", record) for record in new[:5]], [("none", record, "nobody wants it") for record in new[5:8]]
    journal.apply(Transaction(holds=moves[0], parks=moves[1], discards=[(10, 12)]))
    journal.close()
    return journal.path


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has read the whole file."""
    made: list[str] = []

    def noting(part: type, name: str) -> Callable[[object], object]:
        original = getattr(part, name)
        return lambda self: made.append(name) or original(self)

    for part, name in ((PageFile, "quick_check"), (JournalRows, "count"), (JournalRows, "misplaced")):
        monkeypatch.setattr(part, name, noting(part, name))
    return made


def note_of(path: Path) -> Path:
    return Path(f"{path}.closed")


def test_what_nobody_has_touched_since_its_close_is_neither_checked_nor_counted(path: Path, looks: list[str]) -> None:
    journal = DbRetry(path)
    assert journal.open().taken_over == 14
    assert not looks
    assert_totals_are_exact(journal)
    [record] = append(journal, 1)
    assert record.id == 21
    journal.apply(Transaction(discards=[(9, 9)]))
    assert_totals_are_exact(journal)
    journal.close()


def test_the_note_is_gone_while_the_journal_is_open_so_that_a_kill_leaves_none(path: Path, looks: list[str]) -> None:
    journal = reopened(path)
    assert not note_of(path).exists()
    journal.close()
    assert note_of(path).stat().st_mode & 0o777 == 0o600
    assert not looks


def insert(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO tobus (msg) VALUES ('{\"type\": \"event\"}')")
    other.close()


def touch(path: Path) -> None:
    os.utime(path)


def set_times_back(path: Path) -> None:
    before = os.stat(path)
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"0123456789")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").rename(path)


def leave_a_log(path: Path) -> None:
    Path(f"{path}-journal").write_bytes(b"something")


def spoil_the_note(path: Path) -> None:
    note_of(path).write_bytes(b"{")


@pytest.mark.parametrize("change", [insert, touch, set_times_back, replace, leave_a_log, spoil_the_note])
def test_any_doubt_means_the_full_check(path: Path, looks: list[str], change: Callable[[Path], None]) -> None:
    change(path)
    journal = DbRetry(path)
    journal.open()
    assert "quick_check" in looks
    assert_totals_are_exact(journal)
    journal.close()


def read_only(path: Path) -> sqlite3.Connection:
    """As `journal count` and `status` look at a file; the last to leave it leaves an empty log and its index."""
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    assert reader.execute("SELECT count(*) FROM tobus").fetchone() == (9,)
    return reader


def test_whoever_has_only_read_the_file_since_its_close_costs_no_check(path: Path, looks: list[str]) -> None:
    read_only(path).close()
    assert Path(f"{path}-shm").exists()
    journal = reopened(path)
    assert not looks
    assert_totals_are_exact(journal)
    journal.close()


def test_a_reader_between_two_looks_does_not_keep_the_close_from_its_note(path: Path, looks: list[str]) -> None:
    journal = reopened(path)
    reader = read_only(path)
    append(journal, 3)
    journal.close()
    assert note_of(path).exists()
    reader.close()
    again = reopened(path)
    assert not looks
    assert_totals_are_exact(again)
    again.close()


def test_what_is_written_between_the_look_at_the_note_and_the_first_transaction_is_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = JournalRows.columns
    monkeypatch.setattr(JournalRows, "columns", lambda rows: insert(path) or original(rows))
    journal = DbRetry(path)
    assert journal.open().taken_over == 15
    assert_totals_are_exact(journal)
    journal.close()


def test_another_table_has_other_totals(path: Path, looks: list[str]) -> None:
    journal = reopened(path, table="other")
    assert "count" in looks
    journal.close()


def test_a_file_that_another_program_has_written_to_is_left_without_a_note(path: Path) -> None:
    journal = reopened(path)
    insert(path)
    journal.close()
    assert not note_of(path).exists()
    again = reopened(path)
    assert_totals_are_exact(again)
    again.close()


def test_a_log_that_a_reader_keeps_from_being_folded_means_no_note(path: Path) -> None:
    journal = reopened(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM tobus").fetchone()
    append(journal, 3)
    journal.close()
    reader.close()
    assert not note_of(path).exists()
    again = reopened(path)
    assert ids(again)[-3:] == [21, 22, 23]
    again.close()


def test_a_link_in_the_notes_place_is_neither_read_nor_written_through(path: Path, tmp_path: Path) -> None:
    note_of(path).rename(tmp_path / "elsewhere")
    note_of(path).symlink_to(tmp_path / "elsewhere")
    text = (tmp_path / "elsewhere").read_bytes()
    assert ClosingNote(path, "tobus").take() is None
    journal = reopened(path)
    append(journal, 1)
    journal.close()
    assert (tmp_path / "elsewhere").read_bytes() == text
    assert not note_of(path).is_symlink()
