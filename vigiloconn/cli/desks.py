"""Who changes a journal: the connector that runs on it, or this process while none does. Imports no gevent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlencode

import msgspec

from vigiloconn.control.asking import Answer, CantAsk, ask
from vigiloconn.control.place import control_path
from vigiloconn.errors import JournalBusy, OutsideChange, StartError, VigiloError
from vigiloconn.journal import amend
from vigiloconn.journal.amend import Move, Order, Progress, Slice
from vigiloconn.journal.lines import to_line
from vigiloconn.journal.pages import Entry
from vigiloconn.journal.store import DbRetry
from vigiloconn.kit.exits import say
from vigiloconn.options import Publication, Settings

#: How long the connector may take for one request: its disk may be slow.
_TIMEOUT_S = 60.0
#: How often, and after how long, something is asked for again that can't be done in this very moment.
_TRIES = 20
_PAUSE_S = 0.25

T = TypeVar("T")


class Desk(Protocol):
    """Where changes are made, a slice at a time. Each raises a `VigiloError` when it can't be done."""

    def retry(self, order: Order) -> Slice:
        """Let parked messages wait again."""

    def discard(self, order: Order) -> Slice:
        """Delete messages."""

    def move(self, order: Order, to: str | None) -> Slice:
        """Let messages that are held for one exchange be held for another one, None: that of their type."""

    def put_back(self, entries: Sequence[Entry], progress: Progress | None) -> None:
        """Accept messages of another journal, and note with them how far it is."""


class Running:
    """The connector that runs, asked on its control socket."""

    def __init__(self, control: Path) -> None:
        self._control = control

    def retry(self, order: Order) -> Slice:
        return self._slice("/journal/retry", order)

    def discard(self, order: Order) -> Slice:
        return self._slice("/journal/discard", order)

    def move(self, order: Order, to: str | None) -> Slice:
        return self._slice("/journal/move", Move(order, to))

    def put_back(self, entries: Sequence[Entry], progress: Progress | None) -> None:
        target = "/journal/import"
        if progress is not None:
            target += "?" + urlencode({"source": progress.source, "taken": progress.text or ""})
        self._post(target, b"".join(map(to_line, entries)))

    def _slice(self, target: str, order: Order | Move) -> Slice:
        return msgspec.json.decode(self._post(target, msgspec.json.encode(order)).body, type=Slice)

    def _post(self, target: str, body: bytes) -> Answer:
        for _ in range(_TRIES):
            answer = ask(self._control, target, body, timeout_s=_TIMEOUT_S)
            if answer.status == 200:
                return answer
            if answer.status != 503:
                break
            # Not in this moment: a trial is under way, another program has the file.
            time.sleep(_PAUSE_S)
        raise VigiloError(answer.text)


class Resting:
    """The file itself. What another program does to it meanwhile is taken in."""

    def __init__(self, journal: DbRetry, publication: Callable[[str], Publication]) -> None:
        self._journal = journal
        self._publication = publication

    def retry(self, order: Order) -> Slice:
        return self._done(lambda: amend.retry(self._journal, order))

    def discard(self, order: Order) -> Slice:
        return self._done(lambda: amend.discard(self._journal, order))

    def move(self, order: Order, to: str | None) -> Slice:
        def exchange_of(kind: str) -> str:
            return self._publication(kind).exchange if to is None else to

        return self._done(lambda: amend.move(self._journal, order, exchange_of)[0])

    def put_back(self, entries: Sequence[Entry], progress: Progress | None) -> None:
        self._done(lambda: amend.put_back(self._journal, entries, progress))

    def _done(self, change: Callable[[], T]) -> T:
        for _ in range(_TRIES):
            try:
                return change()
            except OutsideChange:
                self._journal.take_in(0, [(1, self._journal.written_upto)])
            except JournalBusy:
                time.sleep(_PAUSE_S)
        return change()


def become_owner(path: Path) -> None:
    """Let root go on as the owner of the journal at `path`, or of its directory: what is made beside it must be theirs.

    Only the effective user changes. Raises `StartError`.
    """
    if os.geteuid() != 0:
        return
    try:
        found = os.stat(path if path.exists() else path.parent)
        os.setegid(found.st_gid)
        os.seteuid(found.st_uid)
    except OSError as exc:
        raise StartError(f"journal {path}: can't go on as its owner: {exc.strerror}") from exc


@contextmanager
def open_desk(settings: Settings, path: Path, process: int | None, program: str) -> Iterator[Desk]:
    """Give the way in which the journal at `path` is changed; `process` runs on it, None where none does.

    Raises `StartError`, `CantAsk`.
    """
    if process is not None:
        control = control_path(settings.runtime.control, str(path), settings.nagios.listen_unix)
        if control is None:
            raise CantAsk(f"process {process} runs on the journal and has no control socket ([connector] control is"
                          " empty): stop it first")
        yield Running(control)
        return
    if not path.exists():
        raise StartError(f"journal {path}: there is none: is that the connector's backup_file?")
    runtime = settings.runtime
    journal = DbRetry(
        path, table=runtime.backup_table, min_free_bytes=runtime.journal_min_free_bytes,
        synchronous="normal" if runtime.synchronous == "normal" else "full",
    )  # fmt: skip
    report = journal.open()
    if report.set_aside is not None:
        say(f"the file was damaged ({report.problem}): it is set aside as {report.set_aside}", program)
    try:
        yield Resting(journal, settings.publication)
    finally:
        journal.close()
