"""What a journal's file holds, read past the one that owns it: in one short transaction, and writing nothing.

Knows the tables as they are documented for other readers.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from vigiloconn.errors import VigiloError
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.tables import PREFIX

_BUSY_S = 0.25
#: Kinds of parked messages that are told apart; nobody reads more.
_MAX_KINDS = 50


class Unreadable(VigiloError):
    """Raised when the file can't be read. It may be sound, and busy."""


class ParkedKind(NamedTuple):
    """Messages that are parked for the same reason."""

    exchange: str
    reason: str
    messages: int
    oldest_s: float
    """Seconds since the first of them was parked."""


class Contents(NamedTuple):
    """What the file holds."""

    parked: tuple[ParkedKind, ...]
    oldest_s: float
    """Age of the oldest message that waits or is held, 0 where there is none."""
    waiting: int
    """Rows of the main table; 0 where they were not counted."""
    held: dict[str, int]
    """exchange -> messages; empty where they were not counted."""


def read_contents(
    path: Path, table: str, clock: JournalClock, *, is_counted: bool = False, with_parked: bool = False
) -> Contents:
    """Read the age of the oldest message, and more where that is asked for. Raises `Unreadable`.

    `is_counted`: the messages that wait, which takes longer the more there are. `with_parked`: the kinds of parked
    ones.
    """
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_BUSY_S)
        try:
            connection.execute("BEGIN")
            return _read(connection, f'"{table}"', clock, is_counted, with_parked)
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise Unreadable(f"journal {path}: can't be read: {exc}") from exc


def _read(
    connection: sqlite3.Connection, table: str, clock: JournalClock, is_counted: bool, with_parked: bool
) -> Contents:
    boots = dict(connection.execute(f"SELECT number, boot_id FROM {PREFIX}boot"))
    now = clock.now()

    def age_s(accepted_at: float, boot: int | None, boot_s: float | None) -> float:
        if now.boot_s is not None and boot_s is not None and boots.get(boot) == clock.boot_id:
            return max(0.0, now.boot_s - boot_s)
        return max(0.0, now.wall_s - accepted_at)

    ages = [age_s(*row) for row in connection.execute(
        f"SELECT accepted_at, boot, boot_s FROM {PREFIX}accepted WHERE first_id <= (SELECT min(id) FROM {table}) "
        "ORDER BY first_id DESC LIMIT 1"
    )]  # fmt: skip
    ages += [age_s(*row) for row in connection.execute(
        f"SELECT accepted_at, boot, boot_s FROM {PREFIX}held ORDER BY id LIMIT 1"
    )]  # fmt: skip
    parked = () if not with_parked else tuple(
        ParkedKind(exchange, reason, messages, max(0.0, now.wall_s - parked_at))
        for exchange, reason, messages, parked_at in connection.execute(
            f"SELECT exchange, reason, count(*), min(parked_at) FROM {PREFIX}parked GROUP BY exchange, reason "
            f"ORDER BY 3 DESC LIMIT {_MAX_KINDS}"
        )
    )
    waiting, held = 0, {}
    if is_counted:
        waiting = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        held = dict(connection.execute(f"SELECT exchange, count(*) FROM {PREFIX}held GROUP BY exchange"))
    return Contents(parked, max(ages, default=0.0), waiting, held)
