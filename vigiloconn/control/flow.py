"""The flow through a connector in totals, whatever parts it is made of: what came in, what went out, what waits.

Knows parts by the names of their figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from vigiloconn.control.inquiry import Inquiry
from vigiloconn.supervisor import Handler

#: What the rates are made of.
COUNTERS = ("accepted", "confirmed", "finished", "consumed", "acknowledged")


class Totals(NamedTuple):
    """Sums over all parts."""

    accepted: float
    confirmed: float
    """Messages that the broker has confirmed."""
    finished: float
    """Messages that wait no longer: confirmed, expired, parked, or dropped as unroutable."""
    consumed: float
    """Messages from the bus."""
    acknowledged: float
    waiting: float
    """Messages in the journal, held ones included, parked ones not."""
    waiting_bytes: float
    in_flight: float
    parked: float
    dead_lettered: float


def totals(parts: Iterable[Handler], inquiry: Inquiry) -> Totals:
    """Ask all parts, and add up."""
    asked = [inquiry.figures_of(part) for part in parts]
    journals = [figures for figures in asked if "backup" in figures]
    publishers = [figures for figures in asked if "published" in figures]
    consumers = [figures for figures in asked if "acknowledged" in figures]
    return Totals(
        accepted=_sum(journals, "accepted"),
        confirmed=_sum(publishers, "confirmed"),
        finished=sum(_sum(publishers, name) for name in ("confirmed", "expired", "parked", "unroutable")),
        consumed=_sum(consumers, "received"),
        acknowledged=_sum(consumers, "acknowledged"),
        waiting=_sum(journals, "backup"),
        waiting_bytes=_sum(journals, "backup_bytes"),
        in_flight=_sum(publishers, "in_flight"),
        parked=_sum(journals, "parked"),
        dead_lettered=_sum(asked, "dead_lettered"),
    )


def _sum(asked: Iterable[Mapping[str, float]], name: str) -> float:
    return sum(figures.get(name, 0.0) for figures in asked)


def backlog_text(now: Totals, oldest_s: float, span: Callable[[float], str]) -> str:
    """Return what waits in a few words, "" where nothing does."""
    words = []
    if now.waiting:
        words.append(f"{now.waiting:.0f} messages wait, the oldest for {span(oldest_s)}")
    if now.parked:
        words.append(f"{now.parked:.0f} are parked")
    return ", ".join(words)
