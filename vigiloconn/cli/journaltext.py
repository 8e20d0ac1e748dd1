"""What is in a journal, in words and columns for a person. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from vigiloconn.journal.amend import age_s
from vigiloconn.journal.clock import Stamp
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry
from vigiloconn.journal.reader import Total
from vigiloconn.kit.escape import printable

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))
_TEXT_CHARS = 60
_GROUPS = {WAITING: "of type", HELD: "for exchange", PARKED: "for"}
#: Groups that `count` shows; routing keys of strangers may make thousands.
_MOST_GROUPS = 50


def duration(seconds: float) -> str:
    """Return a time in its two largest units: `2d 3h`, `5m 10s`, `12s`."""
    parts: list[str] = []
    left = int(seconds)
    for size, unit in _UNITS:
        if left >= size or parts:
            parts.append(f"{left // size}{unit}")
            left %= size
    parts.append(f"{left}s")
    return " ".join(parts[:2])


def total_lines(table: str, total: Total, now: Stamp) -> Iterator[str]:
    """Say how many messages a table has, of which kinds, how old."""
    yield f"{table}: {_messages(total.messages)}" + (f", {total.size_bytes} bytes" if total.messages else "")
    if total.oldest is not None and total.oldest.since is not None:
        yield f"  the oldest is {duration(age_s(total.oldest, now))} old: {total.oldest.id}"
    groups = sorted(total.groups.items(), key=lambda group: -group[1])
    for name, count in groups[:_MOST_GROUPS]:
        yield f"  {count} {_GROUPS[table]} {printable(name)}"
    if len(groups) > _MOST_GROUPS:
        yield f"  and {len(groups) - _MOST_GROUPS} more kinds"


def row(entry: Entry, exchange: str, now: Stamp) -> Sequence[str]:
    """Return the columns of a list: number, table, age, type, exchange, and the reason or the message's beginning."""
    text = entry.reason or entry.body.decode("utf-8", "replace")
    age = duration(age_s(entry, now)) if entry.since is not None else "?"
    return (str(entry.id), entry.table, age, entry.type or "(no message)", printable(exchange),
            printable(text[:_TEXT_CHARS]) + ("..." if len(text) > _TEXT_CHARS else ""))


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return lines in which the columns of all rows stand below each other."""
    head = ("id", "where", "age", "type", "exchange", "reason or message")
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    for cells in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def details(entry: Entry, exchange: str, now: Stamp) -> Iterator[str]:
    """Return all that is known of one message."""
    yield f"number:    {entry.id}"
    yield f"where:     {entry.table}"
    yield f"exchange:  {printable(exchange)}"
    if entry.since is not None:
        yield f"accepted:  {_date(entry.since)}, {duration(age_s(entry, now))} ago"
    if entry.parked_at is not None:
        yield f"parked:    {_date(entry.parked_at)}: {printable(entry.reason)}"
    yield f"type:      {entry.type or '(no message)'}"
    yield f"message:   {printable(entry.body.decode('utf-8', 'replace'), 100_000)}"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
