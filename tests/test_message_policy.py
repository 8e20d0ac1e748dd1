"""What a handler's outcome means for a message: order, tries, dead letters, pauses. On a scripted bus."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest

from tests.support.scripted import ScriptedChannel, ScriptedClient, Sent
from vigiloconn.errors import BadMessage, BusRefused, PipeClosed
from vigiloconn.handlers.message import BATCH_MESSAGES, ItemFailed, MessageHandler
from vigiloconn.supervisor import Supervisor


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


class Recorder(MessageHandler):
    """Does what the messages say: `do` is the name of what it raises, each time or so many `times`."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.closed = False
        self.on_message: Callable[[dict[str, Any]], None] = lambda message: None
        self._raised: dict[Any, int] = {}

    def process_message(self, message: dict[str, Any]) -> None:
        self.on_message(message)
        if self.closed:
            raise PipeClosed("away")
        number = message["n"]
        if "do" in message and self._raised.get(number, 0) < message.get("times", 1000):
            self._raised[number] = self._raised.get(number, 0) + 1
            raise {"bad": BadMessage, "fail": RuntimeError, "timeout": gevent.Timeout}[message["do"]](f"at {number}")
        self.done.append(number)


class Batches(Recorder):
    """Takes batches, and says how many of one are done."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        self.sizes.append(len(batch))
        for done, message in enumerate(batch):
            try:
                self.process_message(message)
            except Exception as exc:
                raise ItemFailed(done, exc) from exc


class Blind(Batches):
    """Takes batches, does all of one or nothing, and can't say which message was at fault."""

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        self.sizes.append(len(batch))
        for message in batch:
            if message.get("do"):
                raise RuntimeError(f"at {message['n']}")
        for message in batch:
            self.process_message(message)


class Bus:
    """A handler that runs under a supervisor, between two scripted clients: one to consume, one for dead letters."""

    def __init__(self, handler: Recorder, *, publisher: bool = True, **options: Any) -> None:
        self.handler = handler
        self.client = ScriptedClient()
        self.letters = ScriptedClient()
        self.letters.connect()
        handler.subscribe("q", publisher=self.letters if publisher else None, **options)
        self.client.add_handler(handler)
        self.supervisor = Supervisor(stop_timeout_s=5)
        self.supervisor.add(handler)
        self._running = gevent.spawn(self.supervisor.run)
        self.connect()

    def connect(self) -> None:
        """Connect, and wait until the handler consumes."""
        self.client.connect()
        wait_for(self._consuming)

    def _consuming(self) -> list[ScriptedChannel]:
        assert self.client.connection is not None
        return [each for each in self.client.connection.channels.values() if each.consumers]

    @property
    def channel(self) -> ScriptedChannel:
        [found] = self._consuming()
        return found

    def deliver(self, *messages: Any, redelivered: bool = False) -> None:
        channel = self.channel
        for message in messages:
            body = message if isinstance(message, bytes) else json.dumps(message).encode()
            channel.deliver(body, redelivered=redelivered)

    def wait_settled(self) -> None:
        """Wait until each delivery is acknowledged or rejected."""
        wait_for(lambda: self.handler.stats()["received"] and not self.channel.unsettled)

    def wait_letter(self, number: int) -> Sent:
        """Wait for the n-th dead letter that is sent, and return it."""
        wait_for(lambda: len(self.letters.sent) >= number)
        return self.letters.sent[number - 1]

    def close(self) -> None:
        self.supervisor.stop()
        self._running.join(10)
        assert self._running.dead


