"""From a queue to a handler: order, tries, dead letters, on the real broker and with a real process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amqp
import gevent
import pytest
from amqp.serialization import dumps

from tests.support.bus import Bus, Message, connect
from tests.support.connector import ConnectorProcess
from tests.support.consuming import DEAD, QUEUE, Consuming
from tests.support.rabbit import RabbitNode
from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.errors import SettingsError
from vigiloconn.handlers.message import MessageHandler, messagehandler_factory
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Supervisor


@pytest.fixture
def consuming(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Callable[..., Consuming]]:
    """A function that makes a consumer of `QUEUE`, not started. Arguments: its build function, then `[bus]` keys."""
    with ExitStack() as stack:

        def make(build: str = "build", *, node: RabbitNode = rabbit, vhost: str = vhost, **bus: object) -> Consuming:
            settings = {"hosts": node.address, "vhost": vhost, "queue": QUEUE, **bus}
            process = ConnectorProcess(tmp_path, bus=settings, name=f"tests.scenarios.consume:{build}")
            stack.callback(process.close)
            return Consuming(process, node, vhost)

        yield make


def fill(bus: Bus, messages: list[Any]) -> None:
    """Publish, one after the other and confirmed as a whole, to `QUEUE`."""
    for message in messages[:-1]:
        bus.publish("", QUEUE, message, confirm=False)
    bus.publish("", QUEUE, messages[-1])


def reason(message: Message) -> str:
    return str(message.properties["application_headers"]["x-vigilo-reason"])


def assert_idle(consumer: Consuming) -> None:
    """Over 100 rounds of its own 50 ms watch it uses little CPU: nothing spins."""
    watched = consumer.process.cpu_s()
    before = (consumer.directory / "stats.json").stat().st_mtime
    consumer.wait(lambda: (consumer.directory / "stats.json").stat().st_mtime > before + 1.5, "1.5 s of watching")
    assert consumer.process.cpu_s() - watched < 0.5


# --- the good path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["build", "build_batches"])
def test_each_message_is_done_once_in_order_and_acknowledged(
    bus: Bus, consuming: Callable[..., Consuming], build: str
) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, [{"n": number} for number in range(3000)])
    consumer = consuming(build, prefetch_count=200).start()
    consumer.wait_done(list(range(3000)))
    consumer.wait_settled(3000)
    assert consumer.stats()["processed"] == 3000
    assert consumer.stats()["redelivered"] == 0
    assert consumer.process.terminate() == 0
    assert bus.queue_depth(QUEUE) == 0


def test_a_message_that_holds_others_is_taken_apart(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_queue(QUEUE)
    items = [{"n": 1}, {"n": 2, "do": "twice"}, {"messages": [{"n": 3}, {"n": 4}]}, {"n": 5}]
    fill(bus, [{"n": 0}, {"type": "perf", "messages": items}, {"messages": []}, {"n": 6}])
    consumer = consuming().start()
    consumer.wait_done(list(range(7)))
    consumer.wait_settled(4)
    assert consumer.stats()["failed"] == 2
    assert consumer.stats()["dead_lettered"] == 0


def test_a_message_of_many_megabytes_passes(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, [{"n": 0}, {"n": 1, "pad": "x" * 12_000_000}, b"y" * 3_000_000, {"n": 2}])
    consumer = consuming(max_body="16 MiB").start()
    consumer.wait_done([0, 1, 2])
    consumer.wait_settled(4)
    assert bus.drain(DEAD, 1)[0].body == b"y" * 3_000_000


def test_a_message_above_the_limit_of_bodies_is_a_dead_letter_that_says_so(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE)
    largest = b'{"n": 1}' + b" " * 992
    fill(bus, [{"n": 0}, largest, largest + b" ", {"n": 2}])
    consumer = consuming(max_body=1000).start()
    consumer.wait_done([0, 1, 2])
    (letter,) = consumer_letters(bus, consumer, 1)
    assert letter.body == largest + b" "
    assert reason(letter) == "body of 1001 bytes: expected at most 1000 ([bus] max_body)"


def test_the_message_in_work_is_finished_at_the_stop_and_the_rest_given_back(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, [{"n": 0}, {"n": 1, "gate": "open"}, {"n": 2}, {"n": 3}])
    consumer = consuming().start()
    consumer.wait_done([0])
    consumer.process.process.terminate()
    consumer.touch("open")
    assert consumer.process.wait() == 0
    assert consumer.done() == [0, 1]
    assert [message.json()["n"] for message in bus.drain(QUEUE, 2)] == [2, 3]
    assert bus.queue_depth(QUEUE) == 0


# --- what fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["build", "build_batches", "build_blind"])
def test_poison_ends_as_dead_letters_and_all_else_is_done_in_order(
    bus: Bus, consuming: Callable[..., Consuming], build: str
) -> None:
    poison: list[tuple[Any, str]] = [
        (b"not JSON", "expected a JSON object"), (b'[{"n": 1}]', "expected a JSON object"), (b"", "expected a JSON"),
        (b'{"n": 1, "messages": 7}', "messages: expected a list"), (b"\xff\xfe", "expected a JSON object"),
        (b"[" * 5000, "expected a JSON object"), ({"m": 1}, "KeyError: 'n'"),
        ({"n": -1, "do": "raise"}, "RuntimeError: told to fail at -1"),
        ({"n": -2, "do": "bad"}, "BadMessage: told to be bad at -2"),
    ]
    if build == "build_blind":
        poison = [pair for pair in poison if not (isinstance(pair[0], dict) and pair[0].get("n") != -1)]
    messages: list[Any] = [{"n": number} for number in range(400)]
    messages[13]["do"] = "twice" if build != "build_blind" else "well"
    for place, (bad, _) in enumerate(poison):
        messages.insert((place + 1) * 30, bad)
    bus.declare_queue(QUEUE)
    fill(bus, messages)
    consumer = consuming(build, max_redeliveries=2).start()
    consumer.wait_done(list(range(400)))
    consumer.wait_settled(400 + len(poison))
    dead = bus.drain(DEAD, len(poison))
    assert bus.queue_depth(DEAD) == 0
    for letter, (body, why) in zip(dead, poison, strict=True):
        assert letter.json() == body if isinstance(body, dict) else letter.body == body
        assert why in reason(letter)
    tries = {reason(letter): letter.properties["application_headers"]["x-vigilo-tries"] for letter in dead}
    assert tries["RuntimeError: told to fail at -1"] == 3
    assert consumer.stats()["dead_lettered"] == len(poison)
    assert_idle(consumer)


def test_a_dead_letter_is_the_original_with_its_reason(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_exchange("source")
    bus.declare_queue(QUEUE, "source")
    bus.declare_queue("elsewhere")
    body = b' {"n": 5,\t"do":"bad"}'
    headers = {"mine": "é", "deep": {"list": [1, 2.5, True, None]}, "when": datetime(2020, 1, 2), "CC": ["elsewhere"]}
    bus.publish(
        "source", "the.key", body, content_type="text/x-mine", content_encoding="odd", message_id="id-1",
        application_headers=headers, expiration="600000", correlation_id="c", priority=3, user_id="guest",
    )  # fmt: skip
    bus.publish("source", "\ud800", body, message_id="\ud800", content_type="\ud800", application_headers={"\ud800": 1})
    consumer = consuming().start()
    first, second = consumer_letters(bus, consumer, 2)
    assert first.body == second.body == body
    kept = first.properties
    assert (kept["content_type"], kept["content_encoding"], kept["message_id"]) == ("text/x-mine", "odd", "id-1")
    assert "expiration" not in kept
    told = kept["application_headers"]
    assert told["mine"] == "é"
    assert told["deep"] == headers["deep"]
    assert told["when"] == headers["when"]
    assert told["x-vigilo-cc"] == ["elsewhere"]
    assert "CC" not in told
    assert told["x-vigilo-properties"] == {
        "expiration": "600000", "correlation_id": "c", "priority": 3, "user_id": "guest",
    }  # fmt: skip
    assert told["x-vigilo-exchange"] == "source"
    assert told["x-vigilo-routing-key"] == "the.key"
    assert told["x-vigilo-reason"] == "BadMessage: told to be bad at 5"
    assert abs(datetime.now().timestamp() - told["x-vigilo-time"]) < 120
    assert bus.queue_depth("elsewhere") == 0
    assert "told to be bad" in reason(second)


def consumer_letters(bus: Bus, consumer: Consuming, count: int) -> list[Message]:
    """Return that many dead letters once they are there."""
    consumer.wait(lambda: consumer.stats().get("dead_lettered") == count, f"{count} dead letters")
    return bus.drain(DEAD, count)


def test_one_bad_item_does_not_keep_the_others_of_its_list_from_being_done(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, [{"messages": [{"n": 1}, {"n": 2, "do": "bad"}, {"n": 3}]}, {"n": 4}])
    consumer = consuming().start()
    consumer.wait_done([1, 3, 4])
    (letter,) = consumer_letters(bus, consumer, 1)
    assert reason(letter) == "message 2: BadMessage: told to be bad at 2"


def test_without_dead_letters_the_queues_own_exchange_gets_them(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue("own-dead")
    bus.declare_queue(QUEUE, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "own-dead"})
    fill(bus, [{"n": 0}, b"no", {"n": 1}, b"neither", b"nor", {"n": 2}])
    consumer = consuming(dead_letter="off").start()
    consumer.wait_done([0, 1, 2])
    assert [letter.body for letter in bus.drain("own-dead", 3)] == [b"no", b"neither", b"nor"]
    consumer.wait_settled(6)
    assert consumer.stats()["acknowledged"] == 3
    assert consumer.stats()["received"] == 6
    with pytest.raises(amqp.NotFound):
        bus.queue_depth(DEAD)


# --- dead letters that can't go ------------------------------------------------------------------------------


def test_a_dead_letter_that_is_refused_stays_and_holds_up_what_is_behind(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(DEAD, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    bus.publish("", DEAD, "in the way")
    bus.declare_queue(QUEUE)
    fill(bus, [{"n": 0}, b"bad", {"n": 1}])
    consumer = consuming().start()
    consumer.wait(lambda: any("refused" in text for text in consumer.stats().get("problems", ())), "the problem")
    assert consumer.done() == [0]
    assert_idle(consumer)
    assert bus.drain(DEAD, 1)[0].body == b"in the way"
    consumer.wait_done([0, 1])
    assert bus.drain(DEAD, 1)[0].body == b"bad"
    consumer.wait_settled(3)


def test_under_an_alarm_dead_letters_wait_and_nothing_is_lost(
    spare_node: RabbitNode, consuming: Callable[..., Consuming]
) -> None:
    with connect(spare_node) as bus:
        bus.declare_queue(QUEUE)
        fill(bus, [{"n": 0}, b"bad", {"n": 1}])
        spare_node.memory_alarm(True)
        consumer = consuming(node=spare_node, vhost="/").start()
        consumer.wait_log("takes no messages")
        consumer.wait_done([0])
        assert_idle(consumer)
        assert consumer.done() == [0]
        spare_node.memory_alarm(False)
        consumer.wait_done([0, 1])
        assert bus.drain(DEAD, 1)[0].body == b"bad"
        consumer.wait_settled(3)


# --- not now ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["build", "build_batches"])
def test_not_now_gives_everything_back_once_and_nothing_is_counted_as_tried(
    bus: Bus, consuming: Callable[..., Consuming], build: str
) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, [{"n": number} for number in range(300)])
    consumer = consuming(build, max_redeliveries=0)
    consumer.touch("closed")
    consumer.start()
    consumer.wait(lambda: bus.queue_depth(QUEUE) == 300, "all given back")
    consumer.wait(lambda: "paused: told so by a test" in str(consumer.stats()["problems"]), "the problem is told")
    received = consumer.stats()["received"]
    assert_idle(consumer)
    assert consumer.stats()["received"] == received <= 300
    assert consumer.stats()["acknowledged"] == 0
    consumer.remove("closed")
    consumer.wait_done(list(range(300)))
    assert consumer.stats()["failed"] == 0


@pytest.mark.parametrize("build", ["build", "build_batches"])
def test_items_of_a_list_that_are_done_are_not_done_again_after_a_pause(
    bus: Bus, consuming: Callable[..., Consuming], build: str
) -> None:
    bus.declare_queue(QUEUE)
    items = [{"n": 1}, {"n": 2, "gate": "open"}, {"n": 3}, {"n": 4}]
    fill(bus, [{"n": 0}, {"messages": items}, {"n": 5}])
    consumer = consuming(build).start()
    consumer.wait_done([0, 1])
    consumer.touch("closed")
    consumer.touch("open")
    consumer.wait(lambda: bus.queue_depth(QUEUE) == 2, "given back")
    assert consumer.done() == [0, 1, 2]
    consumer.remove("closed")
    consumer.wait_done([0, 1, 2, 3, 4, 5])


# --- without a broker ---------------------------------------------------------------------------------------------


class MortalSubscriber(QueueSubscriber):
    """Hands out one message in its first life, and dies of a bug as soon as that is in work."""

    lives = 0

    def run(self) -> None:
        self.lives += 1
        if self.lives == 1:
            raise LookupError("a bug")
        super().run()

    def get(self, max_messages: int, timeout_s: float | None = None) -> list[Delivery]:
        if self.lives == 0:
            return [Delivery(b"\x00\x3c\x00\x3c" + dumps("sLbss", ("t", 1, False, "", QUEUE)), b"", b"{}", None)]
        return super().get(max_messages, timeout_s)


class Swallowing(MessageHandler):
    """Catches what is thrown into its work."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribe(QUEUE)
        self._subscriber = self.source = MortalSubscriber(QUEUE)
        self.swallowed: list[LookupError] = []

    def process_message(self, message: dict[str, Any]) -> None:
        try:
            gevent.sleep(10)
        except LookupError as exc:
            self.swallowed.append(exc)


