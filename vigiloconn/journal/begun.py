"""A transaction of SQLite's around a block, and its errors as ours. Knows a connection, no tables.

Classes and no generators: each commit passes them, and most of what a small one costs beside its flush is calls.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from peewee import PeeweeException

from vigiloconn.errors import VigiloError
from vigiloconn.journal.files import translate


def _nothing() -> None:
    """Do nothing."""


class Translated:
    """Lets errors of SQLite out of a block as what they mean for the journal at `path`. May be entered again inside."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing is to be begun."""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, (sqlite3.Error, PeeweeException)):
            meaning = translate(exc, self._path)
            if meaning is not None:
                raise meaning from exc


class Begun:
    """A block in which nobody else can write. What it did is committed, or where anything is raised undone.

    `look` is called first, inside; `failed` after an error of ours that came behind it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        translated: Translated,
        look: Callable[[], None] = _nothing,
        failed: Callable[[], None] = _nothing,
    ) -> None:
        self._connection = connection
        self._translated = translated
        self._look = look
        self._failed = failed

    def __enter__(self) -> None:
        with self._translated:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._look()
            except BaseException:
                self._undo()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._translated:
                self._end(exc)
        except VigiloError:
            self._failed()
            raise

    def _end(self, exc: BaseException | None) -> None:
        try:
            if exc is not None:
                raise exc
            self._connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        # SQLite ends some failed transactions itself.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