@pytest.fixture
def bus() -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(kind: type[Recorder] = Recorder, **options: Any) -> Bus:
        made.append(Bus(kind(), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


KINDS = [Recorder, Batches, Blind]


def reason(letter: Sent) -> str:
    return str(letter.options["headers"]["x-vigilo-reason"])


def tries(letter: Sent) -> int:
    return int(letter.options["headers"]["x-vigilo-tries"])


# --- the good path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_done_in_order_and_acknowledged_after_their_work(bus: Callable[..., Bus], kind: Any) -> None:
    made = bus(kind)
    unsettled: list[int] = []
    made.handler.on_message = lambda message: unsettled.append(len(made.channel.unsettled))
    made.deliver({"n": 0}, {"messages": [{"n": 1}, {"n": 2}]}, {"n": 3})
    made.wait_settled()
    assert made.handler.done == [0, 1, 2, 3]
    assert unsettled == [3, 3, 3, 3]
    assert [each.kind for each in made.channel.settlements] == ["ack"]
    assert made.handler.processed == 4
    assert made.client.successes > 0


def test_a_body_is_decoded_up_to_its_limit_and_a_dead_letter_beyond_it(bus: Callable[..., Bus]) -> None:
    made = bus(max_body_bytes=20)
    made.deliver(b'{"n": 1}' + b" " * 12, b'{"n": 2}' + b" " * 13, {"n": 3})
    letter = made.wait_letter(1)
    assert reason(letter) == "body of 21 bytes: expected at most 20 ([bus] max_body)"
    assert len(letter.message) == 21
    letter.result.set(None)
    made.wait_settled()
    assert made.handler.done == [1, 3]


@pytest.mark.parametrize("held", [[], None])
def test_empty_messages_beside_a_message_are_no_reason_not_to_do_it(bus: Callable[..., Bus], held: Any) -> None:
    made = bus()
    made.deliver({"n": 1, "messages": held}, {"type": "perf", "messages": held}, {"n": 2})
    made.wait_settled()
    assert made.handler.done == [1, 2]


def test_a_batch_is_no_larger_than_the_bound(bus: Callable[..., Bus]) -> None:
    made = bus(Batches)
    made.deliver({"messages": [{"n": number} for number in range(2 * BATCH_MESSAGES + 1)]}, {"n": -1})
    made.wait_settled()
    assert made.handler.done == [*range(2 * BATCH_MESSAGES + 1), -1]
    assert max(made.handler.sizes) == BATCH_MESSAGES  # type: ignore[attr-defined]


def test_timers_run_while_one_delivery_holds_more_than_a_turn_of_work(bus: Callable[..., Bus]) -> None:
    made = bus()
    turns: list[int] = []

    def watch() -> None:
        while len(made.handler.done) < 1_000_000:
            turns.append(len(made.handler.done))
            gevent.sleep(0.001)

    made.deliver({"messages": [{"n": number} for number in range(50_000)]})
    watching = gevent.spawn(watch)
    made.wait_settled()
    watching.kill()
    assert len(set(turns)) > 3
    assert made.handler.done == list(range(50_000))


@pytest.mark.parametrize("kind", KINDS)
def test_timers_run_while_more_deliveries_wait_than_a_turn_has_time_for(bus: Callable[..., Bus], kind: Any) -> None:
    made = bus(kind, prefetch_messages=65535)
    turns: list[int] = []

    def work(message: dict[str, Any]) -> None:
        # By the clock: 500 of them take longer than a turn, however fast the machine is.
        end_s = time.monotonic() + 0.00005
        while time.monotonic() < end_s:
            pass

    def watch() -> None:
        while True:
            turns.append(len(made.handler.done))
            gevent.sleep(0.001)

    made.handler.on_message = work
    made.deliver(*({"n": number} for number in range(10_000)))
    watching = gevent.spawn(watch)
    made.wait_settled()
    watching.kill()
    assert len(set(turns)) > 5
    assert made.handler.done == list(range(10_000))


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_for_a_while_is_tried_again_in_place(bus: Callable[..., Bus], kind: Any) -> None:
    made = bus(kind)
    failing = {"n": 2, "do": "fail", "times": 2} if kind is not Blind else {"n": 2}
    made.deliver({"n": 1}, failing, {"n": 3})
    made.wait_settled()
    assert made.handler.done == [1, 2, 3]
    assert made.handler.processed == 3
    assert made.handler.failed == (2 if kind is not Blind else 0)
    if kind is Batches:
        assert made.handler.sizes[1:3] == [1, 1], "what is tried again goes alone"
    assert made.letters.sent == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_for_good_is_a_dead_letter_and_acknowledged_only_then(bus: Callable[..., Bus], kind: Any) -> None:
    made = bus(kind, max_redeliveries=1)
    made.deliver({"n": 1}, {"n": 2, "do": "fail"}, {"n": 3})
    letter = made.wait_letter(1)
    wait_for(lambda: made.channel.unsettled == [2, 3])
    assert (letter.exchange, letter.routing_key, letter.options["mandatory"]) == ("", "q.dead", True)
    assert json.loads(letter.message) == {"n": 2, "do": "fail"}  # type: ignore[arg-type]
    assert reason(letter) == "RuntimeError: at 2"
    assert tries(letter) == 2
    assert made.handler.done == [1]
    letter.result.set(None)
    made.wait_settled()
    assert made.handler.done == [1, 3]
    assert {each.kind for each in made.channel.settlements} == {"ack"}
    assert made.handler.stats()["dead_lettered"] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"[1]", b'{"messages": 7}', b"\xff"])
