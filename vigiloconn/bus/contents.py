"""Deliveries, put together from their frames. Knows AMQP's layout of contents, nothing of queues or handlers.

The library decodes every property of every message, and a header that it can't decode ends its connection: a client
that may publish could stop every consumer. Here properties stay as they came until somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, unpack_from
from struct import error as StructError
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import decode_properties_basic, dumps

from vigiloconn.bus.inbound import BODY, HEADER, METHOD, Malformed
from vigiloconn.errors import BadMessage
from vigiloconn.kit.escape import printable

#: Octets of a content header before its property flags: class, weight, body size.
_PROPERTIES_AT = 12
#: Octets of a frame before its payload, with the one behind it, and what that one is.
_HEAD, _FRAME_OVERHEAD, _FRAME_END = 7, 8, 0xCE
_DELIVER = 60 << 16 | 60
#: Octets of a content header's frame up to its property flags and its end, and of the smallest delivery.
_HEADER_BYTES = _FRAME_OVERHEAD + _PROPERTIES_AT + 2
_LEAST_BYTES = 2 * _FRAME_OVERHEAD + _HEADER_BYTES
_method_head = Struct(">BHII").unpack_from
_header_head = Struct(">BHI4xQ").unpack_from
_kind_and_channel = Struct(">BH").unpack_from
_frame_head = Struct(">BHI").unpack_from
_tag_and_bits = Struct(">QB").unpack_from
#: What the library lets out where bytes are not what it expects. It checks little before it unpacks.
UNDECODABLE = (
    FrameSyntaxError, StructError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, OSError,
    RecursionError,
)  # fmt: skip
#: The properties before `message_id`, by their flags from bit 15 on, and how each is written: AMQP 0-9-1 reference,
#: class basic. s: a short string, F: a table, o: an octet.
_BEFORE_MESSAGE_ID = "ssFoosss"


def headers_size(headers: dict[str, Any]) -> int:
    """Return how many octets a table of headers takes. Raises `BadMessage` when it can't be encoded."""
    try:
        return len(dumps("F", (headers,)))
    except UNDECODABLE as exc:
        raise BadMessage(f"headers can't be encoded: {printable(repr(exc), 200)}") from exc


def decoded_properties(header: bytes) -> dict[str, Any]:
    """Return the properties of a content header, `application_headers` among them, by the library's names; none where
    one of them can't be decoded: a publisher may have put anything there."""
    try:
        return _decode_properties(header)
    except BadMessage:
        return {}


