"""What authors' tests stand on: the bus in memory, the fixture. `test_testing_alike.py` holds it against a broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from struct import pack
from typing import Any

import gevent
import pytest

from vigiloconn.connectors.parts import add_consumer, add_journal, add_publisher
from vigiloconn.consuming.channel import Consumer, settle_frame
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BadMessage
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.handlers.source import Source
from vigiloconn.options import Settings, parse_settings
from vigiloconn.supervisor import Supervisor
from vigiloconn.testing import MemoryBus, Running, run_connector
from vigiloconn.testing.fixtures import VARIABLE, broker_settings
from vigiloconn.testing.memory import wait_until


class Copier(MessageHandler):
    """Sends what comes on to `out`, and notes it."""

    name = "copier"

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher
        self.seen: list[Any] = []
        self.gate: Callable[[], None] = lambda: None

    def process_message(self, message: dict[str, Any]) -> None:
        if "bad" in message:
            raise BadMessage("told so")
        self.gate()
        self._publisher.send("out", "key", message, mandatory=True).get()
        self.seen.append(message["n"])


def build(settings: Settings, supervisor: Supervisor) -> None:
    publisher = add_publisher(settings, supervisor)
    add_consumer(settings, supervisor, Copier(publisher), publisher)


SETTINGS_TEXT = "[bus]\nqueue = in\nsubscriptions = source:a.*\n"


@pytest.fixture
def running() -> Iterator[Running]:
    bus = MemoryBus()
    bus.declare_exchange("source", "topic")
    bus.declare_queue("copies", bus.declare_exchange("out"))
    with run_connector(build, SETTINGS_TEXT, bus=bus) as made:
        made.wait(lambda: bus._queues.get("in") and bus._queues["in"].consumers)
        yield made
    assert made.exit_status == 0


def test_messages_pass_in_order_and_are_acknowledged(running: Running) -> None:
    for number in range(300):
        running.bus.publish("source", "a.x", {"n": number})
    assert [each.json()["n"] for each in running.bus.drain("copies", 300)] == list(range(300))
    running.wait(lambda: running.bus.depth("in") == 0)


def test_what_no_binding_wants_does_not_come(running: Running) -> None:
    assert not running.bus.publish("source", "b.x", {"n": 1})


def test_what_can_not_be_handled_is_in_the_dead_letter_queue_with_its_reason(running: Running) -> None:
    running.bus.publish("", "in", {"bad": 1}, message_id="m")
    [letter] = running.bus.drain("in.dead", 1)
    assert letter.headers["x-vigilo-reason"] == "BadMessage: told so"
    running.wait(lambda: running.bus.depth("in") == 0)


def test_after_a_loss_of_the_connection_what_was_not_acknowledged_comes_again(running: Running) -> None:
    copier = running.handler(Copier)
    held = gevent.event.Event()
    copier.gate = held.wait
    for number in range(5):
        running.bus.publish("", "in", {"n": number})
    running.wait(lambda: not running.bus._queues["in"].ready)
    running.bus.stop()
    running.bus.start()
    held.set()
    running.wait(lambda: running.bus.depth("in") == 0 and running.bus.depth("copies") >= 5, timeout_s=20)
    assert sorted(set(copier.seen)) == list(range(5))


def test_a_refused_message_is_tried_again(running: Running) -> None:
    running.bus.refused.add("out")
    running.bus.publish("", "in", {"n": 1})
    running.wait(lambda: running.handler(Copier).failed > 0)
    running.bus.refused.clear()
    assert running.bus.drain("copies", 1)[0].json() == {"n": 1}


@pytest.mark.parametrize(
    ("frame", "again"),
    [(settle_frame(1, 90, 2, True), [1]), (pack(">BHIHHQBB", 1, 1, 13, 60, 120, 3, 3, 0xCE), [0, 1, 2])],
    ids=["reject", "nack of many"],
)
def test_what_is_rejected_to_its_queue_comes_again_in_its_order(frame: bytes, again: list[int]) -> None:
    bus = MemoryBus()
    bus.declare_queue("in")
    connection = bus.connect("here", parse_settings("", connector="test").bus)
    connection.connect()
    reading = gevent.spawn(connection.read)
    consumer = Consumer(
        connection, on_arrival=lambda: None, on_ended=lambda *_: None, on_too_large=lambda *_: None,
        on_overrun=lambda: None, prefetch=Prefetch(10, 1 << 20),
    )
    consumer.start("in")
    for number in range(3):
        bus.publish("", "in", {"n": number})
    wait_until(lambda: len(consumer.ready) == 3, "three deliveries")
    connection.write(frame, connection.channels[1])
    wait_until(lambda: len(consumer.ready) == 3 + len(again), "what was given back")
    came = [(json.loads(each.body)["n"], each.redelivered) for each in consumer.ready]
    assert came == [(0, False), (1, False), (2, False), *((number, True) for number in again)]
    assert bus.depth("in") == 3
    reading.kill()


def test_on_a_real_broker_there_is_no_bus_in_memory_to_be_mistaken_for_it() -> None:
    def nothing(settings: Settings, supervisor: Supervisor) -> None:
        pass

    with (
        run_connector(nothing, "[bus]\nhosts = 127.0.0.1:1\n", on_memory=False) as made,
        pytest.raises(RuntimeError, match="on_memory=False"),
    ):
        made.bus.publish("", "q", {"n": 1})
    with pytest.raises(ValueError, match="got both"), run_connector(nothing, bus=MemoryBus(), on_memory=False):
        pass


class Ticker(Source):
    def produce(self) -> None:
        self.put([{"type": "event", "n": 1}], position="1", wait=True)
        self.wait()


def build_source(settings: Settings, supervisor: Supervisor) -> None:
    supervisor.add(Ticker(add_journal(settings, supervisor)))


def test_a_sources_messages_reach_the_bus() -> None:
    bus = MemoryBus()
    bus.declare_queue("q", bus.declare_exchange("event", "topic"), "#")
    with run_connector(build_source, bus=bus) as made:
        assert bus.drain("q", 1)[0].json() == {"type": "event", "n": 1}
        assert made.handler(Ticker).position == "1"


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_a_broker_a_test_is_skipped_and_fails_in_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1:1")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no broker at"):
        broker_settings()


def test_a_connector_waits_for_a_broker_that_is_away_and_is_served_when_it_comes(running: Running) -> None:
    running.bus.stop()
    running.bus.publish("source", "a.x", {"n": 1})
    running.bus.start()
    assert running.bus.drain("copies", 1, 20)[0].json() == {"n": 1}
