"""The messages of a body: one, or many that it holds. Knows JSON, nothing of deliveries.

A body of a megabyte may hold half a million messages, which would take a tenth of a second and sixty times its
size in memory if they were decoded at once. So they are decoded one after the other, as they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
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

Message = dict[str, Any]
Step = Message | BadMessage | None


class _Envelope(msgspec.Struct, gc=False):
    """A message as far as it holds others, which stay as they came."""

    messages: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def unpack(body: bytes) -> list[Message] | Iterator[Step]:
    """Return the messages of a body, in order: a list of one, or an iterator where it holds others under `messages`.

    A held message may hold others in turn. In place of one that can't be decoded comes the reason, and None for a
    step that took its time and gave none yet. Empty or null `messages` count as none: then the message stands for
    itself, or for nothing where it has no more than a type. Raises `BadMessage` when the body is no JSON object at all.
    """
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
    try:
        return _decode_envelope(body).messages or None
    except msgspec.ValidationError as exc:
        if "$.messages" in str(exc):
            raise BadMessage(f"messages: expected a list: {exc}") from exc
        raise BadMessage(f"expected a JSON object, got {body[:80]!r}: {exc}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"expected a JSON object, got {body[:80]!r}: {exc}") from exc