def test_what_can_not_be_decoded_is_a_dead_letter_without_a_try(
    bus: Callable[..., Bus], kind: Any, body: bytes
) -> None:
    made = bus(kind)
    made.deliver({"n": 1}, body, {"n": 2})
    letter = made.wait_letter(1)
    assert (letter.message, tries(letter)) == (body, 0)
    letter.result.set(None)
    made.wait_settled()
    assert made.handler.done == [1, 2]


def test_a_bad_message_is_not_tried_again_and_costs_its_neighbours_nothing(bus: Callable[..., Bus]) -> None:
    made = bus(max_redeliveries=5)
    made.deliver({"messages": [{"n": 1}, {"n": 2, "do": "bad"}, 7, {"n": 4}]})
    letter = made.wait_letter(1)
    assert made.handler.done == [1, 4]
    assert reason(letter).startswith("message 2: BadMessage: at 2; message 3: expected a JSON object")
    assert tries(letter) == 1
    letter.result.set(None)
    made.wait_settled()


def test_a_stray_timeout_of_an_authors_code_is_a_failure_like_others(bus: Callable[..., Bus]) -> None:
    made = bus(max_redeliveries=0)
    made.deliver({"n": 1, "do": "timeout"}, {"n": 2})
    made.wait_letter(1).result.set(None)
    made.wait_settled()
    assert made.handler.done == [2]


def test_after_a_blind_failure_the_messages_go_one_by_one_and_then_together_again(bus: Callable[..., Bus]) -> None:
    made = bus(Blind, max_redeliveries=0)
    handler = made.handler
    assert isinstance(handler, Blind)
    made.deliver(*({"n": number} for number in range(4)), {"n": 4, "do": "fail"}, {"n": 5})
    made.wait_letter(1).result.set(None)
    made.wait_settled()
    assert handler.done == [0, 1, 2, 3, 5]
    assert (handler.failed, handler.sizes[0]) == (1, 6)
    assert set(handler.sizes[1:]) == {1}
    made.deliver({"n": 6}, {"n": 7})
    made.wait_settled()
    assert handler.sizes[-1] == 2


def test_an_author_who_counts_wrongly_loses_nothing_that_is_behind(bus: Callable[..., Bus]) -> None:
    class Wrong(Batches):
        def process_messages(self, batch: list[dict[str, Any]]) -> None:
            if any(message.get("do") for message in batch):
                raise ItemFailed(10, RuntimeError("counted wrongly"))
            super().process_messages(batch)

    made = bus(Wrong, max_redeliveries=0)
    made.deliver({"n": 1, "do": "x"})
    made.wait_letter(1).result.set(None)
    made.wait_settled()
    assert made.handler.dead_lettered == 1


def test_without_a_publisher_it_is_rejected_in_its_turn(bus: Callable[..., Bus]) -> None:
    made = bus(publisher=False, max_redeliveries=0)
    made.deliver({"n": 1}, {"n": 2, "do": "bad"}, b"no", {"n": 3})
    made.wait_settled()
    assert made.handler.done == [1, 3]
    kinds = [(each.kind, each.tag, each.requeue) for each in made.channel.settlements]
    assert [each for each in kinds if each[0] == "reject"] == [("reject", 2, False), ("reject", 3, False)]


# --- dead letters that can't go ---------------------------------------------------------------------------------------


