"""The journal's tables and the statements on them. Knows rows, ids and totals; no files, no transactions.

Every method that writes must run inside a transaction that the caller began, with a copy of the totals that the
caller keeps only if it commits.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from peewee import SqliteDatabase

from vigiloconn.interfaces import Record
from vigiloconn.journal.clock import Stamp
from vigiloconn.journal.closing import Totals
from vigiloconn.journal.counts import Counts
from vigiloconn.journal.runs import Run
from vigiloconn.journal.tables import ACCEPTED, BOOT, HELD, KEPT, META, PARKED, models_of
from vigiloconn.journal.times import AcceptanceTimes, is_close, stamp
from vigiloconn.journal.transaction import ParkedRecord, StoredRecord

#: Rows that one statement names.
_CHUNK_ROWS = 500
#: Rows of one INSERT. Below SQLite's limit of variables in all versions; more gain nothing.
_INSERT_ROWS = 250

#: A higher id leaves no room to count on from it, and must be another program's.
HIGHEST_ID = 2**62

#: In place: to delete and insert would write the index as well.
_OR_CHANGE = "ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value"

T = TypeVar("T")
M = TypeVar("M", tuple[str, Record], tuple[str, Record, str])


class JournalRows:
    """The tables of one journal, in a database that is opened and closed by somebody else."""

    def __init__(self, database: SqliteDatabase, table: str) -> None:
        self.main = f'"{table}"'
        self._insert_one = f"INSERT INTO {self.main} (id, msg) VALUES (?, CAST(? AS TEXT))"
        self._insert_many = self._insert_one + ", (?, CAST(? AS TEXT))" * (_INSERT_ROWS - 1)
        # In one statement: each step of one is a chance for another thread to take the interpreter's lock.
        self._save = (
            f"INSERT INTO {META} (key, value) VALUES ('last_used_id', ?), ('main_rows', ?), "
            f"('first_id', coalesce((SELECT min(id) FROM {self.main}), 0)), "
            f"('last_id', coalesce((SELECT max(id) FROM {self.main}), 0)) {_OR_CHANGE}"
        )
        self.connection: sqlite3.Connection
        """The driver's own: what is hot goes past peewee. Set by the owner when it opens the database."""
        self._boot = 0
        self._times: AcceptanceTimes
        """On the connection: set when the tables are made."""
        self._database = database
        self._models = models_of(database, table)

    def create(self, boot_id: str) -> None:
        """Make the tables that are missing (version 2 lacks one), and the columns that older files lack."""
        self._database.create_tables(self._models)
        for table in (ACCEPTED, HELD, PARKED):
            known = {row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")}
            for column, kind in (("accepted_at", "REAL"), ("boot", "INTEGER"), ("boot_s", "REAL")):
                if column not in known:
                    self.connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self.connection.execute(f"INSERT OR IGNORE INTO {BOOT} (boot_id) VALUES (?)", (boot_id,))
        found = self.connection.execute(f"SELECT number FROM {BOOT} WHERE boot_id = ?", (boot_id,))
        self._boot = found.fetchone()[0]
        self._times = AcceptanceTimes(self.connection, self._boot)

    def read_meta(self) -> dict[str, str]:
        """Return what the file says about itself: uuid, schema, counter of ids, totals."""
        return dict(self.connection.execute(f"SELECT key, value FROM {META}"))

    def schema_version(self) -> int:
        """Return the version of the side tables, 0 when there are none. Needs no transaction."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if not self.connection.execute(sql, (META,)).fetchone():
            return 0
        found = self.connection.execute(f"SELECT CAST(value AS INTEGER) FROM {META} WHERE key = 'schema'").fetchone()
        return found[0] if found else 0

    def columns(self, table: str | None = None) -> list[tuple[str, int]]:
        """Return names of a table's columns with their place in the primary key, [] without the table.

        It is the main table where none is named.
        """
        return [(row[1], row[5]) for row in self.connection.execute(f"PRAGMA table_info({table or self.main})")]

    def first_of(self, table: str, limit: int) -> tuple[int, int, int]:
        """Return number, bytes and highest id of the first rows of a table that is made like the main table."""
        sql = (
            "SELECT count(*), coalesce(sum(length(CAST(msg AS BLOB))), 0), coalesce(max(id), 0) "
            f"FROM (SELECT id, msg FROM {table} ORDER BY id LIMIT ?)"
        )
        rows, size_bytes, last_id = self.connection.execute(sql, (limit,)).fetchone()
        return rows, size_bytes, last_id

    def move_from(self, counts: Counts, table: str, upto: int, first_id: int, accepted: Stamp) -> None:
        """Move the rows of another table up to an id to the main table, in order, under ids from `first_id` on."""
        rows, size_bytes = _measure(self.connection, table, "id <= ?", (upto,))
        self.connection.execute(
            f"INSERT INTO {self.main} (id, msg) SELECT ? + row_number() OVER (ORDER BY id), msg "
            f"FROM {table} WHERE id <= ?",
            (first_id - 1, upto),
        )
        self.connection.execute(f"DELETE FROM {table} WHERE id <= ?", (upto,))
        self._times.begin_range(counts, first_id, accepted)
        counts.rows += rows
        counts.size_bytes += size_bytes

    def highest_id(self) -> int:
        """Return the highest id in all tables, 0 when there is none; what nobody could count on from is passed over."""
        sql = " UNION ALL ".join(
            f"SELECT max(id) FROM {table} WHERE id <= {HIGHEST_ID}" for table in (self.main, HELD, PARKED)
        )
        return max(row[0] or 0 for row in self.connection.execute(sql))

    def forget_times(self, counts: Counts, first_id: int, accepted: Stamp) -> None:
        """Let everything from `first_id` on count as accepted at this time."""
        self._times.forget_all(counts)
        if first_id:
            self._times.begin_range(counts, first_id, accepted)

    def peek(self, after_id: int, limit: int, max_bytes: int, unknown: Stamp) -> list[StoredRecord]:
        """Read a page of the main table; `unknown` stands in for a time that is not known."""
        sql = f"SELECT id, CAST(msg AS BLOB) FROM {self.main} WHERE id > ? ORDER BY id LIMIT ?"
        found = _upto(self.connection.execute(sql, (after_id, limit)), max_bytes)
        if not found:
            return []
        ranges = self._times.ranges(found[0][0], found[-1][0])
        records, at, accepted = [], 0, unknown
        for row_id, body in found:
            while at < len(ranges) and ranges[at][0] <= row_id:
                accepted = ranges[at][1]
                at += 1
            records.append(StoredRecord(row_id, body or b"", *accepted))
        return records

    def peek_held(self, exchange: str, after_id: int, limit: int, max_bytes: int) -> list[StoredRecord]:
        """Read a page of what is held for `exchange`."""
        sql = (
            f"SELECT id, CAST(msg AS BLOB), accepted_at, CASE boot WHEN ? THEN boot_s END FROM {HELD} "
            "WHERE exchange = ? AND id > ? ORDER BY id LIMIT ?"
        )
        found = _upto(self.connection.execute(sql, (self._boot, exchange, after_id, limit)), max_bytes)
        return [StoredRecord(*row) for row in found]

    def parked(self, limit: int) -> list[ParkedRecord]:
        """Read the messages that were parked first."""
        sql = f"SELECT id, exchange, reason, CAST(msg AS BLOB), parked_at FROM {PARKED} ORDER BY seq LIMIT ?"
        return [ParkedRecord(*row) for row in self.connection.execute(sql, (limit,))]

    def count(self) -> Counts:
        """Count the totals."""
        counts = Counts()
        counts.held = dict(self.connection.execute(f"SELECT exchange, count(*) FROM {HELD} GROUP BY exchange"))
        counts.parked_rows, counts.parked_bytes = _measure(self.connection, PARKED, "1")
        for table in (self.main, HELD):
            rows, size_bytes = _measure(self.connection, table, "1")
            counts.rows += rows
            counts.size_bytes += size_bytes
        self._times.read(counts)
        return counts

    def counted(self, totals: Totals) -> Counts:
        """Return the totals of a file that is known to have these."""
        counts = Counts(**msgspec.structs.asdict(totals))
        self._times.read(counts)
        return counts

    def misplaced(self) -> list[int]:
        """Return the ids in the main table that only another program can have used: ours are never used twice."""
        sql = (
            f"SELECT id FROM {self.main} WHERE id < 1 UNION SELECT id FROM {self.main} WHERE id > {HIGHEST_ID} "
            f"UNION SELECT m.id FROM {HELD} h JOIN {self.main} m ON m.id = h.id "
            f"UNION SELECT m.id FROM {PARKED} p JOIN {self.main} m ON m.id = p.id ORDER BY 1"
        )
        return [row[0] for row in self.connection.execute(sql)]

    def count_upto(self, last_id: int) -> tuple[int, int]:
        """Return the number of the main table's messages up to an id and the lowest, 0 when there is none."""
        sql = f"SELECT count(*), coalesce(min(id), 0) FROM {self.main} WHERE id BETWEEN 1 AND ?"
        rows, first_id = self.connection.execute(sql, (last_id,)).fetchone()
        return rows, first_id

    def ids_in(self, runs: Iterable[Run]) -> list[int]:
        """Return the ids in the main table that `runs` name."""
        sql = f"SELECT id FROM {self.main} WHERE id BETWEEN ? AND ?"
        return [row[0] for run in runs for row in self.connection.execute(sql, run)]

    def renumber(self, counts: Counts, ids: Sequence[int], first_id: int, accepted: Stamp) -> None:
        """Give messages of the main table new ids from `first_id` on, as if they had been accepted at this time."""
        sql = f"UPDATE {self.main} SET id = ? WHERE id = ?"
        self.connection.executemany(sql, [(first_id + at, id) for at, id in enumerate(ids)])
        if ids:
            self._times.begin_range(counts, first_id, accepted)

    def append(self, counts: Counts, records: Sequence[Record]) -> None:
        """Add accepted messages."""
        self._insert(records)
        counts.rows += len(records)
        counts.size_bytes += sum(len(record.body) for record in records)
        self._times.keep(counts, records[0])
        if len(records) > 1 and not is_close(counts.newest_range, records[-1]):
            # What waited in memory for its commit was accepted over a while.
            for record in records[1:]:
                self._times.keep(counts, record)

    def read_kept(self) -> dict[str, str]:
        """Return the texts that were stored with accepted messages, by name."""
        return dict(self.connection.execute(f"SELECT name, text FROM {KEPT}"))

    def write_kept(self, texts: Mapping[str, str | None]) -> None:
        """Store texts by name; None deletes one."""
        gone = [(name,) for name, text in texts.items() if text is None]
        self.connection.executemany(f"DELETE FROM {KEPT} WHERE name = ?", gone)
        # In place where the name is there: to delete and insert would move the row about in its page.
        self.connection.executemany(
            f"INSERT INTO {KEPT} (name, text) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text",
            [item for item in texts.items() if item[1] is not None],
        )

    def restore(self, counts: Counts, records: Sequence[Record]) -> None:
        """Add messages again that were accepted before, each with its own time, in whatever order those are."""
        self._insert(records)
        counts.rows += len(records)
        counts.size_bytes += sum(len(record.body) for record in records)
        for record in records:
            self._times.keep(counts, record)

    def _insert(self, records: Sequence[Record]) -> None:
        # Many rows a statement: SQLite works through them without the interpreter's lock in between, which the
        # thread that serves the sockets wants as well.
        whole = len(records) - len(records) % _INSERT_ROWS
        for start in range(0, whole, _INSERT_ROWS):
            values: list[int | bytes] = []
            for record in records[start : start + _INSERT_ROWS]:
                values += (record.id, record.body)
            self.connection.execute(self._insert_many, values)
        if len(records) == 1:
            self.connection.execute(self._insert_one, (records[0].id, records[0].body))
        else:
            self.connection.executemany(self._insert_one, [(record.id, record.body) for record in records[whole:]])

    def hold(self, counts: Counts, holds: Sequence[tuple[str, Record]]) -> None:
        """Move messages to the held table. Those that are held already stay as they are."""
        for chunk in _portions(holds):
            fresh = self._unknown(HELD, chunk)
            self.connection.executemany(
                f"INSERT INTO {HELD} (id, exchange, msg, accepted_at, boot, boot_s) "
                "VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?)",
                [
                    (record.id, name, record.body, *self._times.stored(stamp(record)))
                    for name, record in fresh
                ],
            )
            for exchange, record in fresh:
                counts.rows += 1
                counts.size_bytes += len(record.body)
                counts.add_held(exchange, 1)
            self._delete_ids(counts, self.main, [record.id for _, record in chunk])

    def park(self, counts: Counts, parks: Sequence[tuple[str, Record, str]], parked_at: float) -> None:
        """Move messages to the parked table. Those that are parked already stay as they are."""
        for chunk in _portions(parks):
            fresh = self._unknown(PARKED, chunk)
            self.connection.executemany(
                f"INSERT INTO {PARKED} (id, exchange, reason, msg, parked_at, accepted_at, boot, boot_s) "
                "VALUES (?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?)",
                [
                    (record.id, exchange, reason, record.body, parked_at, *self._times.stored(stamp(record)))
                    for exchange, record, reason in fresh
                ],
            )
            counts.parked_rows += len(fresh)
            counts.parked_bytes += sum(len(record.body) for _, record, _ in fresh)
            ids = [record.id for _, record, _ in chunk]
            self._delete_ids(counts, self.main, ids)
            self._delete_held(counts, f"id IN ({_marks(ids)})", ids)

    def _unknown(self, table: str, moves: Sequence[M]) -> list[M]:
        """Return the moves, each id once, whose messages `table` does not have: one may come again after an error."""
        by_id = {move[1].id: move for move in moves}
        sql = f"SELECT id FROM {table} WHERE id IN ({_marks(by_id)})"
        for (known,) in self.connection.execute(sql, tuple(by_id)).fetchall():
            del by_id[known]
        return list(by_id.values())

    def discard(self, counts: Counts, runs: Sequence[Run]) -> None:
        """Delete the rows of the main table that these runs name."""
        for where, values in _conditions(runs):
            self._delete(counts, self.main, where, values)

    def discard_held(self, counts: Counts, runs: Sequence[Run]) -> None:
        """Delete the rows of the held table that these runs name."""
        for where, values in _conditions(runs):
            self._delete_held(counts, where, values)

    def discard_parked(self, counts: Counts, runs: Sequence[Run]) -> None:
        """Delete the rows of the parked table that these runs name."""
        for where, values in _conditions(runs):
            rows, size_bytes = _measure(self.connection, PARKED, where, values)
            self.connection.execute(f"DELETE FROM {PARKED} WHERE {where}", values)
            counts.parked_rows -= rows
            counts.parked_bytes -= size_bytes

    def forget_unused_times(self, counts: Counts, next_id: int) -> None:
        """Forget the acceptance times that no row of the main table needs any more."""
        if counts.ranges >= 2:
            # The range that the oldest row, or else the next one, falls into stays, and with it the newest one.
            self._times.forget_before(counts, self.bounds()[0] or next_id)

    def _delete_ids(self, counts: Counts, table: str, ids: Sequence[int]) -> None:
        self._delete(counts, table, f"id IN ({_marks(ids)})", tuple(ids))

    def _delete_held(self, counts: Counts, where: str, values: Sequence[int | str]) -> None:
        sql = f"SELECT exchange, count(*) FROM {HELD} WHERE {where} GROUP BY exchange"
        for exchange, rows in self.connection.execute(sql, values).fetchall():
            counts.add_held(exchange, -rows)
        self._delete(counts, HELD, where, values)

    def _delete(self, counts: Counts, table: str, where: str, values: Sequence[int | str]) -> int:
        """Delete rows, count them off and return their number."""
        rows, size_bytes = _measure(self.connection, table, where, values)
        if rows:
            self.connection.execute(f"DELETE FROM {table} WHERE {where}", values)
            counts.rows -= rows
            counts.size_bytes -= size_bytes
        return rows

    def bounds(self) -> tuple[int, int]:
        """Return the lowest and the highest id in the main table, zeros when it is empty."""
        # Two subqueries: min and max in one query would read the whole table.
        sql = f"SELECT (SELECT min(id) FROM {self.main}), (SELECT max(id) FROM {self.main})"
        first_id, last_id = self.connection.execute(sql).fetchone()
        return first_id or 0, last_id or 0

    def save(self, counts: Counts, used_id: int, fixed: Mapping[str, int | str]) -> None:
        """Write into the same transaction what shows at the next start whether another program wrote to the file."""
        if fixed:
            self.write_meta(fixed)
        main_rows = counts.rows - sum(counts.held.values())
        self.connection.execute(self._save, (used_id, main_rows))

    def readdress(self, counts: Counts, exchange: str, moves: Sequence[tuple[str, int]]) -> None:
        """Hold messages for another exchange than `exchange`: (the other, id)."""
        self.connection.executemany(f"UPDATE {HELD} SET exchange = ? WHERE id = ?", moves)
        counts.add_held(exchange, -len(moves))
        for other, _ in moves:
            counts.add_held(other, 1)

    def write_meta(self, values: Mapping[str, int | str]) -> None:
        """Set values of the file itself."""
        self.connection.executemany(f"INSERT INTO {META} (key, value) VALUES (?, ?) {_OR_CHANGE}", values.items())


def kept_in_file(path: Path) -> dict[str, str]:
    """Return the kept texts that the file at `path` has without its log; none where they can't be read.

    Changes nothing: opened in another way, SQLite would fold or delete the log.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fspath(path))}?mode=ro&immutable=1", uri=True)) as connection:
            return dict(connection.execute(f"SELECT name, text FROM {KEPT}"))
    except sqlite3.Error:
        return {}


def _measure(
    connection: sqlite3.Connection, table: str, where: str, values: Sequence[int | str] = ()
) -> tuple[int, int]:
    """Return number and bytes of the rows that match."""
    sql = f"SELECT count(*), coalesce(sum(length(CAST(msg AS BLOB))), 0) FROM {table} WHERE {where}"
    rows, size_bytes = connection.execute(sql, values).fetchone()
    return rows, size_bytes


def _upto(cursor: sqlite3.Cursor, max_bytes: int) -> list[Any]:
    """Read rows until their bodies, the second column, would exceed `max_bytes`; at least one if there is one."""
    found: list[Any] = []
    size_bytes = 0
    for row in cursor:
        size_bytes += len(row[1] or b"")
        if found and size_bytes > max_bytes:
            break
        found.append(row)
    # A statement that is not read to its end keeps the log from being emptied.
    cursor.close()
    return found


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut `items` into what one statement can name."""
    for start in range(0, len(items), _CHUNK_ROWS):
        yield items[start : start + _CHUNK_ROWS]


def _conditions(runs: Sequence[Run]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return conditions, with their values, that name the ids of `runs` and no other."""
    if len(runs) == 1:
        yield "id BETWEEN ? AND ?", runs[0]
        return
    for first, last in runs:
        if last > first:
            yield "id BETWEEN ? AND ?", (first, last)
    for chunk in _portions([first for first, last in runs if first == last]):
        yield f"id IN ({_marks(chunk)})", tuple(chunk)


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
