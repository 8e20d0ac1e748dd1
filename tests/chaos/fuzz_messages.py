"""Random messages from the bus: each is a command, nothing for this Nagios, or bad; and never a second command."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.chaos.garbage import mutate, nasty_text, some_bytes
from vigiloconn.consuming.unpack import unpack
from vigiloconn.errors import BadMessage
from vigiloconn.handlers.message import MAX_BODY_BYTES
from vigiloconn.nagios.commands import Skip, Translator
from vigiloconn.serialize import stored_route_key

_ACCEPTED = ("PROCESS_SERVICE_CHECK_RESULT", "PROCESS_HOST_CHECK_RESULT", "ADD_HOST_COMMENT")
_KEYS = ("type", "timestamp", "cmdname", "value", "host", "service", "code", "message", "messages", "n", "routing_key")
_translator = Translator(_ACCEPTED, lambda host: host == "h")


def case(chance: random.Random) -> int:
    """Try one body."""
    body = _body(chance)
    try:
        stored_route_key(body)
    except BadMessage:
        pass  # it would be parked
    if len(body) > MAX_BODY_BYTES:
        # It would be a dead letter without being looked at.
        return 0
    try:
        # Each is a message, the reason for which there is none, or a turn for others.
        messages = [step for step in unpack(body) if isinstance(step, dict)]
    except BadMessage:
        return 1
    for message in messages:
        try:
            command = _translator.translate(message)
        except BadMessage:
            continue
        if not isinstance(command, Skip):
            _check(command, message)
    return 1


def _check(command: bytes, message: dict[str, Any]) -> None:
    assert command.endswith(b"\n"), f"no newline at the end: {message!r}"
    assert command.count(b"\n") == 1, f"a second command: {message!r}"
    assert b"\0" not in command, f"a NUL: {message!r}"
    head, _, rest = command.partition(b"] ")
    assert head.startswith(b"["), f"no timestamp: {message!r}"
    name = rest.split(b";")[0].rstrip(b"\n").decode()
    assert name in _ACCEPTED, f"{name} is not accepted: {message!r}"


def _body(chance: random.Random) -> bytes:
    kind = chance.randrange(10)
    if kind == 0:
        return some_bytes(chance)
    if kind == 1 and chance.random() < 0.05:
        depth = chance.choice((100, 1000, 100_000))
        opening, closing = chance.choice(((b"[", b"]"), (b'{"messages":[', b"]}"), (b'{"a":', b"}")))
        return opening * depth + b"1" + closing * depth
    if kind == 2 and chance.random() < 0.05:
        one = json.dumps(_message(chance)).encode("utf-8", "surrogatepass")
        most = MAX_BODY_BYTES // (len(one) + 1)
        return b'{"messages":[' + b",".join([one] * chance.choice((2, 300, max(2, most - 1)))) + b"]}"
    body = json.dumps(_message(chance), ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutate(chance, body) if kind < 4 else body


def _message(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.1:
        return {"messages": [_message(chance, depth + 1) for _ in range(chance.randint(0, 3))]}
    message: dict[str, Any] = {
        "type": "nagios", "timestamp": 1, "cmdname": chance.choice(_ACCEPTED), "value": "h;s;0;text", "host": "h",
    } if chance.random() < 0.5 else {
        "type": "state", "timestamp": "1", "host": "h", "service": "s", "code": 0, "message": "text",
    }
    for _ in range(chance.randint(0, 3)):
        message[chance.choice(_KEYS)] = _value(chance, depth)
    for key in chance.choices(_KEYS, k=chance.randint(0, 1)):
        message.pop(key, None)
    return message


def _value(chance: random.Random, depth: int) -> Any:
    return chance.choice((
        None, True, False, 0, -1, 1.5, 10**30, -(10**400), 1e308, float("nan"), float("inf"), [], {}, "", "h", "1_000",
        nasty_text(chance), f"a;0;x\n[1] SHUTDOWN_PROGRAM{nasty_text(chance)}", f"h;s;0;{nasty_text(chance)}",
        [_message(chance, depth + 1)] if depth < 3 else [[]], "x" * chance.choice((10, 8000, 70_000)),
    ))
