"""Lines, dicts and JSON objects."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigiloconn.errors import BadMessage
from vigiloconn.interfaces import RouteKey
from vigiloconn.serialize import (
    decode,
    decode_text,
    encode,
    parse_chunk,
    parse_line,
    parse_sync,
    route_key,
    stored_route_key,
)

#: Field text as a writer may send it: anything but the separators.
FIELD = st.text(st.characters(exclude_characters="|\n", exclude_categories=["Cs"]), max_size=20)
INNER = FIELD.map(lambda text: f"<{text}>")  # never blank at its ends, never empty

EXAMPLES: list[tuple[str, dict[str, str]]] = [
    (
        "event|1165939739|srv1.example.com|Load|CRITICAL|CRITICAL: load avg: 12 10 10",
        {"type": "event", "timestamp": "1165939739", "host": "srv1.example.com", "service": "Load",
         "state": "CRITICAL", "message": "CRITICAL: load avg: 12 10 10"},
    ),
    (
        "event|1165939739|srv1.example.com|HOST|DOWN|DOWN: gone",
        {"type": "event", "timestamp": "1165939739", "host": "srv1.example.com", "state": "DOWN",
         "message": "DOWN: gone"},
    ),
    (
        "event|1|h||DOWN|gone|rk",
        {"type": "event", "timestamp": "1", "host": "h", "state": "DOWN", "message": "gone", "routing_key": "rk"},
    ),
    (
        "perf|1165939739|srv1.example.com|Load|10|rk.perf",
        {"type": "perf", "timestamp": "1165939739", "host": "srv1.example.com", "datasource": "Load", "value": "10",
         "routing_key": "rk.perf"},
    ),
    (
        "state|1239104006|srv.example.com|192.168.1.1||1|SOFT|2|WARNING: x",
        {"type": "state", "timestamp": "1239104006", "host": "srv.example.com", "ip": "192.168.1.1", "service": "",
         "code": "1", "statetype": "SOFT", "attempt": "2", "message": "WARNING: x"},
    ),
    (
        "nagios|1239104006|PROCESS_SERVICE_CHECK_RESULT|srv.example.com|Load|0|OK|a=1",
        {"type": "nagios", "timestamp": "1239104006", "cmdname": "PROCESS_SERVICE_CHECK_RESULT",
         "value": "srv.example.com;Load;0;OK;a=1", "host": "srv.example.com"},
    ),
    (
        "nagios|1|DISABLE_NOTIFICATIONS",
        {"type": "nagios", "timestamp": "1", "cmdname": "DISABLE_NOTIFICATIONS", "value": ""},
    ),
    (
        "nagios|1|ACKNOWLEDGE_SVC_PROBLEM|h|s",
        {"type": "nagios", "timestamp": "1", "cmdname": "ACKNOWLEDGE_SVC_PROBLEM", "value": "h;s"},
    ),
]


@pytest.mark.parametrize(("line", "message"), EXAMPLES)
def test_a_line_becomes_the_message_of_its_type(line: str, message: dict[str, str]) -> None:
    assert parse_line(line) == message
    items, size_bytes, rejected = parse_chunk([line.encode()])
    assert [json.loads(body) for _, body in items] == [message]
    assert items[0][0] == RouteKey(message["type"], message.get("routing_key"), True)
    assert size_bytes == len(items[0][1])
    assert rejected == []


def test_an_empty_routing_key_field_means_none() -> None:
    for line in ("event|1|h|s|OK|m|", "perf|1|h|d|2|", "state|1|h|ip|s|0|HARD|1|m| \r"):
        message = parse_line(line)
        assert message is not None
        assert "routing_key" not in message


def test_only_blanks_tabs_and_carriage_returns_go_at_the_ends_of_a_line() -> None:
    kept = "\x85\xa0\u2028m\u2029\x1c\x00\x0b"
    message = parse_line(f"\t event|1|h|s|OK|{kept} \r")
    assert message is not None
    assert message["message"] == kept
    assert decode(encode(message))["message"] == kept


@pytest.mark.parametrize("line", ["", " ", "\r", "\t \r"])
def test_an_empty_line_is_nothing_and_not_malformed(line: str) -> None:
    assert parse_line(line) is None
    assert parse_chunk([line.encode()]) == ([], 0, [])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("event|1|h|s|OK", "event: expected 6 or 7 fields, got 5"),
        ("event|1|h|s|OK|m|rk|x", "event: expected 6 or 7 fields, got 8"),
        ("perf|1|h|d", "perf: expected 5 or 6 fields, got 4"),
        ("state|1|h|ip|s|0|HARD|1", "state: expected 9 or 10 fields, got 8"),
        ("nagios|1", "nagios: expected 3 or more (a check result: 4) fields, got 2"),
        ("nagios|1|PROCESS_SERVICE_CHECK_RESULT", "nagios: expected 3 or more (a check result: 4) fields, got 3"),
        ("Event|1|h|s|OK|m", "type 'Event' of 6 fields"),
        ("|1|h|s|OK|m", "type '' of 6 fields"),
        ("|", "type '' of 2 fields"),
        ("garbage", "type 'garbage' of 1 fields"),
        ("sync|a|b", "sync: expected one token"),
    ],
)
def test_a_malformed_line_is_refused_with_what_was_found_and_expected(line: str, wrong: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_line(line)
    assert wrong in str(caught.value)
    assert parse_chunk([line.encode()]) == ([], 0, [(line.encode(), str(caught.value))])


def test_a_line_that_is_not_utf8_is_taken_as_iso_8859_15_and_its_neighbours_are_not() -> None:
    lines = ["event|1|h|s|OK|é".encode(), "event|1|h|s|OK|é€".encode("iso-8859-15"), b"x"]
    items, _, rejected = parse_chunk(lines)
    assert [json.loads(body)["message"] for _, body in items] == ["é", "é€"]
    assert rejected[0][0] == b"x"


@given(st.binary())
def test_any_bytes_are_text(raw: bytes) -> None:
    text = decode_text(raw)
    assert text.encode() == raw or text.encode("iso-8859-15") == raw


@given(st.lists(st.binary().map(lambda raw: raw.replace(b"\n", b""))))
def test_a_chunk_gives_what_its_lines_give_one_by_one(lines: list[bytes]) -> None:
    expected = []
    wrong = []
    for line in lines:
        try:
            message = parse_line(decode_text(line))
        except BadMessage as exc:
            wrong.append((line, str(exc)))
        else:
            if message is not None:
                expected.append((route_key(message), encode(message)))
    assert parse_chunk(lines) == (expected, sum(len(body) for _, body in expected), wrong)


@given(st.tuples(INNER, FIELD, FIELD, FIELD, INNER), st.one_of(st.none(), INNER))
def test_an_event_line_with_any_text_becomes_its_json_object(fields: tuple[str, ...], key: str | None) -> None:
    line = "|".join(["event", *fields] + ([key] if key else []))
    timestamp, host, service, state, text = fields
    expected = {"type": "event", "timestamp": timestamp, "host": host, "state": state, "message": text}
    if service and service.lower() != "host":
        expected["service"] = service
    if key:
        expected["routing_key"] = key
    message = parse_line(line)
    assert message is not None
    assert json.loads(encode(message)) == expected
    [(found_key, body)], _, _ = parse_chunk([line.encode()])
    assert json.loads(body) == expected
    assert found_key == RouteKey("event", key, True)


@given(st.lists(FIELD, min_size=1), st.sampled_from(["nagios", "perf", "state", "event", "other", "sync"]))
def test_parsing_raises_nothing_but_bad_message(fields: list[str], type_: str) -> None:
    try:
        message = parse_line("|".join([type_, *fields]))
    except BadMessage:
        return
    assert message is not None
    assert all(isinstance(value, str) for value in message.values())


def test_the_shared_keys_stay_bounded_whatever_comes_from_outside() -> None:
    from vigiloconn import serialize

    lines = [b"perf|1|h|d|1|key%d" % number for number in range(3 * serialize._MAX_SHARED_KEYS)]
    items, _, _ = parse_chunk(lines)
    assert len(serialize._shared_keys) <= serialize._MAX_SHARED_KEYS
    assert [key.routing_key for key, _ in items] == [f"key{number}" for number in range(len(lines))]


def test_equal_keys_of_a_chunk_are_one_object() -> None:
    items, _, _ = parse_chunk([b"perf|1|h|d|1|k", b"perf|2|h|d|1|k", b"perf|3|h|d|1", b"perf|4|h|d|1"])
    assert items[0][0] is items[1][0]
    assert items[2][0] is items[3][0]


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (datetime(2006, 12, 12, 16, 8, 59, 999999, tzinfo=UTC), 1165939739),
        (datetime(2006, 12, 12, 17, 8, 59, tzinfo=timezone(timedelta(hours=1))), 1165939739),
        (datetime(2006, 12, 12, 16, 8, 59), 1165939739),
    ],
)
def test_a_datetime_timestamp_becomes_whole_unix_seconds_at_any_depth(moment: datetime, seconds: int) -> None:
    message = {"type": "perf", "timestamp": moment, "messages": [{"timestamp": moment}, {"a": {"timestamp": moment}}]}
    assert json.loads(encode(message)) == {
        "type": "perf", "timestamp": seconds, "messages": [{"timestamp": seconds}, {"a": {"timestamp": seconds}}],
    }
    assert message["timestamp"] is moment


@pytest.mark.parametrize("value", ["\ud800", object(), 1 + 2j])
def test_a_value_without_a_json_form_is_refused(value: Any) -> None:
    with pytest.raises(BadMessage):
        encode({"type": "event", "value": value})


def test_a_message_that_holds_itself_is_refused() -> None:
    message: dict[str, Any] = {"type": "event"}
    message["messages"] = [message]
    with pytest.raises(BadMessage):
        encode(message)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b'"x"', b"null", b"{", b'{"a":"\xff"}', b'{"a":1} x', b'{"a":' + b"[" * 100_000]
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessage, match="JSON object"):
        decode(body)


@given(st.binary())
def test_decoding_raises_nothing_but_bad_message(body: bytes) -> None:
    try:
        assert isinstance(decode(body), dict)
    except BadMessage:
        pass


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"type": "event"}, RouteKey("event", None, True)),
        ({"type": "event", "routing_key": "a"}, RouteKey("event", "a", True)),
        ({"type": "event", "routing_key": ""}, RouteKey("event", None, True)),
        ({"type": "event", "routing_key": None}, RouteKey("event", None, True)),
        ({"type": "event", "persistent": False}, RouteKey("event", None, False)),
        ({"type": "event", "persistent": 0}, RouteKey("event", None, True)),
        ({"type": "event", "persistent": "no"}, RouteKey("event", None, True)),
    ],
)
def test_the_route_key_comes_from_the_message(message: dict[str, Any], key: RouteKey) -> None:
    assert route_key(message) == key
    assert stored_route_key(json.dumps(message).encode()) == key


@pytest.mark.parametrize("message", [{}, {"type": ""}, {"type": 1}, {"type": None}, {"type": "a", "routing_key": 3}])
def test_a_message_that_can_not_be_routed_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        route_key(message)
    with pytest.raises(BadMessage):
        stored_route_key(json.dumps(message).encode())


@pytest.mark.parametrize("row", [b'{"type": "\xed\xa0\x80"}', b'{"x":' * 100_000])
def test_a_row_that_no_writer_of_ours_has_left_is_refused_like_any_other(row: bytes) -> None:
    with pytest.raises(BadMessage):
        stored_route_key(row)


@pytest.mark.parametrize(
    ("line", "token"),
    [
        (b"sync|abc", "abc"),
        (b" sync|a b \r", "a b"),
        (b"sync|" + b"x" * 128, "x" * 128),
        ("sync|é".encode(), "é"),
        (b"sync|" + b"x" * 129, None),
        (b"sync|", None),
        (b"sync|a|b", None),
        (b"sync", None),
        (b"event|sync|", None),
    ],
)
def test_a_sync_line_is_known_by_a_proper_token(line: bytes, token: str | None) -> None:
    assert parse_sync(line) == token
