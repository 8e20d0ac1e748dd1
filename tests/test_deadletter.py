"""How a dead letter looks, and how it gets to its queue: on a scripted bus, with waits and a clock of the test's."""

from __future__ import annotations

import time
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest
from amqp.basic_message import Message

from tests.support.scripted import ScriptedClient, ScriptedConnection
from vigiloconn.bus.contents import Delivery, headers_size
from vigiloconn.consuming.deadletter import DeadLetters, dead_letter_options
from vigiloconn.errors import BadMessage, BusDown, BusRefused
from vigiloconn.interfaces import Answer

FRAME_MAX = 131_072


class Source:
    """Stands in for the consumer: only its connection is asked."""

    connection = ScriptedConnection()


def raw(properties: bytes, body: bytes = b"{}") -> Delivery:
    """Return a delivery whose content header ends with these octets, flags first."""
    method = pack(">HHB1sQB", 60, 60, 1, b"t", 7, 1) + b"\x01e\x01k"
    return Delivery(method, pack(">HHQ", 60, 0, len(body)) + properties, body, Source())


def delivery(body: bytes = b"{}", **properties: Any) -> Delivery:
    return raw(Message("", **properties)._serialize_properties(), body)


def options(found: Delivery, reason: str = "why", tries: int = 1, frame_max: int = FRAME_MAX) -> dict[str, Any]:
    return dead_letter_options(found, reason, tries, frame_max)


# --- how it looks -----------------------------------------------------------------------------------------------------


def test_it_names_reason_tries_and_where_the_message_came_from() -> None:
    headers = options(delivery(), "no good", 3)["headers"]
    assert abs(headers.pop("x-vigilo-time") - time.time()) < 600
    assert headers == {
        "x-vigilo-reason": "no good", "x-vigilo-exchange": "e", "x-vigilo-routing-key": "k", "x-vigilo-tries": 3,
    }


def test_its_kind_and_number_stay_and_a_kind_that_is_missing_is_none_of_ours() -> None:
    kept = options(delivery(content_type="a/b", content_encoding="gzip", message_id="id", delivery_mode=1))
    assert (kept["content_type"], kept["content_encoding"], kept["message_id"]) == ("a/b", "gzip", "id")
    assert "x-vigilo-properties" not in kept["headers"]
    bare = options(delivery())
    assert (bare["content_type"], bare["content_encoding"], bare["message_id"]) == (
        "application/octet-stream", None, None,
    )


def test_properties_that_would_have_an_effect_are_told_in_a_header() -> None:
    kept = options(delivery(expiration="5", user_id="u", reply_to="r", priority=3))
    assert kept["headers"]["x-vigilo-properties"] == {
        "expiration": "5", "user_id": "u", "reply_to": "r", "priority": 3,
    }
    assert set(kept) == {"headers", "content_type", "content_encoding", "message_id"}


def test_headers_stay_but_for_those_that_would_route_it() -> None:
    headers = options(delivery(application_headers={"a": 1, "CC": ["x"], "BCC": ["y"], "cc": 2}))["headers"]
    assert headers["a"] == 1
    assert headers["x-vigilo-cc"] == ["x"]
    assert headers["x-vigilo-bcc"] == ["y"]
    assert headers["cc"] == 2
    assert not {"CC", "BCC"} & set(headers)


def test_a_letter_of_a_letter_tells_the_newer_reason() -> None:
    old = delivery(application_headers={"x-vigilo-reason": "old", "x-vigilo-tries": 9})
    headers = options(old, "new", 1)["headers"]
    assert (headers["x-vigilo-reason"], headers["x-vigilo-tries"]) == ("new", 1)


def test_properties_that_no_library_can_decode_are_left_out() -> None:
    entry = b"\x01a"
    for value in (b"?", b"T" + b"\xff" * 8, b"S\x00\x00\xff\xff", b"D\x05\x00\x00\x00\x00"):
        table = entry + value
        broken = raw(pack(">H", 0x2000) + pack(">I", len(table)) + table)
        headers = options(broken)["headers"]
        assert headers["x-vigilo-reason"].startswith("why")
        assert headers["x-vigilo-exchange"] == "e"
        assert headers["x-vigilo-routing-key"] == "k"


def test_headers_that_leave_no_room_in_a_frame_are_left_out() -> None:
    big = delivery(application_headers={"a": "x" * 5000})
    assert options(big)["headers"]["a"] == "x" * 5000
    small = options(big, "why" * 1000, frame_max=4096)["headers"]
    assert "a" not in small
    assert "too many for one frame" in small["x-vigilo-reason"]
    assert len(small["x-vigilo-reason"]) <= 1000


def test_a_frame_has_room_for_the_other_properties_beside_the_headers() -> None:
    big = delivery(application_headers={"a": "x" * 5000})
    size = headers_size(options(big)["headers"])
    assert "a" in options(big, frame_max=size + 2048)["headers"]
    assert "a" not in options(big, frame_max=size + 2047)["headers"]


def test_a_reason_is_text_that_can_be_sent_and_no_novel() -> None:
    assert options(delivery(), "x" * 5000)["headers"]["x-vigilo-reason"] == "x" * 1000
    assert options(delivery(), "\ud800")["headers"]["x-vigilo-reason"] == "?"


# --- how it gets there ------------------------------------------------------------------------------------------------


