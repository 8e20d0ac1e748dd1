"""The journal: accepted messages in an SQLite file. Knows transactions and full disks; not buses, not greenlets."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from peewee import PeeweeException, SqliteDatabase

from vigiloconn.errors import (
    JournalBusy,
    JournalDamaged,
    JournalFull,
    OutsideChange,
    SettingsError,
    StartError,
)
from vigiloconn.journal import room
from vigiloconn.journal.begun import Begun, Translated
from vigiloconn.journal.clock import JournalClock, Stamp
from vigiloconn.journal.closing import ClosingNote, Totals
from vigiloconn.journal.counts import Counts
from vigiloconn.journal.files import (
    NoRoom,
    Reserve,
    check_place,
    free_bytes,
    inode_and_size,
    lengthen,
    log_problem,
    make_private,
    set_aside,
    sqlite_error,
)
from vigiloconn.journal.pagefile import PageFile
from vigiloconn.journal.rows import JournalRows, kept_in_file
from vigiloconn.journal.runs import LOWEST_ID, Run, gaps, merged
from vigiloconn.journal.space import Space
from vigiloconn.journal.tables import PREFIX
from vigiloconn.journal.transaction import OpenReport, ParkedRecord, StoredRecord, Transaction
from vigiloconn.kit.lockfile import LockFile

__all__ = ["DbRetry", "OpenReport", "ParkedRecord", "StoredRecord", "Transaction"]

log = logging.getLogger(__name__)

#: Version of the side tables. A file with a higher one was written by a newer program.
SCHEMA_VERSION = 3
#: Ids that a killed process used without journaling them are unknown to its file, so the next process begins this
#: much higher; 63 bits have room for nine million such ends.
CRASH_GAP_IDS = 10**12
#: Where a Twisted connector keeps what waits, whatever its settings say.
_DEFAULT_TABLE = '"tobus"'
_COLUMNS = [("id", 1), ("msg", 0)]
#: Rows that are taken over from there at a time.
_PORTION_ROWS = 1000
_BUSY_TIMEOUT_S = 0.25
#: To check so much and more takes a second or many on a slow disk, and is said.
_LONG_CHECK_BYTES = 64 << 20

T = TypeVar("T")
#: Held messages that one transaction gives another exchange.
_READDRESS_ROWS = 500


class DbRetry:
    """The journal of one process: a file that SQLite and, for its main table, a Twisted connector can read.

    Synchronous, and used by one thread at a time. Bodies are JSON objects in UTF-8: the main table's column type,
    which is the old program's, would turn a text that looks like a number into one. Errors of SQLite come out as
    `JournalFull` or `JournalBusy` (nothing of the transaction is done, try again later) or `JournalDamaged` (call
    `start_afresh`).
    `free_bytes` tells what may still be written below a directory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "tobus",
        synchronous: Literal["full", "normal"] = "full",
        reserve_bytes: int = 1 << 20,
        min_free_bytes: int = 8 << 20,
        clock: JournalClock | None = None,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table) or table.lower().startswith(("sqlite_", PREFIX)):
            raise SettingsError(
                "backup_table: expected a name of letters, digits and _ that does not begin with "
                f"sqlite_ or {PREFIX}, got {table!r}"
            )
        self.volatile = os.fspath(path) == ":memory:"
        # Resolved, so that two names of one file meet at one lock.
        self.path = Path(path) if self.volatile else Path(os.path.realpath(path))
        self._translation = Translated(self.path)
        self.uuid = ""
        self.next_id = 1
        self.outside_changes = 0
        """How often what another program wrote was taken in."""
        self.clock = clock or JournalClock()
        self._counts = Counts()
        self._data_version = 0
        self._never_ours: list[Run] = []
        self.written_upto = 0
        """The highest id that was given to a row of the main table."""
        self._opened = Stamp(0.0, None)
        self._kept: dict[str, str] = {}
        """What is stored of kept texts: a file that is set aside may not give them any more."""
        advice = ": stop it, or name another file in backup_file"
        self._lock = LockFile(f"{self.path}.lock", name="journal lock", advice=advice, mode=0o600)
        self._note = ClosingNote(self.path, table)
        self._untouched: Totals | None = None
        """What the file was left with, where nobody has touched it since."""
        reserve = Reserve(Path(f"{self.path}.reserve"), 0 if self.volatile else reserve_bytes, free_bytes)
        self._space = Space(self.path, self.volatile, reserve, min_free_bytes, free_bytes)
        self._pragmas = {
            "synchronous": synchronous,
            "cache_size": "-2000",
            # A full disk must not fail a statement for want of a temporary file.
            "temp_store": "memory",
            "journal_size_limit": str(room.LOG_BYTES),
            # Debian's SQLite writes zeros over what is deleted: a large body would need as much room to go as it needed
            # to come.
            "secure_delete": "fast",
        }
        self._database = SqliteDatabase(
            os.fspath(self.path),
            timeout=_BUSY_TIMEOUT_S,
            autoconnect=False,
            thread_safe=False,
            check_same_thread=False,
        )
        self._rows = JournalRows(self._database, table)
        self._pages: PageFile
        """Behind the connection: set when it is opened."""

    @property
    def rows(self) -> int:
        """Rows in the main and the held table."""
        return self._counts.rows

    @property
    def size_bytes(self) -> int:
        """Bytes of the bodies in the main and the held table."""
        return self._counts.size_bytes

    @property
    def parked_rows(self) -> int:
        """Rows in the parked table."""
        return self._counts.parked_rows

    @property
    def all_rows(self) -> int:
        """Rows in all tables, the parked one included: what the journal's bounds count."""
        return self._counts.rows + self._counts.parked_rows

    @property
    def all_bytes(self) -> int:
        """Bytes of the bodies in all tables."""
        return self._counts.size_bytes + self._counts.parked_bytes

    @property
    def syncs_commits(self) -> bool:
        """Answer whether each commit is on the disk at once."""
        return not self.volatile and self._pragmas["synchronous"] == "full"

    def open(self) -> OpenReport:
        """Open the file, make it or take it over; a damaged one is set aside and a fresh one begun.

        Raises `StartError` when another process owns it, its place can't be used, or a newer program wrote it.
        """
        if self.volatile:
            self._begin()
            return OpenReport(None, "", 0, True)
        check_place(self.path)
        self._lock.acquire()
        try:
            self._untouched = self._note.take()
            problem = self._find_damage()
            aside = self._put_away(problem) if problem else None
            self._begin()
        except BaseException:
            self._database.close()
            self._lock.release()
            raise
        if not self._space.reserve.keep():
            lacking = "journal %s: no room for a reserve of %d bytes: on a full disk nothing can be discarded"
            log.warning(lacking, self.path, self._space.reserve.size_bytes)
        return OpenReport(aside, problem, self.rows, False)

    def lay_out_log(self) -> None:
        """Give the write-ahead log its usual length now, where the disk has plenty of room.

        A commit that makes it longer has the disk note its size as well, which costs as much as the commit itself.
        SQLite takes zeros behind its log's end for what they are: nothing.
        """
        if not self._space.has_plenty():
            return
        try:
            # Inside: nobody else can write to the log, nor shorten it, while its end is looked for.
            with self._transaction():
                lengthen(Path(f"{self.path}-wal"), room.LOG_BYTES)
        except (OSError, JournalFull, JournalBusy, JournalDamaged) as exc:
            # What is wrong shows at the next commit.
            log.debug("journal %s: its log is left as it is: %s", self.path, exc)

    def apply(self, transaction: Transaction) -> None:
        """Commit `transaction`, in one transaction of SQLite's where the disk has room for it.

        Else it is done in steps, the new messages last and whole; after an error in between it is right to apply the
        same again, for as long as that is not done. Raises `JournalFull`, `JournalBusy`, `JournalDamaged`, and
        `OutsideChange` when `take_in` must come first.
        """
        if transaction.accepts:
            self._space.check_log()
        need = room.need_of(transaction)
        if self._space.fits(transaction, need):
            try:
                self._commit(transaction, need)
            except NoRoom:
                # Others have taken it in this moment.
                self._commit_in_parts(transaction)
        else:
            self._commit_in_parts(transaction)
        self._space.tend()

    def peek(self, after_id: int, limit: int, max_bytes: int) -> list[StoredRecord]:
        """Return up to `limit` oldest messages with ids above `after_id`. Leaves them stored.

        Stops before `max_bytes` of bodies are exceeded, but gives one message whatever its size.
        Raises as `apply` does.
        """
        with self._snapshot():
            return self._rows.peek(after_id, limit, max_bytes, self._opened)

    def peek_held(self, exchange: str, after_id: int, limit: int, max_bytes: int) -> list[StoredRecord]:
        """Return up to `limit` oldest messages held for `exchange`, as `peek` does."""
        with self._snapshot():
            return self._rows.peek_held(exchange, after_id, limit, max_bytes)

    def held_exchanges(self) -> dict[str, int]:
        """Return the exchanges that are held -> number of messages."""
        return dict(self._counts.held)

    def readdress_held(self, publications: str, exchange_of: Callable[[bytes], str | None]) -> int:
        """Let held messages follow settings that have changed; return how many are held for another exchange now.

        `exchange_of` gives the exchange of a body, None to leave it. Nothing is done where `publications` is what it
        was at the last call. In small steps: after an error the next call does the rest. Raises as `apply` does.
        """
        moved = 0
        with self._translated():
            if self._rows.read_meta().get("publications") == publications:
                return 0
        for exchange in self.held_exchanges():
            after_id = 0
            while page := self.peek_held(exchange, after_id, _READDRESS_ROWS, 1 << 20):
                after_id = page[-1].id
                others = [(exchange_of(row.body) or exchange, row.id) for row in page]
                moves = [(other, id) for other, id in others if other != exchange]
                counts = self._counts.copy()
                if moves:
                    with self._transaction():
                        self._rows.readdress(counts, exchange, moves)
                    self._counts = counts
                moved += len(moves)
        with self._transaction():
            self._rows.write_meta({"publications": publications})
        return moved

    def examine(self, look: Callable[[JournalRows], T]) -> T:
        """Return what `look` finds in the tables. Raises as `apply` does."""
        with self._snapshot():
            return look(self._rows)

    def amend(self, weight: Transaction, change: Callable[[JournalRows, Counts], None]) -> None:
        """Let `change` do in one transaction what an operator has asked for, and keep the totals with it.

        What it adds to the main table has ids from `next_id` on. It writes no more than `weight` would. Raises as
        `apply` does: nothing is done then.
        """
        need = room.need_of(weight)
        if not self._space.fits(weight, need):
            self._space.checkpoint()
            if not (self._space.fits(weight, need) or (not weight.grows and self._space.is_folded())):
                raise self._space.no_room()
        if not self.volatile:
            self._space.check_place()
        counts = self._counts.copy()
        with self._transaction_alone():
            change(self._rows, counts)
            last_id = self._rows.bounds()[1]
            used_id = max(self.next_id - 1, last_id)
            self._rows.save(counts, used_id, {})
        self._counts = counts
        self._remember(weight.kept)
        # Only what is added has ids that were not used before.
        self.written_upto = max(self.written_upto, last_id)
        self.next_id = used_id + 1

    def last_id(self) -> int:
        """Return the highest id in the main table, 0 when it is empty."""
        with self._translated():
            return self._rows.bounds()[1]

    def parked(self, limit: int = 100) -> list[ParkedRecord]:
        """Return up to `limit` parked messages, in the order of parking. Leaves them stored."""
        with self._translated():
            return self._rows.parked(limit)

    def kept(self, prefix: str) -> dict[str, str]:
        """Return the texts that were stored with accepted messages, those whose names begin with `prefix`."""
        return {name: text for name, text in self._kept.items() if name.startswith(prefix)}

    def sync(self) -> bool:
        """Answer whether all that was committed is on the disk, and would outlive a power cut.

        With `synchronous = normal` the log has to be folded for that, which is tried. Raises as `apply` does.
        """
        return self.syncs_commits or (not self.volatile and self._space.checkpoint("PASSIVE"))

    def give_back(self) -> bool:
        """Give the disk back a little of what a backlog has left empty; True when it is worth calling again.

        An older file has to be written anew for that, once, and is when it holds no message. Raises as `apply` does.
        """
        if not self._space.is_worth_giving_back():
            return False
        if self._pages.can_shorten():
            with self._transaction_alone():
                self._pages.shorten(room.GIVE_BACK_BYTES)
        elif self.all_rows == 0:
            self.look()
            with self._translated():
                self._pages.rebuild()
        else:
            return False
        self._space.checkpoint("PASSIVE")
        return self._space.is_worth_giving_back()

    def start_afresh(self, problem: str) -> Path:
        """Set the file aside and begin a new one, with a new uuid. Returns where the old one is.

        Ids go on above `next_id`, and kept texts are handed on. What was unread stays in the file that was set aside.
        Raises `StartError` when no new one can be begun; the journal is closed then.
        """
        aside = self._put_away(problem)
        try:
            self._begin()
        except StartError:
            self._database.close()
            raise
        # What skipped its commit comes with the ids that it has.
        self._never_ours = []
        return aside

    def close(self) -> None:
        """Close in order: everything in one file, the lock released. Harmless when called twice."""
        if not self._database.is_closed():
            is_whole = False
            try:
                with self._transaction():
                    is_whole = self._pages.data_version() == self._data_version
                    self._rows.write_meta({"last_used_id": self.next_id - 1, "running": 0})
            except (JournalFull, JournalBusy, JournalDamaged) as exc:
                is_whole = False
                log.warning("journal %s: closed as it is: %s", self.path, exc)
            self._fold_and_close(is_whole)
        self._kept = {}
        self._lock.release()

    def _fold_and_close(self, is_whole: bool) -> None:
        """Close the file, and note how it is left where nobody else has it open or has written to it."""
        # With patience: without a note the next start reads the whole file.
        is_folded = self._space.checkpoint(patient=True) and is_whole and not self.volatile
        stand = self._note.settled_stand() if is_folded else None
        try:
            # Behind the look at the file: what is written from here on shows in its times, or in a log that stays.
            is_ours = self._pages.data_version() == self._data_version
        except (sqlite3.Error, PeeweeException):
            is_ours = False
        self._database.close()
        if stand is not None and is_ours:
            counts = self._counts
            totals = Totals(counts.rows, counts.size_bytes, counts.held, counts.parked_rows, counts.parked_bytes)
            self._note.write(stand, totals)

    # Opening.

    def _find_damage(self) -> str:
        """Return what is wrong with the file, in one line; empty when it is sound or new. Writes nothing."""
        if (problem := log_problem(self.path)) or not inode_and_size(self.path)[1]:
            return problem
        try:
            return self._or_with_reserve(self._check)
        except JournalDamaged as exc:
            return str(sqlite_error(exc.__cause__ or exc))
        except NoRoom as exc:
            raise StartError(str(exc)) from exc
        except (JournalFull, JournalBusy) as exc:
            raise StartError(str(exc)) from exc

    def _connect(self) -> None:
        """Open the file. It stays open when it proves damaged: closing it would fold or delete the log."""
        if not self.volatile:
            make_private(self.path)
        self._database.connect()
        self._rows.connection = self._database.connection()  # type: ignore[no-untyped-call]
        self._pages = self._space.pages = PageFile(self._rows.connection)
        if not inode_and_size(self.path)[1]:
            self._pages.make_shortenable()
        for name, value in self._pragmas.items():
            self._rows.connection.execute(f"PRAGMA {name} = {value}")

    def _check(self) -> str:
        with self._translated():
            self._connect()
            version = self._rows.schema_version()
            if version > SCHEMA_VERSION:
                raise StartError(
                    f"journal {self.path}: written by a newer version of this program (schema {version}, known up to "
                    f"{SCHEMA_VERSION}): install that version again, or name another file in backup_file"
                )
            verdict = "ok" if self._untouched else self._checked()
            columns = self._rows.columns()
        if verdict != "ok":
            return " ".join(verdict.split())
        if columns not in ([], _COLUMNS):
            raise StartError(
                f"journal {self.path}: table {self._rows.main} has the columns "
                f"{', '.join(name for name, _ in columns)}, expected id (the primary key) and msg: name another table "
                "in backup_table or another file in backup_file"
            )
        return ""

    def _checked(self) -> str:
        if (size_bytes := inode_and_size(self.path)[1]) >= _LONG_CHECK_BYTES:
            log.info("journal %s: %d MiB are checked and counted, since its last stop was not an orderly one or "
                     "something has touched it since", self.path, size_bytes >> 20)
        return self._pages.quick_check()

    def _put_away(self, problem: str) -> Path:
        self._untouched = None
        if not self._kept:
            self._kept = self._kept_in_damaged()
        aside = self.path if self.volatile else set_aside(self.path)
        self._database.close()
        log.error("journal %s: damaged (%s): set aside as %s, a new one is begun", self.path, problem, aside)
        return aside

    def _kept_in_damaged(self) -> dict[str, str]:
        """Return what can still be read of the kept texts. Older ones than the last do no harm, but cost repeats."""
        if not self._database.is_closed():
            try:
                return self._rows.read_kept()
            except (sqlite3.Error, PeeweeException):
                pass  # the damage is there, or the file is no database
        return kept_in_file(self.path)

    def _begin(self) -> None:
        """Bring the file into use. Raises `StartError`."""
        try:
            self._or_with_reserve(self._load)
            self._take_over_default_table()
        except (JournalFull, JournalBusy, JournalDamaged) as exc:
            raise StartError(str(exc)) from exc

    def _or_with_reserve(self, action: Callable[[], T]) -> T:
        """Even to read a file SQLite needs a little room beside it."""
        try:
            return action()
        except NoRoom:
            self._database.close()
            self._space.reserve.give_up()
            return action()

    def _load(self) -> None:
        """Make what is missing in the file, and take counters and totals over from it."""
        with self._translated():
            if self._database.is_closed():
                self._connect()
            mode = self._rows.connection.execute("PRAGMA journal_mode = wal").fetchone()[0]
        if mode not in ("wal", "memory"):
            raise StartError(f"journal {self.path}: expected journal mode wal, got {mode}: is it on a local disk?")
        opened = self.clock.now()
        rows = self._rows
        with self._transaction():
            # Here: nobody else can write from here to the commit.
            untouched, self._untouched = self._untouched if self._note.is_still_true() else None, None
            rows.create(self.clock.boot_id)
            meta = rows.read_meta()
            counts = rows.count() if untouched is None else rows.counted(untouched)
            known_id = int(meta.get("last_used_id", 0))
            if meta.get("running") == "1":
                known_id += CRASH_GAP_IDS
            used_id = max(self.next_id - 1, known_id, rows.highest_id())
            strange = rows.misplaced() if untouched is None else []
            if untouched is not None:
                pass
            elif self._has_only_more(meta):
                # All that we left is there: what another program has added needs new ids, and ours keep their times.
                strange = sorted({*strange, *rows.ids_in([(int(meta["last_id"]) + 1, 2**63 - 1)])})
            elif self._is_changed(meta, counts):
                # Another program wrote to the main table, and may have used ids again: the times that we know are
                # not theirs, and a consumer must not take these messages for repeats of ours.
                meta.pop("uuid", None)
                rows.forget_times(counts, rows.bounds()[0], opened)
            used_id = self._renumber(counts, strange, used_id)
            journal_uuid = meta.get("uuid") or uuid.uuid4().hex
            # What a file that was set aside had; there is nothing before the first.
            rows.write_kept(self._kept)
            kept = rows.read_kept()
            rows.save(counts, used_id, {"schema": SCHEMA_VERSION, "uuid": journal_uuid, "running": 1})
            self._data_version = self._pages.data_version()
            first_id, self.written_upto = rows.bounds()
            # Used before and empty now: SQLite may give these ids to another program's messages.
            self._never_ours = [(LOWEST_ID, first_id - 1), (self.written_upto + 1, used_id)]
        self._space.settle()
        self._counts, self._opened, self.next_id, self.uuid = counts, opened, used_id + 1, journal_uuid
        self._kept = kept

    def _take_over_default_table(self) -> None:
        """Move what waits in `tobus` to the table that `backup_table` names: the old program ignored that key."""
        rows = self._rows
        if rows.main.lower() == _DEFAULT_TABLE or rows.columns(_DEFAULT_TABLE) != _COLUMNS:
            return
        moved = 0
        while (portion := rows.first_of(_DEFAULT_TABLE, _PORTION_ROWS))[0]:
            count, size_bytes, upto = portion
            if 5 * size_bytes > self._space.spare_bytes() and not self.volatile:
                log.error("journal %s: no room to take over all that waits in its table tobus: the rest stays there "
                          "until the next start", self.path)
                break
            counts = self._counts.copy()
            with self._transaction():
                rows.move_from(counts, _DEFAULT_TABLE, upto, self.next_id, self._opened)
                rows.save(counts, self.next_id + count - 1, {})
            self._counts, self.next_id = counts, self.next_id + count
            self.written_upto = self.next_id - 1
            self._space.checkpoint("PASSIVE")
            moved += count
        if moved:
            log.info("journal %s: %d messages of its table tobus are taken over", self.path, moved)

    def _has_only_more(self, meta: dict[str, str]) -> bool:
        """Answer whether the main table has all that we left, and that was something, as far as its number tells."""
        if not int(meta.get("main_rows", 0)):
            return False
        left = int(meta["main_rows"]), int(meta["first_id"])
        return self._rows.count_upto(int(meta["last_id"])) == left

    def _is_changed(self, meta: dict[str, str], counts: Counts) -> bool:
        """Answer whether the main table is another one than we left; a file of version 1 tells its bounds only."""
        left = meta.get("first_id"), meta.get("last_id"), meta.get("main_rows")
        main_rows = counts.rows - sum(counts.held.values())
        found = *map(str, self._rows.bounds()), str(main_rows) if left[2] is not None else None
        return left != found

    # Other programs.

    def look(self) -> None:
        """Raise `OutsideChange` when another program has written to the file since the last transaction."""
        with self._translated():
            if self._pages.data_version() != self._data_version:
                raise OutsideChange(f"journal {self.path}: another program has written to it")

    def take_in(self, read_upto: int, known: Sequence[Run]) -> int:
        """Count again, and give the messages of another program new ids behind all others.

        They are those up to `read_upto` that are not `known`, and those whose ids can't be ours. Returns the highest id
        that was ever given to a message, be it there or not. Call it after `OutsideChange`. Raises `JournalFull`,
        `JournalBusy`, `JournalDamaged`.
        """
        try:
            self._take_in(read_upto, known)
        except NoRoom:
            # Nothing can be deleted before this is done.
            self._space.reserve.give_up()
            self._space.checkpoint()
            self._take_in(read_upto, known)
        return self.written_upto

    def _take_in(self, read_upto: int, known: Sequence[Run]) -> None:
        rows = self._rows
        with self._transaction():
            # Inside: nobody else can write from here to the commit.
            version = self._pages.data_version()
            counts = rows.count()
            unread = merged(gaps(known, read_upto), self._never_ours, [(self.written_upto + 1, 2**63 - 1)])
            strange = sorted({*rows.ids_in(unread), *rows.misplaced()})
            used_id = self._renumber(counts, strange, max(self.next_id - 1, rows.highest_id()))
            rows.save(counts, used_id, {})
        self._counts, self.next_id, self.written_upto = counts, used_id + 1, used_id
        self._data_version = version
        self.outside_changes += 1

    def _renumber(self, counts: Counts, ids: Sequence[int], used_id: int) -> int:
        """Give messages of another program new ids above `used_id`; return the highest one used then."""
        if ids:
            log.warning("journal %s: another program has written to it: %d messages are taken in behind all others",
                        self.path, len(ids))
            self._rows.renumber(counts, ids, used_id + 1, self.clock.now())
        return used_id + len(ids)

    # Transactions.

    def _translated(self) -> Translated:
        return self._translation

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read the file as it was left by us. Raises `OutsideChange` when it is not."""
        with self._translated():
            connection = self._rows.connection
            connection.execute("BEGIN")
            try:
                self.look()
                yield
            finally:
                # SQLite ends some that failed itself.
                if connection.in_transaction:
                    connection.execute("COMMIT")

    def _transaction(self) -> Begun:
        self._space.reckoning = None
        return Begun(self._rows.connection, self._translation)

    def _transaction_alone(self) -> Begun:
        """Begin a transaction on the file as it was left by us. Raises `OutsideChange` when it is not."""
        self._space.reckoning = None
        # Inside: nobody else can write from there to the end. What is deleted by its id must be ours.
        return Begun(self._rows.connection, self._translation, self.look, self._note_failure)

    def _note_failure(self) -> None:
        # What failed is no change of another program's, though SQLite counts it as one.
        with self._translated():
            self._data_version = self._pages.data_version()

    def _commit(self, transaction: Transaction, need: room.Need) -> None:
        counts = self._counts.copy()
        used_id = max(self.next_id - 1, transaction.appends[-1].id if transaction.appends else 0)
        if not self.volatile:
            self._space.check_place()
        reckoning = self._space.reckoning
        with self._transaction_alone():
            self._write(transaction, counts, used_id)
        if reckoning is not None and not transaction.holds and not transaction.parks:
            self._space.reckoning = reckoning.after(need)
        self._counts = counts
        self._remember(transaction.kept)
        self.next_id = max(self.next_id, used_id + 1)
        if transaction.appends:
            self.written_upto = transaction.appends[-1].id

    def _remember(self, kept: Mapping[str, str | None]) -> None:
        for name, text in kept.items():
            self._kept.pop(name, None)
            if text is not None:
                self._kept[name] = text

    def _write(self, transaction: Transaction, counts: Counts, used_id: int) -> None:
        rows = self._rows
        if transaction.appends:
            rows.append(counts, transaction.appends)
        if transaction.kept:
            rows.write_kept(transaction.kept)
        if transaction.holds:
            rows.hold(counts, transaction.holds)
        if transaction.parks:
            rows.park(counts, transaction.parks, self.clock.now().wall_s)
        if transaction.held_discards:
            rows.discard_held(counts, transaction.held_discards)
        if transaction.discards:
            rows.discard(counts, transaction.discards)
            rows.forget_unused_times(counts, used_id + 1)
        rows.save(counts, used_id, {})

    def _commit_in_parts(self, transaction: Transaction) -> None:
        """Commit a transaction at once or, where there is no room for that, in halves, the older one first."""
        # The write-ahead log itself may hold the room that is wanted.
        self._space.checkpoint()
        need = room.need_of(transaction)
        if self._space.fits(transaction, need) or (not transaction.grows and self._space.is_folded()):
            try:
                self._commit(transaction, need)
                return
            except NoRoom:
                # What has failed is in the log's file, and goes with it: nothing else was there.
                self._space.checkpoint()
        if not (parts := transaction.parts()):
            raise self._space.no_room()
        for part in parts:
            self._commit_in_parts(part)
