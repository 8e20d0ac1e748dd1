"""What goes into a journal and comes out of it: one transaction, what is read back, on what request. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from vigiloconn.interfaces import Record
from vigiloconn.journal.runs import Run

T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """One transaction: applied in the order of its fields, whole or not at all."""

    appends: Sequence[Record] = ()
    """Ids ascending and never used before: take them from `DbRetry.next_id`."""
    kept: Mapping[str, str | None] = field(default_factory=dict)
    """Texts by name, None to delete one. They belong to the appends: stored with them, and never without."""
    holds: Sequence[tuple[str, Record]] = ()
    """(exchange, record): to the held table, and away from the main table."""
    parks: Sequence[tuple[str, Record, str]] = ()
    """(exchange, record, reason): to the parked table, and away from the main and the held table."""
    discards: Sequence[Run] = ()
    """Runs of ids whose rows in the main table are finished."""
    held_discards: Sequence[Run] = ()
    """The same in the held table."""

    def __bool__(self) -> bool:
        return self.accepts or bool(self.holds or self.parks or self.discards or self.held_discards)

    @property
    def accepts(self) -> bool:
        """Answer whether it takes in anything new: messages, or how far a source was read."""
        return bool(self.appends or self.kept)

    @property
    def grows(self) -> bool:
        """Answer whether it writes messages: deletions alone never make the file grow."""
        return self.accepts or bool(self.holds or self.parks)

    def parts(self) -> list[Transaction]:
        """Cut a transaction in two or more, each true by itself, in order; [] when it can't be cut.

        New messages are not cut: they and their texts are accepted together or not at all.
        """
        # Deletions first: the moves can use the room that they make.
        kinds = [Transaction(discards=self.discards)] if self.discards else []
        kinds += [Transaction(held_discards=self.held_discards)] if self.held_discards else []
        kinds += [Transaction(holds=self.holds)] if self.holds else []
        kinds += [Transaction(parks=self.parks)] if self.parks else []
        kinds += [Transaction(appends=self.appends, kept=self.kept)] if self.accepts else []
        if len(kinds) != 1:
            return kinds
        if self.accepts:
            return []
        if self.holds:
            return [Transaction(holds=half) for half in _halves(self.holds)]
        if self.parks:
            return [Transaction(parks=half) for half in _halves(self.parks)]
        if self.discards:
            return [Transaction(discards=half) for half in _halves_of_runs(self.discards)]
        return [Transaction(held_discards=half) for half in _halves_of_runs(self.held_discards)]


@dataclass(frozen=True, slots=True, eq=False)
class HeldRequest:
    """One request for a held page; told from others by identity, since one may come while another is answered."""

    after_id: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be read back."""

    after_id: int | None
    """The main table's page behind this id; None: none."""
    held: Mapping[str, HeldRequest]
    """exchange -> page of what is held for it."""


@dataclass(frozen=True)
class OpenReport:
    """What was found when the journal was opened."""

    set_aside: Path | None
    """Where the damaged file went."""
    problem: str
    """What was wrong with it, in one line; empty when nothing was."""
    taken_over: int
    """Rows that were waiting in it."""
    volatile: bool
    """True for `:memory:`: what is accepted ends with the process."""


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A message read back."""

    id: int
    body: bytes
    accepted_at: float
    """UNIX seconds; up to a second early, since times are kept for ranges of ids."""
    boot_s: float | None
    """The same by this boot's clock; None for a message of another boot."""


class ParkedRecord(NamedTuple):
    """A message that was set apart, with its reason."""

    id: int
    exchange: str
    reason: str
    body: bytes
    parked_at: float
    """UNIX seconds."""


def _halves_of_runs(runs: Sequence[Run]) -> list[Sequence[Run]]:
    if len(runs) > 1:
        return _halves(runs)
    [(first, last)] = runs
    middle = (first + last) // 2
    return [[(first, middle)], [(middle + 1, last)]] if first < last else []


def _halves(items: Sequence[T]) -> list[Sequence[T]]:
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else []
