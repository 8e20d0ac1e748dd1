"""Configuration that another program distributes as a file: read at the start, and again when it changes.

Knows files, SQLite databases and Nagios' object files; what their content means, their readers know.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import gevent
import msgspec
import peewee
from gevent.event import Event

from vigiloconn.errors import VigiloError
from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.serialize import decode_text
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: How often modification time and inode are looked at: a file that changed is read within two of these, once it was
#: the same twice. A writer that is in the middle of it must not have half of it taken for the whole.
POLL_S = 0.5

T = TypeVar("T")
_Signature = tuple[tuple[int, ...] | None, ...]


class BadFile(VigiloError):
    """Raised when a distributed file can't be understood. What it held before stays in force."""


class ConfFile(Handler, Generic[T]):
    """A file that is read again on SIGHUP (`reload()`) and when it has changed; a subclass says how, in `read()`.

    `data` changes at once from what the file held to what it holds. A file that is missing, can't be read or is
    broken changes nothing: the old data stay, which is logged and a WARNING in `problems()`. Supervised: `run()`
    does the looking; reading is done in a native thread, so that a large file does not hold up the others.

    Counters in `stats()`: conf_loads, conf_failures.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, poll_s: float = POLL_S, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.path = Path(path)
        self.name = f"file {self.path}"
        self.data: T | None = None
        """What the file held when it was last read well; None before that."""
        self.problem: str | None = None
        """Why the file as it is now is not in force."""
        self.loads = 0
        self.failures = 0
        self._poll_s = poll_s
        self._on_change = on_change
        self._wake = Event()
        self._stopping = False
        self._reload_asked = False
        self._loaded: _Signature = ()
        self._seen: _Signature = ()

    def read(self) -> T:
        """Return what the file holds now. Runs in a native thread. Raises `OSError` or `BadFile`."""
        raise NotImplementedError

    def paths(self) -> tuple[Path, ...]:
        """Return the files whose change is a change of this one."""
        return (self.path,)

    # -- life ------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        self.load()

    def run(self) -> None:
        while not self._stopping:
            self._wake.wait(seconds_to_beat(time.monotonic(), self._poll_s))
            self._wake.clear()
            if self._stopping:
                return
            if self._reload_asked:
                self._reload_asked = False
                self._load(self._read_in_thread)
            elif self._is_changed():
                self._load(self._read_in_thread)

    def stop_service(self) -> None:
        self._stopping = True
        self._wake.set()

    def reload(self) -> None:
        self._reload_asked = True
        self._wake.set()

    def load(self) -> bool:
        """Read the file now, on this greenlet. Returns whether its content is in force."""
        return self._load(self.read)

    def stats(self) -> dict[str, float]:
        return {"conf_loads": self.loads, "conf_failures": self.failures}

    def problems(self) -> list[Problem]:
        return [Problem("configuration-file", Level.WARNING, self.problem)] if self.problem else []

    # -- reading ---------------------------------------------------------------------------------------------

    def _read_in_thread(self) -> T:
        outcome: T | OSError | BadFile = gevent.get_hub().threadpool.apply(self._read_outcome)
        if isinstance(outcome, OSError | BadFile):
            raise outcome
        return outcome

    def _read_outcome(self) -> T | OSError | BadFile:
        """Return what the file holds, or why it can't be used: gevent prints what a native thread lets out."""
        try:
            return self.read()
        except (OSError, BadFile) as exc:
            return exc

    def _signature(self) -> _Signature:
        return tuple(_stat(path) for path in self.paths())

    def _is_changed(self) -> bool:
        """Answer whether the file differs from the one that was read last and has come to rest."""
        signature = self._signature()
        settled = signature == self._seen
        self._seen = signature
        return settled and signature != self._loaded

    def _load(self, read: Callable[[], T]) -> bool:
        before = self._signature()
        try:
            data = read()
        except (OSError, BadFile) as exc:
            self._loaded = self._seen = before
            self._failed(exc)
            return False
        # A file that was written to meanwhile is looked at again at the next poll.
        self._loaded = self._seen = before
        self.data = data
        self.loads += 1
        if self.problem is not None or self.loads > 1:
            log.info("%s: read again", self.path)
        self.problem = None
        self._on_change()
        return True

    def _failed(self, error: OSError | BadFile) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        kept = "there is nothing in force yet" if self.data is None else "what it held before stays in force"
        problem = f"{self.path}: can't be used: {reason}; {kept}"
        self.failures += 1
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem


