"""Messages of a journal as lines of text, to carry them elsewhere and back. Knows JSON; no tables, no files."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import msgspec

from vigiloconn.errors import BadMessage
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry


class _Line(msgspec.Struct, omit_defaults=True):
    table: str
    id: int
    exchange: str = ""
    reason: str = ""
    accepted_at: float | None = None
    parked_at: float | None = None
    message: msgspec.Raw = msgspec.Raw()
    base64: str | None = None
    """A body that is no JSON on one line."""


def to_line(entry: Entry) -> bytes:
    """Return a message as one line of JSON, its newline included."""
    line = _Line(entry.table, entry.id, entry.exchange, entry.reason, entry.accepted_at, entry.parked_at)
    if _is_one_line(entry.body):
        line.message = msgspec.Raw(entry.body)
    else:
        line.base64 = base64.b64encode(entry.body).decode()
    return msgspec.json.encode(line) + b"\n"


def from_line(text: bytes) -> Entry:
    """Return the message of one line. Raises `BadMessage` that says what was expected."""
    try:
        line = msgspec.json.decode(text, type=_Line)
        body = bytes(line.message) if line.base64 is None else base64.b64decode(line.base64, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error) as exc:
        raise BadMessage(f"expected a line of `journal export`: {exc}") from None
    if line.table not in (WAITING, HELD, PARKED):
        raise BadMessage(f"table: expected {WAITING}, {HELD} or {PARKED}, got {line.table[:40]!r}")
    if not body:
        raise BadMessage("expected message or base64, got neither")
    times: list[Any] = [line.accepted_at, line.parked_at]
    if any(at is not None and not (math.isfinite(at) and at >= 0) for at in times):
        raise BadMessage("accepted_at, parked_at: expected UNIX seconds")
    return Entry(
        line.table, line.id, line.id, body, line.exchange, line.reason, line.accepted_at, None, line.parked_at
    )  # fmt: skip


def _is_one_line(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return b"\n" not in body and b"\r" not in body