def test_a_refused_letter_is_sent_again_and_holds_up_what_is_behind(bus: Callable[..., Bus]) -> None:
    made = bus()
    made.deliver(b"no", {"n": 1})
    made.wait_letter(1).result.set_exception(BusRefused("queue is full"))
    second = made.wait_letter(2)
    assert made.handler.done == []
    assert [problem.name for problem in made.handler.problems()] == ["dead-letter-unsent"]
    assert "queue is full" in made.handler.problems()[0].text
    second.result.set(None)
    made.wait_settled()
    assert made.handler.done == [1]
    assert made.handler.problems() == []


def test_a_letter_that_finds_no_queue_has_one_declared_and_goes_again(bus: Callable[..., Bus]) -> None:
    made = bus()
    made.deliver(b"no")
    made.wait_letter(1).result.set_exception(BusRefused("NO_ROUTE", 312))
    made.wait_letter(2).result.set(None)
    made.wait_settled()
    assert made.letters.connection is not None
    asked = [ask for channel in made.letters.connection.opened for ask in channel.asked]
    assert [(name, args[0]) for name, args, _ in asked] == [("queue_declare", "q.dead")]


def test_a_letter_under_way_when_the_bus_is_lost_is_not_sent_again_for_the_redelivery(bus: Callable[..., Bus]) -> None:
    made = bus()
    made.deliver(b"no", {"n": 1})
    letter = made.wait_letter(1)
    made.client.lose()
    made.connect()
    made.deliver(b"no", {"n": 1}, redelivered=True)
    letter.result.set(None)
    made.wait_settled()
    assert made.handler.done == [1]
    assert len(made.letters.sent) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_letter_under_way_at_a_stop_is_waited_for_and_its_message_acknowledged(
    bus: Callable[..., Bus], workers: int
) -> None:
    made = bus(workers=workers)
    channel = made.channel
    made.deliver(b"no")
    letter = made.wait_letter(1)
    made.supervisor.stop()
    wait_for(lambda: made.handler._stopping)
    gevent.sleep(0.01)
    assert channel.unsettled == [1]
    letter.result.set(None)
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == []
    assert made.handler.dead_lettered == 1


def test_a_letter_that_is_not_confirmed_in_the_time_of_a_stop_ends_neither_late_nor_acknowledged(
    bus: Callable[..., Bus], caplog: pytest.LogCaptureFixture
) -> None:
    made = bus()
    made.supervisor.stop_timeout_s = 0.3
    channel = made.channel
    made.deliver(b"no")
    made.wait_letter(1)
    made.supervisor.stop()
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [1]
    made.close()
    assert "did not stop in time" not in caplog.text


# --- not now ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_not_now_gives_back_what_is_not_done_and_counts_as_no_try(bus: Callable[..., Bus], kind: Any) -> None:
    made = bus(kind, max_redeliveries=0)
    channel = made.channel
    made.handler.closed = True
    made.deliver({"n": 1}, {"n": 2})
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [1, 2]
    assert [problem.name for problem in made.handler.problems()] == ["queue-paused"]
    assert made.handler.failed == 0
    made.handler.closed = False
    made.handler.resume_producing()
    wait_for(made._consuming)
    assert made.handler.problems() == []
    made.deliver({"n": 1}, {"n": 2}, redelivered=True)
    made.wait_settled()
    assert made.handler.done == [1, 2]


def test_a_batch_that_is_not_now_is_not_taken_apart(bus: Callable[..., Bus]) -> None:
    class Closed(Batches):
        def process_messages(self, batch: list[dict[str, Any]]) -> None:
            self.sizes.append(len(batch))
            raise PipeClosed("away")

    made = bus(Closed)
    channel = made.channel
    made.deliver({"n": 1}, {"n": 2})
    wait_for(lambda: not channel.is_open)
    assert made.handler.sizes == [2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Recorder, Batches])
