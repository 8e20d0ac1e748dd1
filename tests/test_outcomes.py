"""What an author may ask for beside "done" and "bad": later, not now, the envelope, other bodies. On a scripted bus."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import msgspec
import pytest

from tests.test_message_policy import Bus, Recorder, reason, wait_for
from vigiloconn.consuming.envelope import Envelope
from vigiloconn.consuming.unpack import unpack_as
from vigiloconn.errors import BadMessage, NotNow, PipeClosed, Retry, RetryLater
from vigiloconn.handlers import message as message_module


@pytest.fixture
def bus() -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(handler: Recorder, **options: Any) -> Bus:
        made.append(Bus(handler, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Raising(Recorder):
    """Raises `errors` one after the other at the message with number 1."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def process_message(self, message: dict[str, Any]) -> None:
        if message["n"] == 1 and self.errors:
            raise self.errors.pop(0)
        self.done.append(message["n"])


def test_a_retry_waits_in_its_place_and_counts_as_a_try(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(Retry("busy", after_s=0.01), Retry("busy")), max_redeliveries=2)
    made.deliver({"n": 0}, {"n": 1}, {"n": 2})
    made.wait_settled()
    assert made.handler.done == [0, 1, 2]
    assert made.handler.failed == 2


def test_a_retry_that_waits_for_too_long_gives_the_messages_back_and_pauses(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(Retry("maintenance", after_s=0.3)), retry_time_s=0.2)
    channel = made.channel
    made.deliver({"n": 1}, {"n": 2})
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [1, 2]
    wait_for(lambda: made._consuming() and made.channel is not channel)
    made.deliver({"n": 1}, {"n": 2}, redelivered=True)
    made.wait_settled()
    assert made.handler.done == [1, 2]


def test_one_that_is_tried_later_lets_the_others_pass_and_is_not_acknowledged_before_it_is_done(
    bus: Callable[..., Bus]
) -> None:
    made = bus(Raising(RetryLater("not yet", after_s=0.2)))
    made.deliver({"n": 1}, {"n": 2}, {"n": 3})
    wait_for(lambda: made.handler.done == [2, 3])
    assert 1 in made.channel.unsettled
    made.wait_settled()
    assert made.handler.done == [2, 3, 1]


def test_too_many_that_are_tried_later_wait_in_their_place(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(RetryLater("not yet", after_s=0.01)), prefetch_messages=1)
    made.deliver({"n": 1}, {"n": 2})
    made.wait_settled()
    assert made.handler.done == [1, 2]


def test_what_is_tried_later_is_given_up_like_others(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(*(RetryLater("never", after_s=0.0) for _ in range(5))), max_redeliveries=1)
    made.deliver({"n": 1}, {"n": 2})
    letter = made.wait_letter(1)
    assert reason(letter) == "RetryLater: never"
    letter.result.set(None)
    made.wait_settled()
    assert made.handler.done == [2]


def test_not_now_with_a_time_consumes_again_by_itself(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(NotNow("away", after_s=0.05)))
    channel = made.channel
    made.deliver({"n": 1})
    wait_for(lambda: not channel.is_open)
    assert [problem.name for problem in made.handler.problems()] == ["queue-paused"]
    wait_for(lambda: made._consuming())
    assert made.handler.problems() == []
    assert made.handler.failed == 0


def test_not_now_without_a_time_consumes_again_once_the_probe_returns(
    bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_module, "_FIRST_PROBE_S", 0.01)
    probes: list[int] = []

    class Probing(Raising):
        def probe(self) -> None:
            probes.append(1)
            if len(probes) < 3:
                raise OSError("no answer yet")

    made = bus(Probing(NotNow("away")))
    channel = made.channel
    made.deliver({"n": 1})
    wait_for(lambda: not channel.is_open)
    wait_for(lambda: made._consuming())
    assert len(probes) == 3