class ConfFileJSON(ConfFile[Any]):
    """A file with one JSON value, which is `data`. A database instead of it would be a `ConfDB`."""

    def read(self) -> Any:
        try:
            return msgspec.json.decode(self.path.read_bytes())
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadFile(f"expected JSON: {exc}") from exc


class ConfDB(ConfFile[peewee.SqliteDatabase]):
    """An SQLite database that another process writes or replaces. `data` is a copy of it in memory, on peewee.

    As a copy it is one consistent state, survives whatever happens to the file, and is asked without touching a
    disk: `query()` and models bound to `data` may run on any greenlet. Sized for what is distributed to one host.
    """

    def read(self) -> peewee.SqliteDatabase:
        source = peewee.SqliteDatabase(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        copy = peewee.SqliteDatabase(":memory:", thread_safe=False, check_same_thread=False)
        # A file that is missing has an error of its own, and SQLite's says less.
        os.stat(self.path)
        try:
            copy.connect()
            source.connect()
            source.connection().backup(copy.connection())  # type: ignore[no-untyped-call]
            found = copy.execute_sql("PRAGMA quick_check(1)").fetchone()  # type: ignore[no-untyped-call]
        except (peewee.PeeweeException, sqlite3.Error) as exc:
            # The copying is the driver's own call, its errors are not peewee's.
            raise BadFile(f"expected an SQLite database: {exc}") from exc
        finally:
            source.close()
        if found != ("ok",):
            raise BadFile(f"expected a sound SQLite database: {found[0]}")
        if not copy.get_tables():
            # So does an emptied file look to SQLite.
            raise BadFile("expected an SQLite database with tables, found none")
        return copy

    def paths(self) -> tuple[Path, ...]:
        # In WAL mode that is where changes go first.
        return (self.path, self.path.with_name(f"{self.path.name}-wal"))

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a SELECT gives. Raises `BadFile` before the file was ever read well, and when the
        database has not what is asked for."""
        if self.data is None:
            raise BadFile(self.problem or f"{self.path}: not read yet")
        try:
            return list(self.data.execute_sql(sql, values).fetchall())  # type: ignore[no-untyped-call]
        except peewee.PeeweeException as exc:
            raise BadFile(f"{self.path}: {sql}: {exc}") from exc


class NagiosConfFile(ConfFile[frozenset[str]]):
    """The hosts that a Nagios knows, from the `host_name NAME` lines of its object files or `objects.cache`.

    A file with neither `host_name` nor `define` in it is a plain list, one name a line, as other monitors give it.
    While there is nothing to filter by (a file that was never readable) every host passes, and `problems()` says so.
    A file without any host counts as broken.
    """

    _HOST_NAME = re.compile(r"^[ \t]*host_name[ \t]+([^;\r\n]+)", re.MULTILINE)
    _DEFINITION = re.compile(r"^[ \t]*(?:host_name|define)[ \t{]", re.MULTILINE)

    def has_host(self, name: str) -> bool:
        """Answer whether messages of this host are for this Nagios: yes for all while there is no filter."""
        return self.data is None or name in self.data

    def read(self) -> frozenset[str]:
        text = decode_text(self.path.read_bytes())
        if self._DEFINITION.search(text):
            names = [name for names in self._HOST_NAME.findall(text) for name in names.split(",")]
        else:
            names = [line for line in text.splitlines() if not line.startswith("#")]
        hosts = frozenset(name.strip() for name in names if name.strip())
        if not hosts:
            raise BadFile("expected lines `host_name NAME`, or a plain list of names, found none")
        return hosts

    def problems(self) -> list[Problem]:
        if self.data is None:
            text = f"messages of all hosts pass to Nagios: {self.problem}"
            return [Problem("nagios-config-unread", Level.WARNING, text)]
        return super().problems()


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # The change time too: a file that could not be read becomes readable without being written.
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
