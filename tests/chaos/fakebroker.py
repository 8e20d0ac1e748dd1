"""A broker that says what a seed tells it: legal up to one step of the conversation, then anything.

Knows AMQP 0-9-1 as far as a broker speaks it to one connection that publishes and consumes.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable

from tests.chaos.garbage import mutate, nasty_bytes, some_bytes

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_FRAMES = 60
#: A body or a frame that never ends, as far as a case has time for it.
_LONG_BYTES = 1 << 20
#: A client that says nothing for this time waits for us.
_PATIENCE_S = 0.05

Method = tuple[int, int]

START_OK, TUNE_OK, OPEN = (10, 11), (10, 31), (10, 40)
CHANNEL_OPEN, SELECT, DECLARE, QOS, CONSUME = (20, 10), (85, 10), (50, 10), (60, 10), (60, 20)
CLOSE_CHANNEL, CLOSE = (20, 40), (10, 50)
#: Where a broker can go wrong: its greeting, its answers, and what it says of itself afterwards.
#: "flow" more often than the others: most is said there.
STEPS = ("greeting", START_OK, OPEN, CHANNEL_OPEN, SELECT, DECLARE, QOS, CONSUME, "flow", "flow", "flow")


class FakeBroker:
    """Talks over one socket until it has said all that it has to say, or the client is gone."""

    def __init__(self, link: socket.socket, chance: random.Random, publishes: int) -> None:
        self.frames = 0
        """How many it has sent."""
        self._link = link
        self._chance = chance
        self._publishes = publishes
        self._is_consumed = False
        self._step = chance.choice(STEPS)

    def talk(self) -> None:
        """Play the part."""
        self._link.settimeout(_PATIENCE_S)
        try:
            self._link.recv(8, socket.MSG_WAITALL)
            self._say("greeting", method(0, (10, 10), _greeting(self._chance)))
            self._hear_all()
            self._link.settimeout(None)
            for _ in range(_FRAMES):
                self._send(self._any_frame() if self._step == "flow" else _flow_frame(self._chance))
        except OSError:
            pass  # the client has had enough, as it may
        finally:
            self._link.close()

    def _hear_all(self) -> None:
        try:
            while self._publishes or not self._is_consumed:
                self._hear()
        except TimeoutError:
            pass  # it waits for an answer that was spoilt

    def _hear(self) -> None:
        head = self._link.recv(7, socket.MSG_WAITALL)
        if len(head) < 7:
            raise OSError("the client is gone")
        kind, channel, size = struct.unpack(">BHI", head)
        payload = self._link.recv(size + 1, socket.MSG_WAITALL)
        if kind != _METHOD:
            return
        said: Method = struct.unpack_from(">HH", payload)  # type: ignore[assignment]
        if said == (60, 40):
            self._publishes -= 1
        self._is_consumed = self._is_consumed or said == CONSUME
        if said in _ANSWERS:
            self._say(said, _ANSWERS[said](channel, self._chance))

    def _say(self, step: object, frame: bytes) -> None:
        if step != self._step:
            self._send(frame)
            return
        for _ in range(self._chance.randint(0, 3)):
            self._send(self._any_frame())
        self._send(_spoilt(self._chance, frame))
        if self._chance.random() < 0.5:
            self._send(frame)

    def _any_frame(self) -> bytes:
        chance = self._chance
        match chance.randrange(8):
            case 0:
                return some_bytes(chance, 40)
            case 1:
                return chance.choice((b"AMQP\0\0\x09\x01", b"HTTP/1.1 400 Bad\r\n\r\n", b"\x15\x03\x03\0\x02\x02\x28"))
            case 2 if chance.random() < 0.05:
                return struct.pack(">BHI", _BODY, 2, chance.choice((_LONG_BYTES, 1 << 31))) + bytes(_LONG_BYTES)
            case 3 | 4:
                return _flow_frame(chance)
        return _spoilt(chance, _flow_frame(chance))

    def _send(self, frame: bytes) -> None:
        self._link.sendall(frame)
        self.frames += 1


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame (section 2.3.5 of the specification)."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + _END


def method(channel: int, name: Method, arguments: bytes = b"") -> bytes:
    """Return a method's frame."""
    return frame(_METHOD, channel, struct.pack(">HH", *name) + arguments)


def short(text: bytes) -> bytes:
    """Return a short string."""
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    """Return a long string."""
    return struct.pack(">I", len(text)) + text


def table(chance: random.Random, depth: int = 0) -> bytes:
    """Return a table, of which some values are none that the specification knows."""
    items = b""
    for _ in range(chance.randint(0, 3)):
        items += short(chance.choice((b"k", b"capabilities", b"x-death", b"", b"\xff"))) + _value(chance, depth)
    return long(items)


