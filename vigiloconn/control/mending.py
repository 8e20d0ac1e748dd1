"""An operator's changes on a running connector: send parked messages again, move held ones, discard, put back.

Knows what has to stand still while a table is changed. Each request is one slice, done in one turn of the journal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from vigiloconn.control.exchange import Function, Refused, Reply, Request, as_json
from vigiloconn.errors import BadMessage, BadMoment, JournalBusy, JournalDamaged, JournalFull
from vigiloconn.interfaces import Record
from vigiloconn.journal import amend
from vigiloconn.journal.amend import Move, Order, Progress, Slice
from vigiloconn.journal.lines import from_line
from vigiloconn.journal.pages import HELD, WAITING, Entry
from vigiloconn.journal.store import DbRetry
from vigiloconn.options import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The longest name of what is put back.
_SOURCE_LENGTH = 200


class Journal(Protocol):
    """The journal's side of the flow, as far as an operator changes something there."""

    journal: DbRetry

    def amend(self, change: Callable[[DbRetry, int], Any]) -> Any:
        """Let `change(journal, read up to)` alter what is stored, between two transactions."""

    def withdraw(self, is_meant: Callable[[Record], bool]) -> int:
        """Discard what was read ahead of the publisher and is meant; return how many."""


class Publisher(Protocol):
    """The bus's side of the flow, likewise."""

    def withdraw(self, is_meant: Callable[[Record], bool]) -> int:
        """Discard what was taken, is not on its way and is meant; return how many."""

    def held_at_rest(self, exchange: str) -> AbstractContextManager[Callable[[int], None]]:
        """Send nothing of what is held for `exchange`; tell what it yields how many messages have left."""

    def moved_in(self, exchange: str, first_id: int, count: int) -> None:
        """So many messages, the lowest of this id, were put among what is held for `exchange`."""


