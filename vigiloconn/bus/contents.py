"""Deliveries, put together from their frames. Knows AMQP's layout of contents, nothing of queues or handlers.

The library decodes every property of every message, and a header that it can't decode ends its connection: a client
that may publish could stop every consumer. Here properties stay as they came until somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as StructError
from struct import unpack_from
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import decode_properties_basic, dumps

from vigiloconn.errors import BadMessage

_METHOD, _HEADER, _BODY = 1, 2, 3
#: Octets of a content header before its property flags: class, weight, body size.
_PROPERTIES_AT = 12


def headers_size(headers: dict[str, Any]) -> int:
    """Return how many octets a table of headers takes. Raises `BadMessage` when it can't be encoded."""
    try:
        return len(dumps("F", (headers,)))
    except (FrameSyntaxError, StructError, ValueError, TypeError, ArithmeticError, AttributeError,
            RecursionError) as exc:  # fmt: skip
        raise BadMessage(f"headers can't be encoded: {exc!r:.200}") from exc


class Delivery:
    """A message as the broker delivered it; `source` is the consumer that it is acknowledged to."""

    __slots__ = ("_header", "_method", "_names_at", "body", "redelivered", "source", "tag")

    def __init__(self, method: bytes, header: bytes, body: bytes, source: Any = None) -> None:
        self._method = method
        self._header = header
        self.body = body
        self.source = source
        tag_at = 5 + method[4]
        self.tag: int
        self.tag, bits = unpack_from(">QB", method, tag_at)
        self.redelivered = bool(bits & 1)
        self._names_at = tag_at + 9

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
        try:
            found: dict[str, Any] = decode_properties_basic(self._header, _PROPERTIES_AT)[0]
        except (FrameSyntaxError, StructError, ValueError, OverflowError, IndexError, ArithmeticError,
                TypeError, OSError, RecursionError) as exc:  # fmt: skip
            raise BadMessage(f"properties can't be decoded: {exc!r:.200}") from exc
        return found

    def message_id(self) -> str:
        """Return its message id, empty where there is none or it can't be decoded."""
        try:
            return str(self.properties().get("message_id", ""))
        except BadMessage:
            return ""


class ContentReader:
    """Puts one channel's deliveries together and hands each to `on_delivery(method, header, body)`.

    `frame` is what `BusConnection.deliveries` wants. Frames: AMQP 0-9-1 specification, sections 2.3.5.2 and 4.2.6.
    """

    def __init__(self, on_delivery: Callable[[bytes, bytes, bytes], None]) -> None:
        self._on_delivery = on_delivery
        self._method = b""
        self._header = b""
        self._missing = 0
        self._parts: list[bytes] = []

    def frame(self, kind: int, payload: bytes) -> None:
        """Take the next frame of the channel."""
        if kind == _BODY:
            self._missing -= len(payload)
            if self._missing > 0:
                self._parts.append(payload)
            elif self._parts:
                body = b"".join((*self._parts, payload))
                self._parts.clear()
                self._on_delivery(self._method, self._header, body)
            else:
                self._on_delivery(self._method, self._header, payload)
        elif kind == _METHOD:
            self._method = payload
        elif kind == _HEADER:
            self._header = payload
            (self._missing,) = unpack_from(">Q", payload, 4)
            if not self._missing:
                self._on_delivery(self._method, payload, b"")
