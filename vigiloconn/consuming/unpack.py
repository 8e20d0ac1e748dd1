"""The messages of a body: one, or many that it holds. Knows JSON, nothing of deliveries.

A body of a megabyte may hold half a million messages, which would take a tenth of a second and sixty times its
size in memory if they were decoded at once. So they are decoded one after the other, as they are asked for.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vigiloconn.errors import BadMessage
from vigiloconn.serialize import decode

#: Up to here a body is decoded as a whole, whatever its form: that takes a millisecond at most.
_SMALL_BYTES = 16 * 1024
#: Each list that holds a list is read again for what is in it.
MAX_DEPTH = 8
#: One message of more lists and objects would stop the loop while it is decoded, and again while they are freed.
MAX_BRACKETS = 100_000
#: A body of more values, as its commas tell, is not even cut into its messages at once.
MANY_COMMAS = 500_000
_SPANS_A_STEP = 1000
_OPENING = re.compile(rb'"messages"\s*:\s*\[')
# An object without others in it, and what follows it in its list.
_FLAT = re.compile(rb'\s*(\{[^"{}\[\]]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"{}\[\]]*)*\})\s*([,\]])', re.DOTALL)

Message = Any
Step = Message | BadMessage | None
Unpack = Callable[[bytes], "list[Message] | Iterator[Step]"]


class _Envelope(msgspec.Struct, gc=False):
    """A message as far as it holds others, which stay as they came."""

    messages: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def unpack_as(message_type: Any) -> Unpack:
    """Return what turns a body into messages of `message_type`.

    `dict` is a JSON object, taken apart where it holds `messages`; a `msgspec.Struct` is the same, each message decoded
    and checked. `bytes` is the body as it is. Anything else that msgspec takes (`object`: any value) is the whole body.
    """
    if message_type is dict:
        return unpack
    if message_type is bytes:
        return lambda body: [body]
    if isinstance(message_type, type) and issubclass(message_type, msgspec.Struct):
        return lambda body: _converted(unpack(body), message_type)
    decoder = msgspec.json.Decoder(Any if message_type is object else message_type)
    return lambda body: [_decode_value(decoder, body)]


def _decode_value(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_BRACKETS:
        raise BadMessage(f"message of {brackets} lists and objects: expected at most {MAX_BRACKETS}")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"got {body[:80]!r}: {exc}") from exc


def _converted(messages: list[Message] | Iterator[Step], message_type: Any) -> list[Message] | Iterator[Step]:
    if isinstance(messages, list):
        return [_convert(message, message_type) for message in messages]
    return (_convert_step(step, message_type) for step in messages)


def _convert(message: dict[str, Any], message_type: Any) -> Any:
    try:
        return msgspec.convert(message, message_type)
    except msgspec.ValidationError as exc:
        raise BadMessage(str(exc)) from exc


def _convert_step(step: Step, message_type: Any) -> Step:
    if step is None or isinstance(step, BadMessage):
        return step
    try:
        return _convert(step, message_type)
    except BadMessage as exc:
        return exc


def unpack(body: bytes) -> list[Message] | Iterator[Step]:
    """Return the messages of a body, in order: a list of one, or an iterator where it holds others under `messages`.

    A held message may hold others in turn. In place of one that can't be decoded comes the reason, and None for a
    step that took its time and gave none yet. Empty or null `messages` count as none: then the message stands for
    itself, or for nothing where it has no more than a type. Raises `BadMessage` when the body is no JSON object at all.
    """
    if len(body) > MANY_COMMAS and body.count(b",") > MANY_COMMAS:
        return _unpack_many(body)
    message, held = _open(body)
    if held is not None:
        return _unpack_held(held)
    return [message] if message is not None else []


def _unpack_held(held: list[msgspec.Raw]) -> Iterator[Step]:
    stack = [held[::-1]]
    while stack:
        todo = stack[-1]
        if not todo:
            stack.pop()
            continue
        try:
            message, held_in_turn = _open(bytes(todo.pop()))
            if held_in_turn is not None and len(stack) >= MAX_DEPTH:
                raise BadMessage(f"messages: expected at most {MAX_DEPTH} lists in one another")
        except BadMessage as exc:
            yield exc
            continue
        if held_in_turn is not None:
            stack.append(held_in_turn[::-1])
        yield message


def _unpack_many(body: bytes) -> Iterator[Step]:
    """As `_unpack_held`, of very many messages without lists and objects in them: those are found bit by bit.

    Other bodies of so many values would stop the loop: they are refused.
    """
    spans = array("Q")
    opening = _OPENING.search(body)
    position = opening.end() if opening else len(body)
    more = b","
    while more == b",":
        match = _FLAT.match(body, position)
        if match is None:
            yield BadMessage(f"body of more than {MANY_COMMAS} values that is no list of plain messages")
            return
        spans.extend(match.span(1))
        position, more = match.end(), match[2]
        if not len(spans) % _SPANS_A_STEP:
            yield None
    assert opening is not None
    try:
        # What is around the list must be a message, and the list its own and the last one of that name.
        if _envelope(body[: opening.end()] + b"]" + body[position:]).messages != []:
            raise BadMessage("body of many values that holds more than one list of messages")
    except BadMessage as exc:
        yield exc
        return
    for at in range(0, len(spans), 2):
        try:
            yield _open(body[spans[at] : spans[at + 1]])[0]
        except BadMessage as exc:
            yield exc


def _open(body: bytes) -> tuple[Message | None, list[msgspec.Raw] | None]:
    """Return (message, None) or (None, what it holds); (None, None) for an empty shell."""
    if len(body) > _SMALL_BYTES:
        held = _held(body)
        if held:
            return None, held
        brackets = body.count(b"{") + body.count(b"[")
        if brackets > MAX_BRACKETS:
            raise BadMessage(f"message of {brackets} lists and objects: expected at most {MAX_BRACKETS}")
    message = decode(body)
    if "messages" not in message:
        return message, None
    held = _held(body)
    if held:
        return None, held
    del message["messages"]
    return (message if message.keys() - {"type"} else None), None


def _held(body: bytes) -> list[msgspec.Raw] | None:
    return _envelope(body).messages or None


def _envelope(body: bytes) -> _Envelope:
    try:
        return _decode_envelope(body)
    except msgspec.ValidationError as exc:
        if "$.messages" in str(exc):
            raise BadMessage(f"messages: expected a list: {exc}") from exc
        raise BadMessage(f"expected a JSON object, got {body[:80]!r}: {exc}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"expected a JSON object, got {body[:80]!r}: {exc}") from exc