class Mending:
    """The functions behind the paths that change what is in the journal."""

    def __init__(self, journal: Journal, publisher: Publisher, settings: Settings) -> None:
        self._journal = journal
        self._publisher = publisher
        self._settings = settings
        self._done = dict.fromkeys(("retried", "discarded", "moved", "imported"), 0)

    def stats(self) -> dict[str, float]:
        """Return how many messages each kind of change has met. Counters: retried, discarded, moved, imported."""
        return {**self._done}

    def paths(self) -> Mapping[str, Function]:
        """Return path -> function, for `ControlServer.post`."""
        return {
            "/journal/retry": self.retry,
            "/journal/discard": self.discard,
            "/journal/move": self.move,
            "/journal/import": self.put_back,
        }

    def retry(self, request: Request) -> Reply:
        """Let parked messages wait again."""
        order = _decoded(request, Order)
        done = self._amend(lambda journal: amend.retry(journal, order))
        self._done["retried"] += done.done
        if done.done:
            log.info("%d parked messages are sent again, by %s", done.done, _who(request))
        return as_json(done)

    def discard(self, request: Request) -> Reply:
        """Delete messages that are not on their way."""
        order = _decoded(request, Order)
        if order.table == HELD:
            done = self._discard_held(order)
        elif order.table == WAITING:
            done = self._discard_waiting(order)
        else:
            done = self._amend(lambda journal: amend.discard(journal, order))
        self._done["discarded"] += done.done
        if done.done:
            log.warning("%d %s messages were discarded, by %s", done.done, order.table, _who(request))
        return as_json(done)

    def move(self, request: Request) -> Reply:
        """Let messages that are held for one exchange be held for another one."""
        asked = _decoded(request, Move)
        exchange = _exchange_of(asked.order)

        def exchange_of(kind: str) -> str:
            return self._settings.publication(kind).exchange if asked.to is None else asked.to

        with self._held_at_rest(exchange) as left:
            done, moved = self._amend(lambda journal: amend.move(journal, asked.order, exchange_of))
            left(done.done)
        self._done["moved"] += done.done
        for other, what in moved.items():
            self._publisher.moved_in(other, what.first_id, what.count)
            log.warning("%d messages held for exchange %s are held for %s now, by %s",
                        what.count, exchange, other, _who(request))
        return as_json(done)

    def put_back(self, request: Request) -> Reply:
        """Accept lines of `journal export`."""
        entries: list[Entry] = []
        refused: dict[int, str] = {}
        for number, line in enumerate(request.body.splitlines()):
            try:
                entries.append(from_line(line))
            except BadMessage as exc:
                refused[number] = str(exc)
        runtime, journal = self._settings.runtime, self._journal.journal
        if journal.all_rows + len(entries) > runtime.journal_max_messages or (
            journal.all_bytes + len(request.body) > runtime.journal_max_bytes
        ):
            raise Refused("the journal is full: there is no room for more", 507)
        progress = _progress(request)
        self._amend(lambda journal: amend.put_back(journal, entries, progress))
        self._done["imported"] += len(entries)
        if entries:
            log.info("%d messages are put into the journal, by %s", len(entries), _who(request))
        return as_json({"done": len(entries), "refused": refused})

    def _discard_held(self, order: Order) -> Slice:
        exchange = _exchange_of(order)
        with self._held_at_rest(exchange) as left:
            done: Slice = self._amend(lambda journal: amend.discard(journal, order))
            left(done.done)
        return done

    def _discard_waiting(self, order: Order) -> Slice:
        in_memory = 0
        if order.after == 0:
            # What was read and is not on its way; once only, or it would be looked through for each slice.
            is_meant = partial(self._is_meant, order)
            in_memory = self._publisher.withdraw(is_meant) + self._journal.withdraw(is_meant)
        done: Slice = self._amended(
            lambda journal, read_upto: amend.discard(journal, order, spared_upto=read_upto)
        )
        return Slice(done.done + in_memory, done.after, done.is_end)

    def _is_meant(self, order: Order, record: Record) -> bool:
        entry = Entry(
            WAITING, record.id, record.id, record.body, accepted_at=record.accepted_at, boot_s=record.boot_s
        )  # fmt: skip
        return record.id <= order.upto and amend.is_meant(entry, order, self._journal.journal.clock.now())

    @contextmanager
    def _held_at_rest(self, exchange: str) -> Iterator[Callable[[int], None]]:
        with _refusals(), self._publisher.held_at_rest(exchange) as left:
            yield left

    def _amend(self, change: Callable[[DbRetry], Any]) -> Any:
        return self._amended(lambda journal, read_upto: change(journal))

    def _amended(self, change: Callable[[DbRetry, int], Any]) -> Any:
        with _refusals():
            return self._journal.amend(change)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say why something can't be done; 503: in the next moment it may be."""
    try:
        yield
    except BadMoment as exc:
        raise Refused(str(exc), 503 if exc.soon else 409) from exc
    except JournalBusy as exc:
        raise Refused(str(exc), 503) from exc
    except JournalFull as exc:
        raise Refused(str(exc), 507) from exc
    except JournalDamaged as exc:
        raise Refused(str(exc), 500) from exc


def _decoded(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Refused(f"{request.path}: {exc}") from None


def _progress(request: Request) -> Progress | None:
    """Return how far the source of `journal/import?source=NAME&taken=COUNT` is; without a count it is done."""
    source, taken = request.query.get("source", ""), request.query.get("taken", "")
    if not source:
        return None
    if len(source) > _SOURCE_LENGTH or not re.fullmatch(r"[0-9]{0,18}", taken):
        raise Refused(f"source, taken: expected a name and a whole number, got {source[:80]!r} and {taken[:20]!r}")
    return Progress(source, int(taken) if taken else None)


def _exchange_of(order: Order) -> str:
    if order.table != HELD or not order.exchange:
        raise Refused("expected held messages of one exchange")
    return order.exchange


def _who(request: Request) -> str:
    return f"process {request.peer.pid} of user {request.peer.uid}" if request.peer else "nobody"