def test_messages_of_a_list_that_were_done_are_not_done_again_after_a_pause(
    bus: Callable[..., Bus], kind: Any
) -> None:
    made = bus(kind)
    channel = made.channel

    def close_at_three(message: dict[str, Any]) -> None:
        made.handler.closed = made.handler.closed or message["n"] == 3

    made.handler.on_message = close_at_three
    held = {"messages": [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]}
    made.deliver({"n": 0}, held, {"n": 5})
    wait_for(lambda: not channel.is_open)
    made.handler.on_message = lambda message: None
    made.handler.closed = False
    made.handler.resume_producing()
    wait_for(made._consuming)
    made.deliver(held, {"n": 5}, redelivered=True)
    made.wait_settled()
    assert made.handler.done == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["stop", "lose"])
def test_what_waits_for_its_next_try_is_left_at_a_stop_and_at_a_loss(bus: Callable[..., Bus], how: str) -> None:
    made = bus(max_redeliveries=100)
    channel = made.channel
    made.deliver({"n": 1, "do": "fail"}, {"n": 2})
    wait_for(lambda: made.handler.failed > 2)
    if how == "stop":
        made.close()
        assert channel.unsettled == [1, 2]
    else:
        made.client.lose()
        made.connect()
        failed = made.handler.failed
        made.deliver({"n": 2}, redelivered=True)
        made.wait_settled()
        assert made.handler.failed <= failed + 1
    assert made.handler.done == ([] if how == "stop" else [2])


def test_tries_are_counted_on_over_a_loss_of_the_bus(bus: Callable[..., Bus]) -> None:
    made = bus(max_redeliveries=3)
    made.deliver({"n": 1, "do": "fail"})
    wait_for(lambda: made.handler.failed == 2)
    made.client.lose()
    made.connect()
    made.deliver({"n": 1, "do": "fail"}, redelivered=True)
    letter = made.wait_letter(1)
    assert tries(letter) == 4
    letter.result.set(None)
    made.wait_settled()


def test_a_message_that_fails_for_too_long_is_given_up(bus: Callable[..., Bus]) -> None:
    made = bus(max_redeliveries=1000, retry_time_s=0.0)
    made.deliver({"n": 1, "do": "fail"})
    made.wait_letter(1).result.set(None)
    made.wait_settled()
    assert made.handler.failed == 1


def test_the_message_in_work_at_a_stop_is_done_and_acknowledged_and_the_rest_given_back(
    bus: Callable[..., Bus]
) -> None:
    made = bus()
    channel = made.channel

    def take_long(message: dict[str, Any]) -> None:
        made.supervisor.stop()
        gevent.sleep(0.1)

    made.handler.on_message = take_long
    made.deliver({"n": 1}, {"n": 2})
    wait_for(lambda: not channel.is_open)
    assert made.handler.done == [1]
    assert channel.unsettled == [2]


def test_what_was_done_before_a_message_that_takes_long_is_acknowledged_meanwhile(bus: Callable[..., Bus]) -> None:
    made = bus()
    gate = gevent.event.Event()
    made.handler.on_message = lambda message: gate.wait() if message["n"] == 3 else None
    made.deliver({"n": 1}, {"n": 2}, {"n": 3})
    wait_for(lambda: made.channel.unsettled == [3])
    gate.set()
    made.wait_settled()


def test_nothing_of_a_message_or_of_the_broker_goes_raw_into_log_and_state(
    bus: Callable[..., Bus], caplog: pytest.LogCaptureFixture
) -> None:
    evil = "\n2026-01-01 CRITICAL forged \x1b[2J"

    def fail(message: dict[str, Any]) -> None:
        raise RuntimeError(message["text"])

    made = bus(max_redeliveries=1)
    made.handler.on_message = fail
    with caplog.at_level(logging.DEBUG):
        made.deliver({"n": 1, "text": evil + "x" * 100_000}, evil.encode())
        made.wait_letter(1).result.set_exception(BusRefused(evil))
        wait_for(lambda: made.handler.problems())
        shown = [problem.text for problem in made.handler.problems()]
        made.wait_letter(2).result.set(None)
        made.wait_letter(3).result.set(None)
        made.wait_settled()
    for text in [*shown, *(record.getMessage() for record in caplog.records)]:
        assert text.isprintable()
        assert len(text) < 1500
    assert "forged" in caplog.text
    assert all(reason(letter).isprintable() for letter in made.letters.sent)
