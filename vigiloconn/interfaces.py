"""What the parts of a connector ask of each other.

Types that travel between parts, and the Protocols by which a part knows its neighbour. The parts
themselves are passed to constructors; nothing here is instantiated but the small value classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec


class RouteKey(NamedTuple):
    """What decides how a message travels: `[publications]` gives exchange and TTL for `type`."""

    type: str
    routing_key: str | None
    """The message's own key; None means the type's name."""
    persistent: bool


Item = tuple[RouteKey, bytes]
"""A message before it is accepted: its route key and its body, a JSON object in UTF-8."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """An accepted message. A struct of msgspec's: made for every message, it costs a tenth of a named tuple."""

    id: int
    """Its number in the journal; grows in the order of acceptance and is never used twice."""
    key: RouteKey
    body: bytes
    accepted_at: float
    """UNIX seconds."""


class Writer(Protocol):
    """Where a batch came from, as far as the journal has something to tell it."""

    def dropped(self, count: int, reason: str) -> None:
        """`count` messages of this writer were refused by the full policy. Must not block."""


@dataclass(slots=True)
class Batch:
    """Messages of one writer that were read together. They stay together and in order."""

    items: Sequence[Item]
    size_bytes: int
    """Sum of the bodies' lengths."""
    writer: Writer | None = None
    on_accepted: Callable[[], None] | None = None
    """Called once everything in this batch, and everything the same writer put before it, is safe.
    Runs on the journal's greenlet: it must neither block nor raise."""


class Sink(Protocol):
    """The consumer side of a push flow, with back-pressure."""

    def put(self, batch: Batch) -> None:
        """Take a batch. Blocks the calling greenlet while there is no room."""


class StatsSource(Protocol):
    """A part that counts. Counters are cumulative since the start; gauges are named in the docstring."""

    def stats(self) -> dict[str, float]:
        """Return figure name -> number."""
