"""Changes of a journal as a person asks for them: slice by slice, with a count at the end. Imports no gevent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from vigiloconn.cli.desks import Desk, open_desk
from vigiloconn.errors import BadMessage
from vigiloconn.journal import amend
from vigiloconn.journal.amend import Order, Slice
from vigiloconn.journal.lines import from_line, to_line
from vigiloconn.journal.pages import HELD, PAGE_MESSAGES, WAITING, Entry
from vigiloconn.journal.reader import JournalReader
from vigiloconn.journal.salvage import Salvage
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, fail, say
from vigiloconn.kit.progress import Progress
from vigiloconn.options import Settings

#: What is put back at a time, in bytes of lines: half of what one request may have.
_PORTION_BYTES = 512 << 10
#: Refused lines that are named one by one.
_MOST_NAMED = 20

Change = Callable[[Desk, Order], Slice]


class Changes:
    """Changes the journal at `path`, on which `process` runs, None where none does."""

    def __init__(self, settings: Settings, path: Path, process: int | None, program: str) -> None:
        self._settings = settings
        self._path = path
        self._process = process
        self._program = program

    def retry(self, order: Order, ids: list[int]) -> int:
        """Send parked messages again."""
        return self._done("to be sent again", order, ids, lambda desk, slice: desk.retry(slice))

    def discard(self, order: Order, ids: list[int]) -> int:
        """Delete messages."""
        return self._done("discarded", order, ids, lambda desk, slice: desk.discard(slice))

    def move(self, order: Order, to: str | None) -> int:
        """Hold messages for another exchange."""
        return self._done("moved", order, [], lambda desk, slice: desk.move(slice, to))

    def put_back(self, source: BinaryIO) -> int:
        """Accept lines of `journal export`."""
        refused = _Refused(self._program)

        def entries() -> Iterator[Entry]:
            for number, line in enumerate(source, 1):
                try:
                    if line.strip():
                        yield from_line(line)
                except BadMessage as exc:
                    refused.add(f"line {number}: {exc}")

        return self._put_back("imported", entries(), refused, _identity(source))

    def salvage(self, damaged: Path) -> int:
        """Accept what can be read of a damaged file."""
        refused = _Refused(self._program)
        with Salvage(damaged, self._settings.runtime.backup_table, self._path.parent) as salvage:

            def entries() -> Iterator[Entry]:
                for entry in salvage.entries():
                    if entry.type:
                        yield entry
                    else:
                        refused.add(f"{entry.table} {entry.id}: no JSON object with a type")

            status = self._put_back("salvaged", entries(), refused, salvage.identity)
            for text in salvage.unreadable:
                status = fail(f"can't be read: {text}", EXIT_FAILED, self._program)
        return status

    def _put_back(self, verb: str, entries: Iterable[Entry], refused: _Refused, source: str | None) -> int:
        """Put back what a run that was interrupted has left of the same source; all, where it can't be known again."""
        done = 0
        try:
            with self._desk() as desk, Progress(verb) as progress:
                before = self._taken_before(source)
                if before:
                    say(f"{before} messages were {verb} by a run that did not end: what is behind them follows",
                        self._program)
                for portion in _portions(islice(entries, before, None)):
                    done += len(portion)
                    desk.put_back(portion, amend.Progress(source, before + done) if source else None)
                    progress.did(len(portion))
                if source:
                    desk.put_back([], amend.Progress(source, None))
        except KeyboardInterrupt:
            return self._interrupted(done, verb)
        print(f"{done} messages {verb}")
        return refused.status()

    def _taken_before(self, source: str | None) -> int:
        if source is None:
            return 0
        with JournalReader(self._path, self._settings.runtime.backup_table) as reader:
            return int(reader.kept(amend.Progress(source, None).name) or 0)

    def _done(self, verb: str, order: Order, ids: list[int], change: Change) -> int:
        with JournalReader(self._path, self._settings.runtime.backup_table) as reader:
            orders = list(_orders(reader, order, ids))
            total = len(ids) or reader.quick_count(order.table)
        done = 0
        try:
            with self._desk() as desk, Progress(verb, total) as progress:
                for asked in orders:
                    for slice in _slices(desk, asked, change):
                        done += slice.done
                        progress.did(slice.done)
        except KeyboardInterrupt:
            return self._interrupted(done, verb)
        print(f"{done} messages {verb}")
        if done < len(ids):
            why = "are on their way, or not there" if order.table == WAITING else "are not there"
            return fail(f"{len(ids) - done} {why}", EXIT_FAILED, self._program)
        return EXIT_DONE

    def _interrupted(self, done: int, verb: str) -> int:
        return fail(f"interrupted: {done} messages {verb} so far, and perhaps the next few", EXIT_FAILED, self._program)

    def _desk(self) -> AbstractContextManager[Desk]:
        return open_desk(self._settings, self._path, self._process, self._program)


class _Refused:
    """Names the first of what could not be taken, and counts the rest."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._count = 0

    def add(self, text: str) -> None:
        self._count += 1
        if self._count <= _MOST_NAMED:
            say(f"not taken: {text}", self._program)

    def status(self) -> int:
        """Return the exit status, with the number of all where there were any."""
        return fail(f"{self._count} could not be taken", EXIT_FAILED, self._program) if self._count else EXIT_DONE


def _identity(file: BinaryIO) -> str | None:
    """Return what tells a file's content from others, None for what can be read but once."""
    if not file.seekable():
        return None
    identity = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return identity


def _slices(desk: Desk, order: Order, change: Change) -> Iterator[Slice]:
    is_end = False
    while not is_end:
        slice = change(desk, order)
        yield slice
        order, is_end = msgspec.structs.replace(order, after=slice.after), slice.is_end


def _orders(reader: JournalReader, order: Order, ids: list[int]) -> Iterator[Order]:
    """Cut an order in what can be asked for: ids in portions, what is held by exchange; nothing that comes later."""
    if not ids:
        upto = reader.last_place(order.table)
        exchanges = reader.exchanges() if order.table == HELD and order.exchange is None else [order.exchange]
        for exchange in exchanges:
            yield msgspec.structs.replace(order, upto=upto, exchange=exchange)
        return
    for start in range(0, len(ids), PAGE_MESSAGES):
        portion = ids[start : start + PAGE_MESSAGES]
        if order.table != HELD:
            yield msgspec.structs.replace(order, ids=portion)
            continue
        found = reader.named(HELD, portion)
        for exchange in sorted({entry.exchange for entry in found}):
            if order.exchange in (None, exchange):
                named = [entry.id for entry in found if entry.exchange == exchange]
                yield msgspec.structs.replace(order, ids=named, exchange=exchange)


def _portions(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Cut messages in what is put back at a time."""
    portion: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        line_bytes = len(to_line(entry))
        if portion and (size_bytes + line_bytes > _PORTION_BYTES or len(portion) == PAGE_MESSAGES):
            yield portion
            portion, size_bytes = [], 0
        portion.append(entry)
        size_bytes += line_bytes
    if portion:
        yield portion
