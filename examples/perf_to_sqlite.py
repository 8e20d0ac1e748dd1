"""Writes performance data from the bus into an SQLite file, many values in one transaction.

    vigilo-connector run examples.perf_to_sqlite:build --config FILE

`[connector-perf_to_sqlite] database` names the file.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from vigiloconn.connectors.parts import add_consumer
from vigiloconn.errors import BadMessage, StartError
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.options import Settings
from vigiloconn.settings.own import setting, text
from vigiloconn.supervisor import Supervisor

SETTINGS = (setting("database", text, "path of the SQLite file"),)

_TABLE = """
CREATE TABLE IF NOT EXISTS perf (
    host TEXT, datasource TEXT, timestamp REAL, value REAL,
    PRIMARY KEY (host, datasource, timestamp)
) WITHOUT ROWID
"""


class PerfWriter(MessageHandler):
    """A value that comes twice replaces itself: the primary key makes repeats harmless."""

    name = "perf writer"

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def start_service(self) -> None:
        # Here and not in the constructor: `vigilo-connector check` builds a connector, too, and must touch nothing.
        try:
            self._db = sqlite3.connect(self._path)
            self._db.execute(_TABLE)
        except sqlite3.Error as exc:
            raise StartError(f"{self._path}: can't be used: {exc}") from exc
        super().start_service()

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        rows = [row_of(message) for message in batch]
        # All of them or none: what raises here is tried again, so it must leave nothing half done.
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO perf VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._db.close()


def row_of(message: dict[str, Any]) -> tuple[str, str, float, float]:
    """Return the row that a message stands for. Raises `BadMessage`: trying again would not help."""
    try:
        names = str(message["host"]), str(message["datasource"])
        return *names, float(message["timestamp"]), float(message["value"])
    except (KeyError, TypeError, ValueError) as exc:
        raise BadMessage(f"expected host, datasource, timestamp and value of a perf message: {exc!r}") from exc


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    add_consumer(settings, supervisor, PerfWriter(settings.own["database"]))