def _decode_properties(header: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = decode_properties_basic(header, _PROPERTIES_AT)[0]
    except UNDECODABLE as exc:
        raise BadMessage(f"properties can't be decoded: {printable(repr(exc), 200)}") from exc
    return found


def message_id(header: bytes) -> str:
    """Return the message id of a content header, "" where there is none or it is cut short.

    Passes over the headers without decoding them: a publisher may have put anything there.
    """
    (flags,) = unpack_from(">H", header, _PROPERTIES_AT)
    position = _PROPERTIES_AT + 2
    try:
        for bit, kind in zip(range(15, 7, -1), _BEFORE_MESSAGE_ID, strict=True):
            if flags >> bit & 1:
                position += _width(kind, header, position)
        if not flags >> 7 & 1:
            return ""
        start = position + 1
        return header[start : start + header[position]].decode("utf-8", "replace")
    except (StructError, IndexError):
        return ""


def _width(kind: str, header: bytes, position: int) -> int:
    if kind == "o":
        return 1
    if kind == "s":
        return 1 + header[position]
    (size,) = unpack_from(">I", header, position)
    return 4 + int(size)


class Delivery:
    """A message as the broker delivered it; `source` is the consumer that it is acknowledged to.

    Raises `Malformed` where the method is cut short.
    """

    __slots__ = ("_header", "_method", "_names_at", "body", "redelivered", "source", "tag")

    def __init__(self, method: bytes, header: bytes, body: bytes, source: Any = None) -> None:
        self._method = method
        self._header = header
        self.body = body
        self.source = source
        self.tag: int
        try:
            tag_at = 5 + method[4]
            self.tag, bits = _tag_and_bits(method, tag_at)
            self._names_at = key_at = tag_at + 9
            key_at += 1 + method[key_at]
            is_whole = len(method) >= key_at + 1 + method[key_at]
        except (StructError, IndexError):
            is_whole = False
        if not is_whole:
            raise Malformed(f"basic.deliver of {len(method)} bytes, cut short")
        self.redelivered = bool(bits & 1)

    @property
    def exchange(self) -> str:
        """Where it was published; empty for the default exchange."""
        return self._name(self._names_at)

    @property
    def routing_key(self) -> str:
        """With what key; octets that are not UTF-8 are replaced."""
        return self._name(self._names_at + 1 + self._method[self._names_at])

    def _name(self, position: int) -> str:
        start = position + 1
        return self._method[start : start + self._method[position]].decode("utf-8", "replace")

    def properties(self) -> dict[str, Any]:
        """Return its properties, `application_headers` among them, by the library's names.

        Raises `BadMessage` when one can't be decoded: a publisher may put anything into them.
        """
        return _decode_properties(self._header)

    def message_id(self) -> str:
        """Return its message id, empty where there is none or it can't be decoded."""
        return message_id(self._header)


class ContentReader:
    """Puts one channel's contents together and hands each to `on_content(method, header, body)`.

    A body of more than `max_bytes` is read past without being kept, and `on_too_large(method, header, size)` is called
    instead, as soon as its size is known. `frame` is what `BusConnection.deliveries` wants, `whole` what its `contents`
    do; both raise `Malformed`.
    Frames: AMQP 0-9-1 specification, sections 2.3.5.2 and 4.2.6.
    """

    def __init__(
        self,
        on_content: Callable[[bytes, bytes, bytes], None],
        max_bytes: int,
        on_too_large: Callable[[bytes, bytes, int], None],
    ) -> None:
        self._on_content = on_content
        self.max_bytes = max_bytes
        """What counts for the next content."""
        self._on_too_large = on_too_large
        self._method = self._header = b""
        self._missing = 0
        self._is_kept = False
        self._body = bytearray()

    def whole(self, buffer: bytes, position: int, end: int, frame_max: int) -> int:
        """Take the deliveries that begin at `position`, as far as they are whole and plain: three frames each.

        Returns where it has stopped. What stands there, if anything does, is for `frame`, which has the say on what is
        wrong with it.
        """
        if self._missing or self._body:
            return position
        largest = frame_max - _FRAME_OVERHEAD
        _, own = _kind_and_channel(buffer, position)
        while end - position >= _LEAST_BYTES:
            kind, channel, method_size, method_id = _method_head(buffer, position)
            header_at = position + _FRAME_OVERHEAD + method_size
            if kind != METHOD or channel != own or method_id != _DELIVER:
                break
            if header_at + _HEADER_BYTES > end or method_size > largest:
                break
            header_kind, header_channel, header_size, body_size = _header_head(buffer, header_at)
            body_at = header_at + _FRAME_OVERHEAD + header_size
            after = body_at + _FRAME_OVERHEAD + body_size
            if after > end or not 0 < body_size <= largest or body_size > self.max_bytes:
                break
            body_kind, body_channel, size = _frame_head(buffer, body_at)
            if not (
                header_kind == HEADER and body_kind == BODY and size == body_size
                and header_channel == body_channel == channel and header_size >= _PROPERTIES_AT + 2
                and buffer[header_at - 1] == buffer[body_at - 1] == buffer[after - 1] == _FRAME_END
            ):  # fmt: skip
                break
            self._on_content(
                buffer[position + _HEAD : header_at - 1],
                buffer[header_at + _HEAD : body_at - 1],
                buffer[body_at + _HEAD : after - 1],
            )
            position = after
        return position

    def frame(self, kind: int, payload: bytes) -> None:
        """Take the next frame of the channel."""
        if kind == BODY:
            self._take_body(payload)
        elif kind == METHOD:
            if self._missing:
                raise Malformed(f"a method where {self._missing} bytes of a body are missing")
            self._method, self._header = payload, b""
        elif kind == HEADER:
            self._take_header(payload)

    def _take_header(self, payload: bytes) -> None:
        if not self._method or self._header or len(payload) < _PROPERTIES_AT + 2:
            raise Malformed(f"a content header of {len(payload)} bytes that belongs to nothing or is cut short")
        self._header = payload
        (size,) = unpack_from(">Q", payload, 4)
        self._missing = size
        self._is_kept = size <= self.max_bytes
        if not self._is_kept:
            self._on_too_large(self._method, payload, size)
        if not size:
            self._end_body(b"")

    def _take_body(self, payload: bytes) -> None:
        left = self._missing - len(payload)
        if left < 0 or not self._missing:
            raise Malformed(f"a body frame of {len(payload)} bytes where {self._missing} bytes are missing")
        self._missing = left
        if self._is_kept and (left or self._body):
            # One buffer, not a list of pieces: each of a million small ones would take more than its bytes.
            self._body += payload
        if not left:
            self._end_body(payload)

    def _end_body(self, last: bytes) -> None:
        body, self._body = bytes(self._body) or last, bytearray()
        method, self._method = self._method, b""
        if self._is_kept:
            self._on_content(method, self._header, body)
