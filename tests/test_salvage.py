"""What is taken from a damaged journal: all rows that are whole, wherever the damage is."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.journals import reopened
from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.leaves import Leaves
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry
from vigiloconn.journal.salvage import Salvage
from vigiloconn.journal.transaction import Transaction

KEY = RouteKey("event", None, True)
PAGE = 4096


def body(number: int) -> bytes:
    # Some stand on pages of their own.
    return b'{"type":"event","n":%d,"t":"%s"}' % (number, b"x" * (9000 if number % 50 == 7 else number % 300))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of 1,200 waiting, 200 held and 100 parked messages, and free pages of 500 that are gone."""
    path = tmp_path_factory.mktemp("whole") / "journal"
    journal = reopened(path)
    records = [Record(n, KEY, body(n), 1000.0 + n) for n in range(1, 2001)]
    journal.apply(Transaction(appends=records))
    journal.apply(Transaction(
        holds=[("events", record) for record in records[500:700]],
        parks=[("events", record, "nobody is bound") for record in records[700:800]],
        discards=[(1, 500)],
    ))  # fmt: skip
    journal.close()
    return path


def salvaged(path: Path) -> tuple[list[Entry], list[str]]:
    with Salvage(path, "tobus", path.parent) as salvage:
        return list(salvage.entries()), salvage.unreadable


def stored(path: Path) -> set[tuple[str, int, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            (kind, id, text)
            for kind, table in ((WAITING, "tobus"), (HELD, "vigiloconn_held"), (PARKED, "vigiloconn_parked"))
            for id, text in connection.execute(f"SELECT id, CAST(msg AS BLOB) FROM {table}")
        }


def told(entries: list[Entry]) -> list[tuple[str, int, bytes]]:
    return [(entry.table, entry.id, entry.body) for entry in entries]


def overwrite(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "journal"))


def test_a_whole_journal_is_taken_whole_and_nothing_is_complained_of(copy: Path) -> None:
    entries, unreadable = salvaged(copy)
    assert sorted(told(entries)) == sorted(stored(copy))
    assert unreadable == []


@pytest.mark.parametrize(
    "content", [b"\xff" * PAGE, bytes(PAGE), b"SQLite format 3\0" + bytes(80)], ids=["ones", "zeros", "head"]
)
def test_all_rows_are_taken_where_the_first_page_is_gone(copy: Path, content: bytes) -> None:
    expected = stored(copy)
    overwrite(copy, 1, content)
    entries, unreadable = salvaged(copy)
    assert sorted(told(entries)) == sorted(expected)
    assert unreadable


def test_what_was_deleted_does_not_come_back_with_a_first_page_that_is_gone(copy: Path) -> None:
    overwrite(copy, 1, bytes(PAGE))
    entries, _ = salvaged(copy)
    assert min(entry.id for entry in entries) == 501


def test_times_exchange_and_reason_are_those_of_the_page(copy: Path) -> None:
    overwrite(copy, 1, bytes(PAGE))
    entries, _ = salvaged(copy)
    held = next(entry for entry in entries if entry.table == HELD)
    parked = next(entry for entry in entries if entry.table == PARKED)
    assert (held.exchange, held.accepted_at) == ("events", 1000.0 + held.id)
    assert (parked.exchange, parked.reason, parked.accepted_at) == ("events", "nobody is bound", 1000.0 + parked.id)
    assert parked.parked_at is not None


def leaf_rows(path: Path) -> dict[int, set[bytes]]:
    """Return page -> the bodies of rows that begin there."""
    with closing(Leaves(path)) as leaves:
        return {
            page: {value for row in leaves.rows(page) for value in row.values if isinstance(value, bytes)}
            for page in leaves.pages()
        }


def test_whatever_page_is_gone_only_its_own_rows_are(copy: Path, whole: Path, tmp_path: Path) -> None:
    expected = stored(whole)
    on_page = leaf_rows(whole)
    pages = whole.stat().st_size // PAGE
    for page in (1, *range(2, pages + 1, 9)):
        shutil.copy(whole, copy)
        overwrite(copy, page, random.Random(page).randbytes(PAGE))
        entries, unreadable = salvaged(copy)
        # The command takes no others: of a row that goes on elsewhere the rest may be anything.
        got = told([entry for entry in entries if entry.type])
        assert len(got) == len(set(got)), f"page {page}: rows come twice"
        assert set(got) <= expected, f"page {page}: rows that were never there"
        lost = {text for _, _, text in expected - set(got)}
        long = {text for text in lost if len(text) > PAGE}
        assert lost - on_page.get(page, set()) - long == set(), f"page {page}: more is lost than what it held"
        assert len(long - on_page.get(page, set())) <= 1, f"page {page}: more long rows are lost than one"
        assert not lost or unreadable or len(got) < len(entries), f"page {page}: lost without a word"


def test_a_truncated_file_gives_what_is_left_of_it(copy: Path) -> None:
    expected = stored(copy)
    os.truncate(copy, copy.stat().st_size // 2 // PAGE * PAGE)
    entries, unreadable = salvaged(copy)
    assert unreadable
    assert set(told(entries)) <= expected
    assert len(entries) > 300


def test_what_is_in_the_log_only_is_taken_where_the_first_page_is_gone(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    shutil.copy(whole, path)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        with writer:
            writer.execute("INSERT INTO tobus VALUES (5000, ?)", (body(5000).decode(),))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"taken{suffix}")
    overwrite(tmp_path / "taken", 1, bytes(PAGE))
    entries, _ = salvaged(tmp_path / "taken")
    assert (WAITING, 5000, body(5000)) in told(entries)


@pytest.mark.parametrize("page_bytes", [512, 1024, 8192, 65536])
def test_the_size_of_pages_is_found_where_no_page_tells_it(tmp_path: Path, page_bytes: int) -> None:
    path = tmp_path / "journal"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        with connection:
            connection.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
            rows = [(n, body(n).decode()) for n in range(1, 3001)]
            connection.executemany("INSERT INTO tobus VALUES (?, ?)", rows)
    expected = {(WAITING, n, text.encode()) for n, text in rows}
    with path.open("r+b") as file:
        file.write(bytes(page_bytes))
    entries, _ = salvaged(path)
    assert set(told(entries)) == expected


@pytest.fixture
def random_file(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.write_bytes(random.Random(4).randbytes(200 * PAGE))
    return path


def test_a_file_that_is_no_journal_gives_nothing_and_says_so(random_file: Path) -> None:
    entries, unreadable = salvaged(random_file)
    assert entries == []
    assert len(unreadable) >= 1
