"""Publish frames, held against what py-amqp writes for the same message."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BadMessage

FRAME_MAX = 4096
#: What fits into one frame of that size.
CHUNK = FRAME_MAX - 8


class FakeTransport:
    """Keeps what the library writes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += bytes(data)

    def having_timeout(self, timeout: float | None) -> nullcontext[None]:
        return nullcontext()


def library_bytes(
    channel_id: int, exchange: str, key: str, body: bytes, *, mandatory: bool = True, **properties: Any
) -> bytes:
    """Return what py-amqp's own `basic_publish` writes."""
    connection = amqp.Connection(frame_max=FRAME_MAX)
    transport = connection.transport = FakeTransport()
    connection.frame_writer = frame_writer(connection, transport)
    channel = amqp.Channel(connection, channel_id)
    message = amqp.Message(body, content_type="application/json", **properties)
    channel.basic_publish(message, exchange=exchange, routing_key=key, mandatory=mandatory)
    return transport.written


@pytest.mark.parametrize(
    "size", [0, 1, 200, CHUNK - 200, CHUNK - 1, CHUNK, CHUNK + 1, FRAME_MAX, 2 * CHUNK, 2 * CHUNK + 1, 100_000]
)
def test_body_of_any_size_makes_the_bytes_of_the_library(size: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    frames = PublishFrames(1, "event", "key", frame_max=FRAME_MAX)
    expected = library_bytes(1, "event", "key", body, delivery_mode=2, message_id="id-1")
    assert frames.render(body, b"id-1") == expected


@pytest.mark.parametrize("properties", [
    {"priority": 3, "correlation_id": "c", "reply_to": "r"},
    {"timestamp": 1_577_836_800},
    {"priority": 0, "timestamp": 1, "type": "t", "app_id": "é"},
])  # fmt: skip
@pytest.mark.parametrize("size", [0, 200, CHUNK + 1])
def test_properties_before_and_behind_the_message_id_make_the_bytes_of_the_library(
    properties: dict[str, Any], size: int
) -> None:
    frames = PublishFrames(1, "event", "key", frame_max=FRAME_MAX, properties=properties)
    expected = library_bytes(1, "event", "key", b"x" * size, delivery_mode=2, message_id="id-1", **properties)
    assert frames.render(b"x" * size, b"id-1") == expected


HEADERS = {"x-reason": "why", "count": 3, "big": 2**40, "nested": {"a": [1, "two", True]}, "none": None}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"persistent": False}, {"delivery_mode": 1}),
        ({"mandatory": False}, {"delivery_mode": 2, "mandatory": False}),
        ({"expiration_ms": 60_000}, {"delivery_mode": 2, "expiration": "60000"}),
        ({"headers": HEADERS}, {"delivery_mode": 2, "application_headers": HEADERS}),
        ({"headers": {}}, {"delivery_mode": 2}),
        (
            {"headers": {"at": datetime.datetime(2026, 1, 2)}, "expiration_ms": 0},
            {
                "delivery_mode": 2, "expiration": "0",
                "application_headers": {"at": datetime.datetime(2026, 1, 2)},
            },
        ),
    ],
)
def test_properties_make_the_bytes_of_the_library(options: dict[str, Any], expected: dict[str, Any]) -> None:
    frames = PublishFrames(7, "exchange", "routing.key", frame_max=FRAME_MAX, **options)
    for body in (b"{}", b"x" * 10_000):
        by_library = library_bytes(7, "exchange", "routing.key", body, message_id="42", **expected)
        assert frames.render(body, b"42") == by_library


names = st.text(st.characters(blacklist_categories=["Cs"]), max_size=255).filter(lambda text: len(text.encode()) < 256)


@given(
    channel_id=st.integers(1, 65535), exchange=names, key=names, body=st.binary(max_size=3 * FRAME_MAX),
    message_ids=st.lists(st.from_regex(r"[0-9a-f-]{0,255}", fullmatch=True), min_size=1, max_size=3),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_route_body_and_id_make_the_bytes_of_the_library(
    channel_id: int, exchange: str, key: str, body: bytes, message_ids: list[str]
) -> None:
    frames = PublishFrames(channel_id, exchange, key, frame_max=FRAME_MAX)
    for message_id in message_ids:
        expected = library_bytes(channel_id, exchange, key, body, delivery_mode=2, message_id=message_id)
        assert frames.render(body, message_id.encode()) == expected


@pytest.mark.parametrize("text", ["x" * 255, "é" * 127])
def test_name_of_255_bytes_is_taken(text: str) -> None:
    expected = library_bytes(1, text, text, b"x", delivery_mode=2, message_id="1")
    assert PublishFrames(1, text, text, frame_max=FRAME_MAX).render(b"x", b"1") == expected


@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, "x" * 100_000])
@pytest.mark.parametrize("place", ["exchange", "routing_key"])
def test_name_over_255_bytes_is_a_bad_message(place: str, text: str) -> None:
    route = {"exchange": "e", "routing_key": "k", place: text}
    with pytest.raises(BadMessage, match="at most 255 bytes") as caught:
        PublishFrames(1, **route, frame_max=FRAME_MAX)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "headers",
    [
        {"value": object()},
        {"value": 2**64},
        {"k" * 256: "key too long"},
        {"value": {"nested": {1, 2}}},
        # As big as a frame, and in no other way wrong: the broker would close the connection.
        {"value": "x" * FRAME_MAX},
    ],
    ids=["object", "number", "key", "set", "frame"],
)
def test_headers_that_no_broker_takes_are_a_bad_message(headers: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        PublishFrames(1, "e", "k", frame_max=FRAME_MAX, headers=headers)


def test_largest_headers_leave_room_for_the_longest_message_id() -> None:
    for size in range(3700, FRAME_MAX):
        try:
            frames = PublishFrames(1, "e", "k", frame_max=FRAME_MAX, headers={"v": "x" * size})
        except BadMessage:
            break
    else:
        raise AssertionError("headers of a whole frame were taken")
    rendered = frames.render(b"", b"i" * 255)
    method_size = 7 + int.from_bytes(rendered[3:7], "big") + 1
    header = rendered[method_size:]
    assert header[0] == 2
    assert len(header) == 7 + int.from_bytes(header[3:7], "big") + 1 == FRAME_MAX
