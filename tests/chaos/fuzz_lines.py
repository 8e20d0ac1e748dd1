"""Random lines: whatever a writer writes is a message, malformed, or skipped; and both ways of parsing agree."""

from __future__ import annotations

import json
import random

from tests.chaos.garbage import mutate, nasty_bytes, some_bytes
from tests.chaos.lines import KINDS, make_line
from vigiloconn.errors import BadMessage
from vigiloconn.serialize import (
    MAX_LINE_BYTES,
    decode_text,
    encode,
    parse_chunk,
    parse_line,
    parse_sync,
    route_key,
    stored_route_key,
)
from vigiloconn.sources.lines import LineSplitter, Sync, TooLong

_LINES = 20


def case(chance: random.Random) -> int:
    """Try a stream of some lines, in chunks of any size."""
    lines = [_line(chance) for _ in range(_LINES)]
    stream = b"\n".join(lines)
    splitter = LineSplitter()
    parts = []
    while stream:
        size = chance.choice((1, 7, 100, 65536))
        parts += splitter.feed(stream[:size])
        stream = stream[size:]
    parts += splitter.finish()
    plain = [line for part in parts if isinstance(part, list) for line in part]
    special = [part for part in parts if isinstance(part, (Sync, TooLong))]
    # A line that is empty and the last has no newline, and is none.
    wanted = lines[:-1] if lines[-1] == b"" else lines
    expected = [line for line in wanted if parse_sync(line) is None and len(line) <= MAX_LINE_BYTES]
    assert plain == expected, "lines lost or changed by the splitter"
    assert len(special) == len(wanted) - len(expected), "questions or long lines lost by the splitter"
    _parse(plain)
    return _LINES


def _parse(lines: list[bytes]) -> None:
    items, size_bytes, rejected = parse_chunk(lines)
    assert size_bytes == sum(len(body) for _, body in items)
    one_by_one, malformed = [], []
    for line in lines:
        try:
            message = parse_line(decode_text(line))
        except BadMessage:
            malformed.append(line)
            continue
        if message is not None:
            one_by_one.append((route_key(message), encode(message)))
            assert json.loads(one_by_one[-1][1]) == message, "the body is not the message"
    assert list(items) == one_by_one, "a chunk is parsed otherwise than its lines"
    assert [line for line, _ in rejected] == malformed
    for key, body in items:
        assert stored_route_key(body) == key, "a message takes another way when it comes from the journal"


def _line(chance: random.Random) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return some_bytes(chance).replace(b"\n", b"")
    if kind == 1:
        head = chance.choice((b"event", b"perf", b"state", b"nagios", b"sync", b"Event", b""))
        fields = [nasty_bytes(chance) if chance.random() < 0.3 else b"x" for _ in range(chance.randint(0, 12))]
        return b"|".join([head, *fields]).replace(b"\n", b"")
    text = make_line(chance, "w", chance.randrange(1000), chance.choice(KINDS), 20).text.encode()
    if kind == 2 and chance.random() < 0.02:
        return text + b"x" * chance.choice((MAX_LINE_BYTES - len(text), MAX_LINE_BYTES - len(text) + 1, 200_000))
    return text if kind == 3 else mutate(chance, text).replace(b"\n", b"")
