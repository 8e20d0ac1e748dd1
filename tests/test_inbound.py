"""Bytes of a broker, cut into frames and contents: what is handed on, what is refused, what is never kept."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from struct import pack
from typing import Any

import pytest
from amqp.basic_message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakebroker import frame, method
from vigiloconn.bus.contents import ContentReader, Delivery, message_id
from vigiloconn.bus.inbound import BODY, FRAME_MAX, HEADER, METHOD, FrameSplitter, Malformed
from vigiloconn.kit.escape import printable

DELIVER = pack(">HH", 60, 60) + b"\x01t" + pack(">Q", 1) + b"\x00" + b"\x01e" + b"\x01k"


class Frames:
    """A splitter and what it has handed on."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int, bytes]] = []
        self.splitter = FrameSplitter(self._note)

    def _note(self, kind: int, channel: int, buffer: bytes, start: int, stop: int) -> None:
        self.found.append((kind, channel, buffer[start:stop]))


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=50)), max_size=8),
       st.integers(1, 30))  # fmt: skip
def test_frames_are_the_same_wherever_the_stream_is_cut(sent: list[tuple[int, int, bytes]], size: int) -> None:
    frames = Frames()
    stream = b"".join(frame(*one) for one in sent)
    for start in range(0, len(stream), size):
        frames.splitter.feed(stream[start : start + size])
    assert frames.found == sent


def test_frame_that_comes_in_many_pieces_is_joined_once() -> None:
    frames = Frames()
    whole = frame(3, 1, b"x" * (FRAME_MAX - 8))
    copied = 0
    for start in range(0, len(whole), 100):
        frames.splitter.feed(whole[start : start + 100])
        copied += frames.splitter._kept if len(frames.splitter._pieces) == 1 else 0
    assert frames.found == [(3, 1, b"x" * (FRAME_MAX - 8))]
    # Of 1300 pieces the first two were joined, to learn the size, and then all of them.
    assert copied < len(whole)


@pytest.mark.parametrize(("wrong", "said"), [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame of type 72"),
    (b"AMQP\x00\x01\x00\x00", "frame of type 65"),
    (pack(">BHI", 3, 1, FRAME_MAX - 7), "131065 bytes, frames of 131072 were agreed"),
    (pack(">BHI", 3, 1, 0xFFFFFFFF), "4294967295 bytes"),
    (frame(1, 0, b"xx")[:-1] + b"\x00", "without its end"),
])  # fmt: skip
def test_what_is_no_frame_is_refused_as_soon_as_it_is_seen(wrong: bytes, said: str) -> None:
    frames = Frames()
    with pytest.raises(Malformed, match=said):
        frames.splitter.feed(frame(8, 0, b"") + wrong)
    assert frames.found == [(8, 0, b"")]


def test_limit_that_is_agreed_meanwhile_holds_for_the_next_frame() -> None:
    frames = Frames()
    frames.splitter.feed(frame(3, 1, b"x" * 5000))
    frames.splitter.frame_max = 4096
    frames.splitter.feed(frame(3, 1, b"x" * 4088))
    with pytest.raises(Malformed):
        frames.splitter.feed(frame(3, 1, b"x" * 4089))


class Contents:
    """A reader of contents and what it has handed on."""

    def __init__(self, max_bytes: int = 100) -> None:
        self.found: list[bytes] = []
        self.too_large: list[int] = []
        self.reader = ContentReader(
            lambda method, header, body: self.found.append(body), max_bytes,
            lambda method, header, size: self.too_large.append(size),
        )  # fmt: skip

    def feed(self, *frames: tuple[int, bytes]) -> None:
        for kind, payload in frames:
            self.reader.frame(kind, payload)


def header(size: int) -> tuple[int, bytes]:
    return HEADER, pack(">HHQH", 60, 0, size, 0)


def test_body_above_the_largest_is_read_past_and_the_next_one_is_whole() -> None:
    contents = Contents()
    contents.feed((METHOD, DELIVER), header(101))
    assert contents.too_large == [101]
    contents.feed((BODY, b"x" * 100), (BODY, b"x"))
    contents.feed((METHOD, DELIVER), header(100), (BODY, b"y" * 60), (BODY, b"z" * 40))
    assert contents.found == [b"y" * 60 + b"z" * 40]
    contents.feed((METHOD, DELIVER), header(0), (METHOD, DELIVER), header(1), (BODY, b"a"))
    assert contents.found[1:] == [b"", b"a"]
    assert contents.too_large == [101]


def test_body_without_an_end_takes_no_memory() -> None:
    contents = Contents()
    contents.feed((METHOD, DELIVER), header(2**63))
    piece = b"x" * 100_000
    tracemalloc.start()
    try:
        for _ in range(300):
            contents.feed((BODY, piece))
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_body_in_tiny_frames_takes_hardly_more_than_its_bytes() -> None:
    contents = Contents(max_bytes=100_000)
    contents.feed((METHOD, DELIVER), header(100_000))
    tracemalloc.start()
    try:
        for _ in range(99_999):
            contents.feed((BODY, b"x"))
        assert tracemalloc.get_traced_memory()[1] < 250_000
    finally:
        tracemalloc.stop()
    contents.feed((BODY, b"y"))
    assert contents.found == [b"x" * 99_999 + b"y"]


