"""Pages of a journal's tables, as an operator looks at them. Knows columns and their order; no files, no totals."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vigiloconn.errors import BadMessage
from vigiloconn.serialize import stored_route_key

WAITING, HELD, PARKED = "waiting", "held", "parked"
#: Messages that one look takes, and bytes of their bodies: a reader that stays long keeps the log from being folded.
PAGE_MESSAGES = 500
PAGE_BYTES = 1 << 20

_ACCEPTED, _BOOT, _KEPT = "vigiloconn_accepted", "vigiloconn_boot", "vigiloconn_kept"
_TABLES = {HELD: "vigiloconn_held", PARKED: "vigiloconn_parked"}


class Entry(msgspec.Struct, frozen=True):
    """A message in the journal, and where it stands."""

    table: str
    """`waiting`, `held` or `parked`."""
    at: int
    """Its place in its table; pages go by it."""
    id: int
    body: bytes
    exchange: str = ""
    """The exchange that it is held for, or that did not want it; empty while it waits."""
    reason: str = ""
    """Why it is parked."""
    accepted_at: float | None = None
    """UNIX seconds; None where that is not known."""
    boot_s: float | None = None
    """The same by this boot's clock; None for a message of another boot."""
    parked_at: float | None = None

    @property
    def since(self) -> float | None:
        """When it was accepted; for one that an older version has parked, when that was."""
        return self.parked_at if self.accepted_at is None else self.accepted_at

    @property
    def type(self) -> str:
        """The message's type, empty where it is no message."""
        try:
            return stored_route_key(self.body).type
        except BadMessage:
            return ""


class Pages:
    """Reads the tables on a connection that is opened and closed by somebody else, whatever version has made them.

    `main` is the main table's name; `boot_id` tells this boot of the machine from others.
    """

    def __init__(self, connection: sqlite3.Connection, main: str, boot_id: str) -> None:
        self._connection = connection
        self._tables = {WAITING: main.strip('"'), **_TABLES}
        self._columns: dict[str, frozenset[str]] = {}
        self._boot = self._boot_number(boot_id)
        self._selects = {table: self._select(table) for table in self._tables if self._known(table)}

    def has(self, table: str) -> bool:
        """Answer whether there is such a table."""
        return table in self._selects

    def page(
        self, table: str, after: int, upto: int, limit: int = PAGE_MESSAGES, max_bytes: int = PAGE_BYTES
    ) -> list[Entry]:
        """Return up to `limit` messages of a table, from behind `after` up to `upto`, in order.

        Stops before `max_bytes` of bodies are exceeded, but gives one message whatever its size.
        """
        if table not in self._selects:
            return []
        place = self._place(table)
        sql = f"{self._selects[table]} WHERE {place} > ? AND {place} <= ? ORDER BY {place} LIMIT ?"
        found: list[Entry] = []
        size_bytes = 0
        cursor = self._connection.execute(sql, (after, upto, limit))
        for row in cursor:
            entry = _entry(table, row)
            size_bytes += len(entry.body)
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
        # A statement that is not read to its end keeps the log from being emptied.
        cursor.close()
        return found

    def named(self, table: str, ids: Sequence[int]) -> list[Entry]:
        """Return the messages of a table with these ids, at most 500, in order."""
        if table not in self._selects or not ids:
            return []
        marks = ",".join("?" for _ in ids)
        sql = f"{self._selects[table]} WHERE m.id IN ({marks}) ORDER BY {self._place(table)}"
        return [_entry(table, row) for row in self._connection.execute(sql, tuple(ids))]

    def measure(self, table: str, after: int, limit: int) -> tuple[int, int, int]:
        """Return number, bytes and last place of up to `limit` messages behind `after`."""
        if table not in self._selects:
            return 0, 0, after
        place = self._place(table).removeprefix("m.")
        sql = (
            f"SELECT count(*), coalesce(sum(length(CAST(msg AS BLOB))), 0), coalesce(max({place}), 0) FROM "
            f'(SELECT {place}, msg FROM "{self._tables[table]}" WHERE {place} > ? ORDER BY {place} LIMIT ?)'
        )
        count, size_bytes, last = self._connection.execute(sql, (after, limit)).fetchone()
        return count, size_bytes, last if count else after

    def kept(self, name: str) -> str | None:
        """Return the text that was stored with messages under this name."""
        if not self._known_as(_KEPT):
            return None
        found = self._connection.execute(f"SELECT text FROM {_KEPT} WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def last_place(self, table: str) -> int:
        """Return the place of the newest message of a table, 0 where there is none."""
        if table not in self._selects:
            return 0
        place = self._place(table).removeprefix("m.")
        found = self._connection.execute(f'SELECT max({place}) FROM "{self._tables[table]}"').fetchone()
        return found[0] or 0

    def _place(self, table: str) -> str:
        return "m.seq" if table == PARKED else "m.id"

    def _select(self, table: str) -> str:
        name, join = self._tables[table], ""
        if table == WAITING:
            columns = "'', '', NULL, NULL, NULL"
            if self._known_as(_ACCEPTED):
                # Their times are kept for ranges of ids.
                columns = f"'', '', a.accepted_at, {self._boot_s(_ACCEPTED, 'a')}, NULL"
                join = (
                    f" LEFT JOIN {_ACCEPTED} a ON a.first_id = "
                    f"(SELECT max(first_id) FROM {_ACCEPTED} WHERE first_id <= m.id)"
                )
        elif table == HELD:
            columns = f"m.exchange, '', m.accepted_at, {self._boot_s(name, 'm')}, NULL"
        else:
            time = "m.accepted_at" if "accepted_at" in self._known_as(name) else "NULL"
            columns = f"m.exchange, m.reason, {time}, {self._boot_s(name, 'm')}, m.parked_at"
        return f'SELECT {self._place(table)}, m.id, CAST(m.msg AS BLOB), {columns} FROM "{name}" m{join}'

    def _boot_s(self, table: str, alias: str) -> str:
        if self._boot is None or "boot_s" not in self._known_as(table):
            return "NULL"
        return f"CASE {alias}.boot WHEN {self._boot} THEN {alias}.boot_s END"

    def _boot_number(self, boot_id: str) -> int | None:
        if not boot_id or not self._known_as(_BOOT):
            return None
        found = self._connection.execute(f"SELECT number FROM {_BOOT} WHERE boot_id = ?", (boot_id,)).fetchone()
        return int(found[0]) if found else None

    def _known(self, table: str) -> frozenset[str]:
        return self._known_as(self._tables[table])

    def _known_as(self, name: str) -> frozenset[str]:
        """Return the columns of a table, none where it is missing."""
        if name not in self._columns:
            self._columns[name] = frozenset(
                row[1] for row in self._connection.execute(f'PRAGMA table_info("{name}")')
            )
        return self._columns[name]


def _entry(table: str, row: Iterable[Any]) -> Entry:
    at, id, body, exchange, reason, accepted_at, boot_s, parked_at = row
    return Entry(table, at, id, body or b"", exchange, reason, accepted_at, boot_s, parked_at)
