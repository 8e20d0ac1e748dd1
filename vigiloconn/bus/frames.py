"""Publish frames: the bytes of a `basic.publish`, built once per route and filled in per message.

Everything but body and message id is the same for thousands of messages. The constant parts come from
py-amqp's own serialization, so a test can hold the result against what the library would have written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct, pack
from struct import error as StructError
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps

from vigiloconn.errors import BadMessage
from vigiloconn.kit.limits import MAX_NAME_BYTES

_BASIC = 60
_PUBLISH = 40
_FRAME_END = b"\xce"
_pack_body_size = Struct(">Q").pack
_pack_frame_size = Struct(">I").pack
#: Octets of a frame that are not payload: type, channel, size, end.
_FRAME_OVERHEAD = 8
#: Properties that stand behind `message_id`, and the octets of the flags before all of them: AMQP 0-9-1 reference,
#: class basic.
_BEHIND_MESSAGE_ID = ("timestamp", "type", "user_id", "app_id", "cluster_id")
_FLAGS_BYTES = 2


class PublishFrames:
    """Renders publishes of one route on one channel.

    `properties` are those that have no argument of their own, by the library's names. Raises `BadMessage` when
    exchange, routing key or a property can't be encoded (over 255 bytes in UTF-8).
    Frame layout: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.6.
    """

    def __init__(
        self,
        channel_id: int,
        exchange: str,
        routing_key: str,
        *,
        frame_max: int,
        persistent: bool = True,
        expiration_ms: int | None = None,
        mandatory: bool = True,
        content_type: str = "application/json",
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self._channel_id = channel_id
        self._chunk = frame_max - _FRAME_OVERHEAD
        before: dict[str, Any] = {
            "content_type": content_type,
            "delivery_mode": 2 if persistent else 1,
            # Rendered empty: the last octet is its length, and is filled in per message.
            "message_id": "",
        }
        if content_encoding is not None:
            before["content_encoding"] = content_encoding
        if expiration_ms is not None:
            before["expiration"] = str(expiration_ms)
        if headers:
            before["application_headers"] = dict(headers)
        try:
            arguments: bytes = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
            whole: bytes = Message("", **before, **(properties or {}))._serialize_properties()
            behind = {name: value for name, value in (properties or {}).items() if name in _BEHIND_MESSAGE_ID}
            end = len(whole) - (len(Message("", **behind)._serialize_properties()) - _FLAGS_BYTES if behind else 0)
            self._properties = whole[: end - 1]
            self._behind = whole[end:]
        # Whatever the library meets in a header: it checks little before it packs.
        except (FrameSyntaxError, StructError, OverflowError, RecursionError, TypeError, ValueError) as exc:
            raise BadMessage(
                f"exchange {exchange[:40]!r}, routing key {routing_key[:40]!r}...: can't be encoded: {exc};"
                f" each may hold at most {MAX_NAME_BYTES} bytes of UTF-8"
            ) from exc
        if 12 + len(whole) + MAX_NAME_BYTES > self._chunk:
            # The broker would close the whole connection.
            raise BadMessage(f"properties of {len(whole)} bytes: expected less than a frame, {frame_max}")
        method = pack(">HH", _BASIC, _PUBLISH) + arguments
        self._method_frame = pack(">BHI", 1, channel_id, len(method)) + method + _FRAME_END
        self._heads: dict[int, tuple[bytes, bytes, bytes]] = {}

    def _head(self, id_length: int) -> tuple[bytes, bytes, bytes]:
        """Return what stands before the body's size, the message id, and the size of a single body frame."""
        if id_length > MAX_NAME_BYTES:
            raise BadMessage(f"message_id of {id_length} bytes: expected at most {MAX_NAME_BYTES}")
        payload = 12 + len(self._properties) + 1 + id_length + len(self._behind)
        return (
            self._method_frame + pack(">BHIHH", 2, self._channel_id, payload, _BASIC, 0),
            self._properties + pack(">B", id_length),
            self._behind + _FRAME_END + pack(">BH", 3, self._channel_id),
        )

    def render(self, body: bytes, message_id: bytes) -> bytes:
        """Return all the bytes of one publish. Raises `BadMessage` for a `message_id` of more than 255 bytes."""
        return b"".join(self.pieces(body, message_id))

    def pieces(self, body: bytes, message_id: bytes) -> Sequence[bytes]:
        """Return what `render` does before it is joined: those of many publishes are joined once, and copied once."""
        id_length = len(message_id)
        head = self._heads.get(id_length)
        if head is None:
            head = self._heads[id_length] = self._head(id_length)
        before_size, before_id, before_body = head
        size = len(body)
        if 0 < size <= self._chunk:
            return (
                before_size, _pack_body_size(size), before_id, message_id, before_body, _pack_frame_size(size), body,
                _FRAME_END,
            )  # fmt: skip
        parts = [before_size, _pack_body_size(size), before_id, message_id, self._behind, _FRAME_END]
        for start in range(0, size, self._chunk):
            piece = body[start : start + self._chunk]
            parts += (pack(">BHI", 3, self._channel_id, len(piece)), piece, _FRAME_END)
        return parts
