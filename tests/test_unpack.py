"""What a body holds: one message or many, whatever its form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vigiloconn.consuming import unpack as module
from vigiloconn.consuming.unpack import MANY_COMMAS, MAX_BRACKETS, MAX_DEPTH, unpack
from vigiloconn.errors import BadMessage

A, B, C = ({"type": "perf", "value": value} for value in "abc")
PAD = "x" * 20_000


def unpacked(message: Any) -> list[Any]:
    """Return all that a body gives, without the steps that gave nothing."""
    return [step for step in unpack(json.dumps(message).encode()) if step is not None]


def nested(levels: int, message: Any) -> Any:
    for _ in range(levels):
        message = {"messages": [message]}
    return message


@pytest.mark.parametrize("pad", [{}, {"pad": PAD}])
def test_held_messages_come_in_order_whatever_the_size_of_the_body(pad: dict[str, str]) -> None:
    assert unpacked(A) == [A]
    assert unpacked({**A, **pad}) == [{**A, **pad}]
    assert unpacked({**pad, "messages": [A, {"messages": [B, A]}, C, {**B, **pad}]}) == [A, B, A, C, {**B, **pad}]


@pytest.mark.parametrize("pad", [{}, {"pad": PAD}])
@pytest.mark.parametrize("held", [[], None])
def test_empty_messages_beside_a_message_are_none(held: Any, pad: dict[str, str]) -> None:
    assert unpacked({**A, **pad, "messages": held}) == [{**A, **pad}]
    assert unpacked({"type": "perf", "messages": held}) == []
    assert unpacked({"messages": held}) == []
    assert unpacked({"messages": [{**A, **pad, "messages": held}, {"messages": held}, B]}) == [{**A, **pad}, B]


@pytest.mark.parametrize("pad", [{}, {"pad": PAD}])
@pytest.mark.parametrize("held", ["x", 3, {"a": 1}, True])
def test_messages_that_are_no_list_are_refused(held: Any, pad: dict[str, str]) -> None:
    with pytest.raises(BadMessage, match="messages: expected a list"):
        unpack(json.dumps({"type": "perf", **pad, "messages": held}).encode())


@pytest.mark.parametrize("pad", ["", PAD])
@pytest.mark.parametrize("item", ["x", 3, None, ["x"], [], {"messages": 7}])
def test_a_held_thing_that_is_no_message_costs_no_other_its_turn(item: Any, pad: str) -> None:
    found = unpacked({"pad": pad, "messages": [A, item, B]})
    assert [found[0], found[2]] == [A, B]
    assert isinstance(found[1], BadMessage)


@pytest.mark.parametrize("body", [
    b"", b"[1]", b"7", b"\xff", b"{", b'"x"', b"[" * 5000, b"[" * 50_000, b'{"messages": [1 2]}',
])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessage, match="expected a JSON object"):
        unpack(body)


def test_lists_in_one_another_are_read_up_to_a_limit() -> None:
    assert unpacked(nested(MAX_DEPTH, A)) == [A]
    [reason] = unpacked(nested(MAX_DEPTH + 1, A))
    assert isinstance(reason, BadMessage)
    assert "lists in one another" in str(reason)


def test_one_message_of_too_many_parts_is_refused_and_many_messages_are_not() -> None:
    parts = [{}] * (MAX_BRACKETS - 2)
    assert unpacked({"a": parts}) == [{"a": parts}]
    with pytest.raises(BadMessage, match="expected at most"):
        unpack(json.dumps({"a": [*parts, {}]}).encode())
    assert len(unpacked({"messages": [A] * (MAX_BRACKETS + 1)})) == MAX_BRACKETS + 1


def test_messages_are_decoded_as_they_are_asked_for() -> None:
    # The second is malformed inside, which is found when its turn comes.
    body = b'{"messages": [{"n": 1}, {"n": "\xff"}, {"n": 3}]}'
    steps = iter(unpack(body + b" " * 20_000))
    assert next(steps) == {"n": 1}
    assert isinstance(next(steps), BadMessage)
    assert next(steps) == {"n": 3}


def test_a_shell_without_messages_takes_a_step_of_its_own() -> None:
    assert list(unpack(json.dumps({"messages": [{"messages": []}, {"messages": []}]}).encode())) == [None, None]


def test_very_many_messages_are_found_bit_by_bit() -> None:
    # Quotes, brackets and backslashes in texts are no ends.
    odd = {"text": 'a "}],[{" b \\\\', "n": None}
    wanted = [odd, *({"n": number} for number in range(MANY_COMMAS)), odd]
    steps = list(unpack(json.dumps({"type": "perf", "messages": wanted, "last": [1, {"a": {}}]}).encode()))
    assert [step for step in steps if step is not None] == wanted
    assert max(at for at, step in enumerate(steps) if step is None) > 100


@pytest.mark.parametrize(("body", "reason"), [
    (b'{"messages": [{"n": 1}, {"n": {}}, {"n": 3}]}', "no list of plain messages"),
    (b'{"messages": [{"n": 1}, {"n": 2} {"n": 3}], "a": 1}', "no list of plain messages"),
    (b'{"messages": [1, 2, 3]}', "no list of plain messages"),
    (b'{"a": 1, "b": 2, "c": "messages: ["}', "no list of plain messages"),
    (b'{"messages": [{"n": 1}, {"n": 2}, {"n": 3}}', "no list of plain messages"),
    (b'{"a": {"messages": [{"n": 1}, {"n": 2}, {"n": 3}]}}', "more than one list"),
    (b'{"messages": [{"n": 1}, {"n": 2}, {"n": 3}], "messages": [{"n": 4}]}', "more than one list"),
    (b'{"messages": [{"n": 1}, {"n": 2}, {"n": 3}]', "expected a JSON object"),
    (b'[{"messages": [{"n": 1}, {"n": 2}, {"n": 3}]}]', "expected a JSON object"),
])
def test_very_many_values_that_are_no_list_of_plain_messages_are_refused(
    monkeypatch: pytest.MonkeyPatch, body: bytes, reason: str
) -> None:
    monkeypatch.setattr(module, "MANY_COMMAS", 1)
    [error] = [step for step in unpack(body) if step is not None]
    assert isinstance(error, BadMessage)
    assert reason in str(error)


def test_one_of_very_many_that_is_no_message_costs_no_other_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_COMMAS", 1)
    first, error, last = unpack(b'{"messages": [{"n": 1}, {"n": x}, {"n": 3}]}')
    assert (first, last) == ({"n": 1}, {"n": 3})
    assert isinstance(error, BadMessage)