@pytest.mark.parametrize("frames", [
    [(BODY, b"x")],
    [header(1)],
    [(METHOD, DELIVER), (BODY, b"x")],
    [(METHOD, DELIVER), (HEADER, b"\x00\x3c")],
    [(METHOD, DELIVER), header(1), header(1)],
    [(METHOD, DELIVER), header(1), (METHOD, DELIVER)],
    [(METHOD, DELIVER), header(1), (BODY, b"xx")],
    [(METHOD, DELIVER), header(1), (BODY, b"x"), (BODY, b"")],
    [(METHOD, DELIVER), header(0), (BODY, b"")],
    [(METHOD, DELIVER), header(200), (BODY, b"x" * 200), (BODY, b"x")],
    [(METHOD, DELIVER), header(200), (BODY, b"x" * 200), header(1)],
])  # fmt: skip
def test_frames_that_make_no_content_are_refused(frames: list[tuple[int, bytes]]) -> None:
    with pytest.raises(Malformed):
        Contents().feed(*frames)


@pytest.mark.parametrize("size", range(4, len(DELIVER)))
def test_delivery_that_is_cut_short_is_refused(size: int) -> None:
    with pytest.raises(Malformed, match="cut short"):
        Delivery(DELIVER[:size], b"", b"")


def properties(**values: Any) -> bytes:
    serialized: bytes = Message("", **values)._serialize_properties()
    return pack(">HHQ", 60, 0, 0) + serialized


@pytest.mark.parametrize("values", [
    {}, {"content_type": "text/plain", "delivery_mode": 2, "priority": 1, "expiration": "5000"},
    {"application_headers": {"a": 1, "b": {"c": ["d"]}}, "content_encoding": "utf-8", "reply_to": "q", "type": "t"},
])  # fmt: skip
def test_message_id_is_found_behind_any_properties(values: dict[str, Any]) -> None:
    assert message_id(properties(**values)) == ""
    found = properties(message_id="caf\u00e9-7", app_id="x", **values)
    assert message_id(found) == "caf\u00e9-7"
    for size in range(14, len(found)):
        message_id(found[:size])


def test_message_id_is_found_behind_headers_that_nobody_can_decode() -> None:
    found = properties(application_headers={"x": 1}, message_id="J-1").replace(b"\x01xI", b"\x01x?")
    assert message_id(found) == "J-1"


def test_every_method_frame_of_the_tests_is_split_as_it_was_made() -> None:
    frames = Frames()
    frames.splitter.feed(method(5, (60, 80), "Lb", (1, True)))
    assert frames.found == [(1, 5, pack(">HHQB", 60, 80, 1, 1))]


@pytest.mark.parametrize(("text", "shown"), [
    ("plain caf\u00e9", "plain caf\u00e9"),
    ("a\nb\r\x1b[31m\x00", "a\\nb\\r\\x1b[31m\\x00"),
    ("\u2028\u202e\x85\udc80", "\\u2028\\u202e\\x85\\udc80"),
    ("x" * 301, "x" * 300 + "..."),
    (ValueError("bad\n"), "bad\\n"),
])  # fmt: skip
def test_foreign_text_is_one_line_without_control_characters(text: object, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def _delivery(tag: int, body: bytes, channel: int = 3) -> bytes:
    header = pack(">HHQH", 60, 0, len(body), 0x1000) + b"\x02"
    pieces = [body[at : at + 4000] for at in range(0, len(body), 4000)]
    frames = [(1, pack(">HH", 60, 60) + b"\x01t" + pack(">QB", tag, tag % 2) + b"\x00\x01q"), (2, header)]
    return b"".join(
        pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"
        for kind, payload in [*frames, *((3, piece) for piece in pieces)]
    )


def _taken(stream: bytes, cuts: list[int], with_whole: bool) -> tuple[list[object], str]:
    """Return what is made of a stream that comes in pieces, and what was wrong with it."""
    found: list[object] = []

    def on_content(*parts: bytes) -> None:
        found.append(parts)

    reader = ContentReader(on_content, 9000, on_content)  # type: ignore[arg-type]

    def on_frame(kind: int, channel: int, buffer: bytes, start: int, stop: int) -> None:
        if channel == 3:
            reader.frame(kind, buffer[start:stop])
        else:
            found.append((kind, channel, buffer[start:stop]))

    splitter = FrameSplitter(on_frame, {3: reader.whole} if with_whole else {})
    try:
        for begin, end in itertools.pairwise([0, *sorted(cuts), len(stream)]):
            splitter.feed(stream[begin:end])
    except Malformed as exc:
        return found, str(exc)
    return found, ""


@pytest.mark.parametrize("seed", range(60))
def test_deliveries_that_are_taken_whole_are_those_of_their_frames_whatever_comes(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [0, 1, 10, 200, 3999, 4000, 4001, 8500, 12_000]
    parts = [
        _delivery(tag, draw.randbytes(draw.choice(sizes)), draw.choice([3, 3, 3, 4])) for tag in range(1, 40)
    ]
    stream = bytearray(b"".join(parts))
    for _ in range(draw.choice([0, 0, 1, 2])):
        stream[draw.randrange(len(stream))] = draw.choice([0, 1, 2, 3, 0xCE, 0xFF])
    cuts = [draw.randrange(len(stream)) for _ in range(draw.choice([0, 3, 300]))]
    assert _taken(bytes(stream), cuts, with_whole=True) == _taken(bytes(stream), cuts, with_whole=False)