def test_a_subscriber_that_crashes_lives_again_though_an_authors_code_swallowed_the_crash() -> None:
    handler = Swallowing()
    handler.client = SimpleNamespace(note_success=lambda: None)  # type: ignore[assignment]
    supervisor = Supervisor(stop_timeout_s=1)
    supervisor.add(handler)
    running = gevent.spawn(supervisor.run)
    try:
        with gevent.Timeout(10):
            while handler.source.lives < 2:
                gevent.sleep(0.01)
    finally:
        supervisor.stop()
        running.join(5)
    assert [str(exc) for exc in handler.swallowed] == ["a bug"]
    assert supervisor.crashes == 1


# --- settings ------------------------------------------------------------------------------------------------------


def test_a_connector_without_a_queue_is_refused_with_the_keys_name() -> None:
    settings = parse_settings("[bus]\nhosts = localhost\n", connector="consume")
    with pytest.raises(SettingsError, match=r"\[bus\] queue: expected the name of the queue"):
        messagehandler_factory(settings, MessageHandler(), client=None)  # type: ignore[arg-type]


def test_a_queue_name_that_leaves_no_room_for_the_dead_letters_is_refused() -> None:
    with pytest.raises(SettingsError, match="at most 250 bytes"):
        MessageHandler().subscribe("q" * 251)