def _value(chance: random.Random, depth: int) -> bytes:
    if depth < 4 and chance.random() < 0.3:
        inner = table(chance, depth + 1)
        return b"F" + inner if chance.random() < 0.5 else b"A" + long(b"F" + inner)
    if depth == 0 and chance.random() < 0.01:
        deep = b""
        for _ in range(1000):
            deep = long(b"\x01kF" + deep) if deep else long(b"")
        return b"F" + deep
    return chance.choice((
        b"t\x01", b"I" + chance.randbytes(4), b"l" + chance.randbytes(8), b"T" + chance.randbytes(8),
        b"T\xff\xff\xff\xff\xff\xff\xff\xff", b"S" + long(some_bytes(chance)), b"S" + long(nasty_bytes(chance)), b"V",
        b"D\xff" + chance.randbytes(4), b"d" + chance.randbytes(8), b"x" + long(b"\0"), b"?" + chance.randbytes(4),
        b"b\x80",
    ))


def _greeting(chance: random.Random) -> bytes:
    legal = long(short(b"capabilities") + b"F" + long(short(b"publisher_confirms") + b"t\x01"))
    properties = legal if chance.random() < 0.7 else table(chance)
    return b"\0\x09" + properties + long(b"PLAIN AMQPLAIN") + long(b"en_US")


def _tune(chance: random.Random) -> bytes:
    if chance.random() < 0.7:
        return struct.pack(">HIH", 2047, 131072, 60)
    return struct.pack(
        ">HIH", chance.choice((0, 1, 2, 65535)), chance.choice((0, 1, 7, 8, 4095, 4096, 1 << 28, (1 << 32) - 1)),
        chance.choice((0, 1, 65535)),
    )


_ANSWERS: dict[Method, Callable[[int, random.Random], bytes]] = {
    START_OK: lambda _, chance: method(0, (10, 30), _tune(chance)),
    OPEN: lambda _, chance: method(0, (10, 41), short(b"")),
    CHANNEL_OPEN: lambda channel, _: method(channel, (20, 11), long(b"")),
    SELECT: lambda channel, _: method(channel, (85, 11)),
    DECLARE: lambda channel, _: method(channel, (50, 11), short(b"q") + bytes(8)),
    QOS: lambda channel, _: method(channel, (60, 11)),
    CONSUME: lambda channel, _: method(channel, (60, 21), short(b"tag")),
    CLOSE_CHANNEL: lambda channel, _: method(channel, (20, 41)),
    CLOSE: lambda channel, _: method(0, (10, 51)),
}


def _flow_frame(chance: random.Random) -> bytes:
    """Return something that a broker may say while messages flow."""
    channel = chance.choice((1, 1, 2, 2, 0, 3, 65535))
    tag = struct.pack(">Q", chance.choice((0, 1, 2, 3, 4, 1 << 40)))
    code = struct.pack(">H", chance.choice((200, 312, 320, 403, 404, 405, 406, 501, 504, 530, 541, 0)))
    text = short(chance.choice((b"NOT_FOUND - no exchange", b"", b"\xff\xfe", b"x\x1b[31m\n[0] y")))
    header = struct.pack(">HHQH", 60, 0, chance.choice((0, 2, 1 << 62)), 0x2000)
    properties = frame(_HEADER, channel, header + table(chance))
    body = frame(_BODY, channel, b"{}")
    deliver = method(channel, (60, 60), short(b"tag") + tag + b"\0" + short(b"x") + short(b"y"))
    returned = method(channel, (60, 50), code + text + short(b"x") + short(b"y"))
    return chance.choice((
        method(channel, (60, 80), tag + chance.choice((b"\0", b"\x01"))),
        method(channel, (60, 120), tag + chance.choice((b"\0", b"\x01"))),
        deliver, deliver + properties + body, properties, body, returned, returned + properties + body,
        method(channel, (20, 20), chance.choice((b"\0", b"\x01"))),
        method(channel, (60, 30), short(b"tag") + b"\x01"),
        frame(_HEARTBEAT, 0, b""), method(0, (10, 60), text), method(0, (10, 61)),
        *(() if chance.random() < 0.9 else (
            method(channel, (20, 40), code + text + b"\0\x3c\0\x28"), method(0, (10, 50), code + text + b"\0\0\0\0"),
            method(0, (10, 30), _tune(chance)), method(0, (10, 10), _greeting(chance)), method(0, (10, 41), short(b"")),
        )),
    ))


def _spoilt(chance: random.Random, legal: bytes) -> bytes:
    """Return a frame with changes: in what it carries, its length being right, or anywhere."""
    if chance.random() < 0.2:
        return mutate(chance, legal)
    kind, channel, size = struct.unpack_from(">BHI", legal)
    payload = legal[7 : 7 + size]
    # The method's name stays most of the time, or nobody would look at what follows.
    keep = 4 if kind == _METHOD and chance.random() < 0.8 else 0
    return frame(kind, channel, payload[:keep] + mutate(chance, payload[keep:])) + legal[8 + size :]
