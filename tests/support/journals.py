"""Journals for tests: messages in, messages out, and whether the totals are those of the file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction

KEY = RouteKey("event", None, True)


def body(number: int, size: int = 0) -> bytes:
    return b'{"n": %d, "text": "\xc3\xa9t\xc3\xa9%s"}' % (number, b"x" * size)


def take(journal: DbRetry, count: int, accepted_at: float = 1000.0, size: int = 0) -> list[Record]:
    """Number new records as the journal's caller does."""
    first = journal.next_id
    journal.next_id += count
    return [Record(i, KEY, body(i, size), accepted_at) for i in range(first, first + count)]


def append(journal: DbRetry, count: int, accepted_at: float = 1000.0, size: int = 0) -> list[Record]:
    records = take(journal, count, accepted_at, size)
    journal.apply(Transaction(appends=records))
    return records


def ids(journal: DbRetry, after_id: int = 0, limit: int = 100_000, max_bytes: int = 1 << 30) -> list[int]:
    return [record.id for record in journal.peek(after_id, limit, max_bytes)]


def held_ids(journal: DbRetry, exchange: str) -> list[int]:
    return [record.id for record in journal.peek_held(exchange, 0, 100_000, 1 << 30)]


def assert_totals_are_exact(journal: DbRetry) -> None:
    """Compare the gauges with what plain SQL finds in the file."""
    with sqlite3.connect(journal.path) as reader:
        rows = size_bytes = 0
        for table in ("tobus", "vigiloconn_held"):
            found = reader.execute(f"SELECT count(*), total(length(CAST(msg AS BLOB))) FROM {table}").fetchone()
            rows += found[0]
            size_bytes += found[1]
        held = dict(reader.execute("SELECT exchange, count(*) FROM vigiloconn_held GROUP BY exchange"))
        parked = reader.execute("SELECT count(*), total(length(CAST(msg AS BLOB))) FROM vigiloconn_parked").fetchone()
    reader.close()
    assert (journal.rows, journal.size_bytes) == (rows, size_bytes)
    assert journal.held_exchanges() == held
    assert (journal.parked_rows, journal.all_rows, journal.all_bytes) == (
        parked[0], rows + parked[0], size_bytes + parked[1],
    )  # fmt: skip


def reopened(path: Path, **settings: object) -> DbRetry:
    journal = DbRetry(path, **settings)  # type: ignore[arg-type]
    journal.open()
    return journal