class Burial:
    """Buries one message at a time; each wait takes the next step of a script, and then says to leave the message."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.client = ScriptedClient()
        self.client.connect()
        self.now_s = 0.0
        self.letters = DeadLetters(self.client, "q", lambda: self.now_s)
        self.steps = list(steps)
        self.waits: list[float] = []

    def wait(self, seconds: float, result: Answer | None) -> bool:
        self.waits.append(seconds)
        self.now_s += seconds
        if not self.steps:
            return False
        self.steps.pop(0)()
        return True

    def bury(self, found: Delivery | None = None) -> bool:
        return self.letters.bury(found or delivery(), "why", 2, self.wait)

    def confirm(self) -> None:
        self.client.sent[-1].result.set(None)

    def fail(self, error: Exception) -> Callable[[], None]:
        def step() -> None:
            self.client.sent[-1].result.set_exception(error)

        return step

    def nothing(self) -> None:
        pass


def test_it_is_sent_with_confirm_to_the_queue_beside_and_done_when_it_is_confirmed() -> None:
    burial = Burial()
    burial.steps = [burial.confirm]
    assert burial.bury(delivery(b"body"))
    [sent] = burial.client.sent
    assert (sent.exchange, sent.routing_key, sent.message) == ("", "q.dead", b"body")
    assert sent.options["mandatory"] is True
    assert sent.options["headers"]["x-vigilo-tries"] == 2
    assert burial.letters.trouble is None


def test_without_a_confirm_the_trouble_is_told_and_nothing_sent_twice() -> None:
    burial = Burial()
    burial.steps = [burial.nothing, burial.nothing]
    assert not burial.bury()
    assert "no confirm" in str(burial.letters.trouble)
    assert len(burial.client.sent) == 1
    assert set(burial.waits) == {5.0}


@pytest.mark.parametrize("how", ["away", "blocked"])
def test_while_the_bus_takes_none_it_is_waited_for_without_an_end(how: str) -> None:
    burial = Burial()
    if how == "away":
        burial.client.lose()
    else:
        burial.client.block()
    burial.steps = [burial.nothing] * 100
    assert not burial.bury()
    assert "the bus takes none" in str(burial.letters.trouble)
    assert len(burial.client.sent) == 1


def test_a_letter_whose_answer_never_comes_is_sent_again() -> None:
    burial = Burial()
    burial.steps = [burial.nothing] * 25 + [burial.confirm] * 2
    assert burial.bury()
    assert len(burial.client.sent) == 2
    assert 120 < sum(burial.waits) < 140
    assert burial.letters.trouble is None


def test_what_is_refused_is_tried_again_after_growing_delays() -> None:
    burial = Burial()
    for _ in range(4):
        burial.steps += [burial.fail(BusRefused("full")), burial.nothing]
    burial.steps.append(burial.confirm)
    assert burial.bury()
    assert len(burial.client.sent) == 5
    delays = burial.waits[1:8:2]
    assert delays == sorted(delays)
    assert delays[0] <= 0.5 < 2 < delays[3] * 2
    assert burial.letters.trouble is None


@pytest.mark.parametrize("error", [BusDown("gone"), BadMessage("no")])
def test_any_other_failure_is_told_too(error: Exception) -> None:
    burial = Burial()
    burial.steps = [burial.fail(error)]
    assert not burial.bury()
    assert str(error) in str(burial.letters.trouble)


def test_a_queue_that_is_missing_is_declared_once_for_a_letter() -> None:
    burial = Burial()
    missing = BusRefused("NO_ROUTE", 312)
    burial.steps = [burial.fail(missing), burial.fail(missing), burial.nothing, burial.confirm]
    assert burial.bury()
    connection = burial.client.connection
    assert connection is not None
    assert [name for channel in connection.opened for name, _, _ in channel.asked] == ["queue_declare"]
    assert connection.opened[0].asked[0][2]["durable"] is True
    assert connection.channels == {}
    assert len(burial.client.sent) == 3


def test_a_queue_that_can_not_be_declared_is_a_trouble_that_is_tried_again() -> None:
    burial = Burial()
    assert burial.client.connection is not None
    burial.client.connection.refuse("queue_declare", 403)
    missing = BusRefused("NO_ROUTE", 312)
    burial.steps = [burial.fail(missing)]
    assert not burial.bury()
    assert "ACCESS_REFUSED" in str(burial.letters.trouble)
    burial.steps = [burial.fail(missing), burial.confirm]
    assert burial.bury()


@pytest.mark.parametrize("how", ["away", "blocked"])
def test_nothing_is_declared_on_a_bus_that_would_not_answer(how: str) -> None:
    burial = Burial()

    def refuse_and_go() -> None:
        burial.fail(BusRefused("NO_ROUTE", 312))()
        if how == "away":
            burial.client.lose()
        else:
            burial.client.block()

    connection = burial.client.connection
    assert connection is not None
    burial.steps = [refuse_and_go]
    assert not burial.bury()
    assert connection.opened == []


def test_a_letter_that_was_left_under_way_is_not_sent_again_when_its_message_comes_again() -> None:
    burial = Burial()
    assert not burial.bury(delivery(b"x", message_id="1"))
    burial.confirm()
    assert burial.bury(delivery(b"x", message_id="1"))
    assert len(burial.client.sent) == 1
    burial.steps = [burial.confirm]
    assert burial.bury(delivery(b"x", message_id="1")), "its answer was used up"
    assert len(burial.client.sent) == 2


def test_of_too_many_letters_under_way_the_oldest_are_forgotten() -> None:
    burial = Burial()
    for number in range(101):
        assert not burial.bury(delivery(b"%d" % number))
    for sent in burial.client.sent:
        sent.result.set(None)
    assert burial.bury(delivery(b"1"))
    assert len(burial.client.sent) == 101
    assert not burial.bury(delivery(b"0"))
    assert len(burial.client.sent) == 102
