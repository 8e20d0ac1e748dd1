"""Numbered lines and the messages that they must become. Knows the forms of lines, independently of the program."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

KINDS = ("event", "perf", "state")
#: What text may hold without changing a line's form; the last are two, three and four bytes in UTF-8.
_ALPHABET = "abcdefghij klmnopqrstuvwxyz0123456789;:,=%'\"\\/()[]{}<>&#é€𝄞"
_TIMESTAMP = "1165939739"


class Line(NamedTuple):
    """One line that a writer writes once, and what it stands for."""

    writer: str
    number: int
    """Counts all lines of this writer; in one exchange its messages come in this order."""
    kind: str
    text: str
    body: dict[str, Any]


def make_line(chance: random.Random, writer: str, number: int, kind: str, max_text: int) -> Line:
    """Return the line `number` of `writer`, filled up with text of up to `max_text` characters."""
    filling = "".join(chance.choices(_ALPHABET, k=chance.randint(0, max_text))).strip()
    # The end says that the line is whole: a connection that breaks may leave half of one.
    message = f"{number}: {filling}."
    if kind == "event":
        body = {"type": "event", "timestamp": _TIMESTAMP, "host": writer, "service": "Load", "state": "OK",
                "message": message}
    elif kind == "perf":
        body = {"type": "perf", "timestamp": _TIMESTAMP, "host": writer, "datasource": str(number),
                "value": f"{chance.random()}.{filling}."}
    else:
        body = {"type": "state", "timestamp": _TIMESTAMP, "host": writer, "ip": "192.0.2.1", "service": "",
                "code": "0", "statetype": "HARD", "attempt": "1", "message": message}
    return Line(writer, number, kind, "|".join(body.values()), body)


def name_of(body: dict[str, Any]) -> tuple[str, int] | None:
    """Return writer and number of a message, None where they can't be told (half a line, or nobody's)."""
    try:
        if body["type"] == "perf":
            return body["host"], int(body["datasource"])
        number, colon, _ = body["message"].partition(":")
        return (body["host"], int(number)) if colon else None
    except (KeyError, ValueError, TypeError):
        return None
