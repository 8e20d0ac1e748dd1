"""Messages in their three forms: a line of text, a dict, a JSON object. Pure: no I/O, no state but a cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from vigiloconn.errors import BadMessage
from vigiloconn.interfaces import Batch, Item, RouteKey

#: A longer line is not a message: it is skipped up to its newline.
MAX_LINE_BYTES = 65536
#: What goes at the ends of a line. Named, because a bare `strip()` would also take Unicode blanks and control
#: characters that belong to the message.
_BLANKS = " \t\r"
_BLANKS_BYTES = _BLANKS.encode()
_CHECK_RESULT = re.compile(r"PROCESS_.+_CHECK_RESULT", re.DOTALL)
_SYNC_PREFIX = b"sync|"
_MAX_TOKEN_CHARACTERS = 128
#: Keys whose routing key comes from outside are shared, but only so many of them.
_MAX_SHARED_KEYS = 4096
#: How deep a message from a producer may nest before it is refused.
_MAX_DEPTH = 100

_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_decoder = msgspec.json.Decoder(dict[str, Any])
_shared_keys: dict[tuple[str, str | None], RouteKey] = {}


def _event(fields: list[str]) -> dict[str, str] | None:
    count = len(fields)
    if count != 6 and count != 7:
        return None
    service = fields[3]
    if service and service.lower() != "host":
        message = {
            "type": "event", "timestamp": fields[1], "host": fields[2], "service": service,
            "state": fields[4], "message": fields[5],
        }
    else:
        message = {
            "type": "event", "timestamp": fields[1], "host": fields[2], "state": fields[4], "message": fields[5],
        }
    if count == 7 and fields[6]:
        message["routing_key"] = fields[6]
    return message


def _perf(fields: list[str]) -> dict[str, str] | None:
    count = len(fields)
    if count != 5 and count != 6:
        return None
    message = {
        "type": "perf", "timestamp": fields[1], "host": fields[2], "datasource": fields[3], "value": fields[4],
    }
    if count == 6 and fields[5]:
        message["routing_key"] = fields[5]
    return message


def _state(fields: list[str]) -> dict[str, str] | None:
    count = len(fields)
    if count != 9 and count != 10:
        return None
    message = {
        "type": "state", "timestamp": fields[1], "host": fields[2], "ip": fields[3], "service": fields[4],
        "code": fields[5], "statetype": fields[6], "attempt": fields[7], "message": fields[8],
    }
    if count == 10 and fields[9]:
        message["routing_key"] = fields[9]
    return message


def _nagios(fields: list[str]) -> dict[str, str] | None:
    if len(fields) < 3:
        return None
    command = fields[2]
    message = {"type": "nagios", "timestamp": fields[1], "cmdname": command, "value": ";".join(fields[3:])}
    if _CHECK_RESULT.fullmatch(command):
        if len(fields) == 3:
            return None
        message["host"] = fields[3]
    return message


_BUILDERS: dict[str, Callable[[list[str]], dict[str, str] | None]] = {
    "event": _event, "perf": _perf, "state": _state, "nagios": _nagios,
}
_EXPECTED = {"event": "6 or 7", "perf": "5 or 6", "state": "9 or 10", "nagios": "3 or more (a check result: 4)"}
#: The keys of messages without a routing key of their own: one object per type, not one per line.
_PLAIN_KEYS = {type_: RouteKey(type_, None, True) for type_ in _BUILDERS}


def decode_text(raw: bytes) -> str:
    """Return `raw` as text: UTF-8, or ISO-8859-15 (which takes any bytes) where it is not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("iso-8859-15")


def parse_sync(line: bytes) -> str | None:
    """Return the token of a `sync|TOKEN` line, None for any other line, a sync line without a proper token included."""
    line = line.strip(_BLANKS_BYTES)
    if not line.startswith(_SYNC_PREFIX):
        return None
    token = decode_text(line[len(_SYNC_PREFIX):])
    return token if 1 <= len(token) <= _MAX_TOKEN_CHARACTERS and "|" not in token else None


def parse_line(line: str) -> dict[str, str] | None:
    """Return the message that a line stands for, None for an empty line.

    A control line (`sync|TOKEN`) is not a message. Raises `BadMessage` with what was found and expected.
    """
    line = line.strip(_BLANKS)
    if not line:
        return None
    fields = line.split("|")
    builder = _BUILDERS.get(fields[0])
    message = builder(fields) if builder else None
    if message is None:
        raise BadMessage(_what_is_wrong(fields))
    return message