def test_who_looks_after_a_pipe_by_itself_is_not_resumed_blindly(bus: Callable[..., Bus]) -> None:
    made = bus(Raising(PipeClosed("away")))
    channel = made.channel
    made.deliver({"n": 1})
    wait_for(lambda: not channel.is_open)
    assert made.handler._resuming is None
    made.handler.resume_producing()
    wait_for(lambda: made._consuming())


def test_a_second_parameter_gets_the_envelope(bus: Callable[..., Bus]) -> None:
    seen: list[Envelope] = []

    class Curious(Recorder):
        def process_message(self, message: dict[str, Any], envelope: Envelope) -> None:
            seen.append(envelope)
            tries.append(envelope.tries)
            if len(seen) == 1:
                raise RuntimeError("once more")

    tries: list[int] = []
    made = bus(Curious())
    made.channel.deliver(
        b'{"n": 1}', exchange="events", routing_key="a.b", message_id="m-1", redelivered=True,
        application_headers={"x": 1}, timestamp=1_700_000_000,
    )  # fmt: skip
    made.wait_settled()
    envelope = seen[-1]
    assert (envelope.exchange, envelope.routing_key, envelope.message_id) == ("events", "a.b", "m-1")
    assert (envelope.headers, envelope.timestamp, envelope.redelivered) == ({"x": 1}, 1_700_000_000, True)
    assert envelope.raw == b'{"n": 1}'
    assert tries == [1, 2]


def test_a_batch_gets_an_envelope_for_each_of_its_messages(bus: Callable[..., Bus]) -> None:
    seen: list[tuple[int, str]] = []

    class Curious(Recorder):
        def process_messages(self, batch: list[dict[str, Any]], envelopes: list[Envelope]) -> None:
            seen.extend((each["n"], envelope.routing_key) for each, envelope in zip(batch, envelopes, strict=True))

    made = bus(Curious())
    made.channel.deliver(b'{"messages": [{"n": 1}, {"n": 2}]}', routing_key="x")
    made.channel.deliver(b'{"n": 3}', routing_key="y")
    made.wait_settled()
    assert seen == [(1, "x"), (2, "x"), (3, "y")]


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(("message_type", "body", "expected"), [
    (bytes, b"\xff", [b"\xff"]),
    (object, b"[1, null]", [[1, None]]),
    (list[int], b"[1, 2]", [[1, 2]]),
    (dict, b'{"messages": []}', []),
    (Point, b'{"x": 1}', [Point(1)]),
    (Point, b'{"messages": [{"x": 1}, {"x": 2}]}', [Point(1), Point(2)]),
])  # fmt: skip
def test_a_handler_says_what_a_message_is(message_type: Any, body: bytes, expected: list[Any]) -> None:
    assert [each for each in unpack_as(message_type)(body) if each is not None] == expected


@pytest.mark.parametrize(("message_type", "body"), [(object, b"{"), (list[int], b'["a"]'), (Point, b'{"x": "a"}')])
def test_what_is_of_another_type_is_bad_and_the_reason_says_where(message_type: Any, body: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack_as(message_type)(body)


def test_first_and_last_failure_are_logged_with_their_frames_and_the_letter_has_the_last_ones(
    bus: Callable[..., Bus], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Recorder):
        def process_message(self, message: dict[str, Any]) -> None:
            raise KeyError("state")

    made = bus(Failing(), max_redeliveries=2, retry_first_delay_s=0.01)
    with caplog.at_level(logging.INFO):
        made.deliver({"n": 1})
        letter = made.wait_letter(1)
        letter.result.set(None)
        made.wait_settled()
    lines = [record.getMessage() for record in caplog.records if "test_outcomes.py:" in record.getMessage()]
    assert ["(1 of 2)" in line for line in lines] == [True, False]
    headers = letter.options["headers"]
    assert headers["x-vigilo-error"] == "KeyError"
    assert 'raise KeyError("state")' in headers["x-vigilo-traceback"]
    assert len(json.dumps(headers)) < 2000
    gevent.sleep(0)