def parse_chunk(lines: list[bytes]) -> tuple[list[Item], int, list[tuple[bytes, str]]]:
    """Return (messages, sum of their bodies' lengths in bytes, [(malformed line, what is wrong)]) of a chunk.

    `lines` have no newline in them. Does what `parse_line`, `encode` and `route_key` do one by one, but this is the
    path that every line takes, so it decodes the chunk at once and shares the keys.
    """
    try:
        # A chunk is UTF-8 exactly when each of its lines is: a newline is never part of a longer sequence.
        texts = b"\n".join(lines).decode().split("\n")
    except UnicodeDecodeError:
        texts = [decode_text(line) for line in lines]
    items: list[Item] = []
    rejected: list[tuple[bytes, str]] = []
    size_bytes = 0
    builders = _BUILDERS
    for index, text in enumerate(texts):
        fields = text.strip(_BLANKS).split("|")
        type_ = fields[0]
        builder = builders.get(type_)
        message = builder(fields) if builder else None
        if message is None:
            if fields != [""]:
                rejected.append((lines[index], _what_is_wrong(fields)))
            continue
        body = _encode(message)
        size_bytes += len(body)
        if "routing_key" in message:
            items.append((_shared_key(type_, message["routing_key"]), body))
        else:
            items.append((_PLAIN_KEYS[type_], body))
    return items, size_bytes, rejected


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the JSON object in UTF-8. A datetime under `timestamp`, at any depth, becomes whole UNIX seconds.

    A datetime without a time zone is taken as UTC: what a message means must not depend on the zone of the host that
    sends it. Raises `BadMessage` when a value has no JSON form.
    """
    try:
        return _encode(_with_unix_seconds(message, 0))
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise BadMessage(f"message can't be written as JSON: {exc}") from exc


def make_batch(messages: Iterable[Mapping[str, Any]]) -> Batch:
    """Return a batch for a `Sink`. Raises `BadMessage` when one can't be sent: it has no `type`, or no JSON form."""
    items = [(route_key(message), encode(message)) for message in messages]
    return Batch(items, sum(len(body) for _, body in items))


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` holds. Raises `BadMessage` when it holds anything else."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"expected a JSON object, got {body[:80]!r}: {exc}") from exc


def route_key(message: Mapping[str, Any]) -> RouteKey:
    """Return what decides how `message` travels. An empty or null `routing_key` means none.

    Only `persistent: false` makes a message transient. Raises `BadMessage` when `type` or `routing_key` is not text.
    """
    type_ = message.get("type")
    if not isinstance(type_, str) or not type_:
        raise BadMessage(f"type: expected a text that is not empty, got {type_!r:.80}")
    key = message.get("routing_key")
    if key is not None and not isinstance(key, str):
        raise BadMessage(f"routing_key: expected a text, got {key!r:.80}")
    return RouteKey(type_, key or None, message.get("persistent") is not False)


def stored_route_key(body: bytes) -> RouteKey:
    """Return the route key of a body that was read back from the journal. Raises `BadMessage`."""
    try:
        head = _decode_head(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What is wrong with it, in words; or nothing is, and only the short cut can't take it.
        return route_key(decode(body))
    if not head.type:
        return route_key(decode(body))
    if head.persistent is not False:
        return _shared_key(head.type, head.routing_key or None)
    return RouteKey(head.type, head.routing_key or None, False)


def _what_is_wrong(fields: list[str]) -> str:
    type_ = fields[0]
    if type_ in _EXPECTED:
        return f"{type_}: expected {_EXPECTED[type_]} fields, got {len(fields)}"
    if type_ == "sync":
        return f"sync: expected one token of 1 to {_MAX_TOKEN_CHARACTERS} characters"
    return f"type {type_[:40]!r} of {len(fields)} fields: expected event, perf, state or nagios"


class _Head(msgspec.Struct, gc=False):
    """What of a message decides how it travels; the rest is skipped without being built."""

    type: str
    routing_key: str | None = None
    persistent: Any = True


_decode_head = msgspec.json.Decoder(_Head).decode


def _shared_key(type_: str, routing_key: str | None) -> RouteKey:
    key = _shared_keys.get((type_, routing_key))
    if key is None:
        if len(_shared_keys) >= _MAX_SHARED_KEYS:
            _shared_keys.clear()
        key = _shared_keys[type_, routing_key] = RouteKey(type_, routing_key, True)
    return key


def _with_unix_seconds(value: Any, depth: int) -> Any:
    """Return `value` with each datetime under a `timestamp` key replaced. Leaves the caller's objects as they are."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {
            key: _unix_seconds(item) if key == "timestamp" and isinstance(item, datetime)
            else _with_unix_seconds(item, depth + 1) if isinstance(item, (Mapping, list, tuple))
            else item
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_with_unix_seconds(item, depth + 1) for item in value]
    return value


def _unix_seconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp())
