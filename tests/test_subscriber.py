"""The pull side on the real broker: what becomes of bindings, consumer and acknowledgements, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import pack
from typing import Any

import gevent
import pytest
from amqp import spec
from amqp.serialization import dumps

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.consuming import DEAD, QUEUE, Consuming
from tests.support.rabbit import RabbitNode
from tests.support.scripted import ScriptedClient, ScriptedConnection
from vigiloconn.bus.inbound import Malformed
from vigiloconn.consuming.channel import Consumer, settle_frame
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.settings.values import Subscription


@pytest.fixture
def consuming(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Callable[..., Consuming]]:
    """A function that makes a consumer of `QUEUE`, not started. Arguments: the node, its vhost, then `[bus]` keys."""
    with ExitStack() as stack:

        def make(*, node: RabbitNode = rabbit, vhost: str = vhost, **bus: object) -> Consuming:
            settings = {"hosts": node.address, "vhost": vhost, "queue": QUEUE, **bus}
            process = ConnectorProcess(tmp_path, bus=settings, name="tests.scenarios.consume:build")
            stack.callback(process.close)
            return Consuming(process, node, vhost)

        yield make


def fill(bus: Bus, first: int, count: int, **more: Any) -> None:
    """Publish the numbers from `first`, the last one confirmed."""
    for number in range(first, first + count - 1):
        bus.publish("", QUEUE, {"n": number, **more}, confirm=False, delivery_mode=2)
    bus.publish("", QUEUE, {"n": first + count - 1, **more}, delivery_mode=2)


def assert_nothing_lost(consumer: Consuming, count: int) -> None:
    """Wait until each number was done at least once, and check that the first times were in order."""
    consumer.wait(lambda: len(set(consumer.done())) >= count, f"{count} different messages done")
    assert list(dict.fromkeys(consumer.done())) == list(range(count))


# --- declaring and binding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_the_queue_is_declared_and_bound_as_the_settings_say(
    rabbit: RabbitNode, vhost: str, bus: Bus, consuming: Callable[..., Consuming], queue_type: str
) -> None:
    bus.declare_exchange("all")
    bus.declare_exchange("some", "topic")
    consumer = consuming(queue_type=queue_type, queue_messages_ttl=60, subscriptions="all, some:a.*").start()
    (queue,) = rabbit.queues(vhost)
    assert queue["durable"]
    assert queue["type"] == queue_type
    assert queue["arguments"]["x-message-ttl"] == 60000
    consumer.wait(lambda: len(rabbit.bindings(vhost)) == 2, "bound")
    assert rabbit.bindings(vhost) == {("all", QUEUE, QUEUE), ("some", QUEUE, "a.*")}
    bus.publish("all", "whatever", {"n": 1})
    bus.publish("some", "a.b", {"n": 2})
    consumer.wait_done([1, 2])


def test_a_queue_with_other_arguments_is_used_as_it_is_and_the_difference_named(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE, arguments={"x-message-ttl": 5_000_000})
    fill(bus, 0, 10)
    consumer = consuming(queue_messages_ttl=60).start()
    consumer.wait_done(list(range(10)))
    consumer.wait_log("used as it is")
    assert "x-message-ttl" in consumer.process.log_text()
    assert "60000" in consumer.process.log_text()
    consumer.wait(lambda: "x-message-ttl" in str(consumer.stats().get("problems")), "the problem is reported")
    assert consumer.process.log_text().count("used as it is") == 1


def test_an_exchange_that_is_missing_is_bound_once_it_is_there(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_queue(QUEUE)
    bus.declare_exchange("there")
    consumer = consuming(subscriptions="missing, there").start()
    bus.publish("", QUEUE, {"n": 0})
    consumer.wait_done([0])
    consumer.wait_log("no exchange 'missing'")
    bus.publish("there", "", {"n": 1})
    consumer.wait_done([0, 1])
    bus.declare_exchange("missing")
    consumer.wait_log("bound to all its subscriptions", 30)
    bus.publish("missing", "", {"n": 2})
    consumer.wait_done([0, 1, 2])
    consumer.wait(lambda: consumer.stats()["problems"] == [], "no problem left")


# --- consuming ------------------------------------------------------------------------------------------------


def test_a_queue_that_is_deleted_is_declared_and_consumed_again(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    consumer = consuming().start()
    fill(bus, 0, 5)
    consumer.wait_done(list(range(5)))
    for round_ in (1, 2):
        bus.delete_queue(QUEUE)
        consumer.wait_subscriptions(round_ + 1)
        fill(bus, 5 * round_, 5)
        consumer.wait_done(list(range(5 * round_ + 5)))
    assert consumer.process.is_running


def test_a_queue_that_somebody_else_holds_is_consumed_when_it_is_free(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE)
    tag = bus.channel.basic_consume(QUEUE, exclusive=True)
    consumer = consuming().start(subscribed=False)
    consumer.wait_log("in exclusive use")
    consumer.wait(lambda: consumer.process.log_text().count("subscribing again in") >= 2, "a second try")
    assert consumer.process.log_text().count("in exclusive use") == 1
    bus.channel.basic_cancel(tag)
    fill(bus, 0, 3)
    consumer.wait_done([0, 1, 2])
    assert consumer.process.log_text().count("connected to") == 2


def test_a_pause_gives_back_once_and_going_on_repeats_nothing_that_was_done(
    bus: Bus, consuming: Callable[..., Consuming]
) -> None:
    bus.declare_queue(QUEUE)
    fill(bus, 0, 50)
    fill(bus, 50, 150, gate="open")
    consumer = consuming(prefetch_count=100).start()
    consumer.wait_done(list(range(50)))
    consumer.wait(lambda: consumer.stats().get("received") == 150, "the prefetch is used up")
    consumer.touch("pause")
    consumer.wait(lambda: bus.queue_depth(QUEUE) == 150, "all but what was done is in the queue")
    consumer.touch("open")
    consumer.wait(lambda: 50 in consumer.done(), "the one in work was finished")
    received, watched = consumer.stats()["received"], consumer.process.cpu_s()
    stamp = (consumer.directory / "stats.json").stat().st_mtime
    consumer.wait(lambda: (consumer.directory / "stats.json").stat().st_mtime > stamp + 1, "a second of watching")
    assert consumer.stats()["received"] == received == 150
    assert consumer.process.cpu_s() - watched < 0.4
    assert len(consumer.done()) == 51
    consumer.remove("pause")
    # What was in work when the pause came could not be acknowledged any more.
    consumer.wait_done([*range(51), *range(50, 200)])
    assert consumer.stats()["redelivered"] <= 100


def test_kill_9_loses_nothing(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_queue(QUEUE)
    consumer = consuming().start()
    done = 0
    for number in range(3):
        fill(bus, number * 2000, 2000)
        consumer.wait(lambda: len(consumer.done()) > done + 200, "in the middle")  # noqa: B023
        consumer.process.kill()
        done = len(consumer.done())
        consumer.start()
    assert_nothing_lost(consumer, 6000)
    consumer.wait(lambda: bus.queue_depth(QUEUE) == 0, "the queue is empty")


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_broker_that_restarts_loses_nothing_and_repeats_what_was_not_acknowledged(
    spare_node: RabbitNode, consuming: Callable[..., Consuming], fault: str
) -> None:
    with connect(spare_node) as bus:
        bus.declare_queue(QUEUE)
        fill(bus, 0, 1000)
        fill(bus, 1000, 1000, gate="open")
    consumer = consuming(node=spare_node, vhost="/", heartbeat=2).start()
    consumer.wait_done(list(range(1000)))
    getattr(spare_node, fault)()
    consumer.wait_log("bus lost")
    consumer.touch("open")
    spare_node.start()
    assert_nothing_lost(consumer, 2000)
    with connect(spare_node) as bus:
        consumer.wait(lambda: bus.queue_depth(QUEUE) == 0, "the queue is empty")
    assert consumer.process.is_running


def test_a_dead_letter_survives_a_lost_connection_and_comes_once(
    spare_node: RabbitNode, consuming: Callable[..., Consuming]
) -> None:
    with connect(spare_node) as bus:
        bus.declare_queue(QUEUE)
        bus.declare_queue(DEAD)
        bus.publish("", QUEUE, b"bad", delivery_mode=2)
        fill(bus, 0, 1)
        spare_node.memory_alarm(True)
        consumer = consuming(node=spare_node, vhost="/").start()
        consumer.wait_log("takes no messages")
    spare_node.close_all_connections()
    consumer.wait_subscriptions(2)
    spare_node.memory_alarm(False)
    consumer.wait_done([0])
    with connect(spare_node) as bus:
        assert [letter.body for letter in bus.drain_all(DEAD)] == [b"bad"]


# --- without a broker ---------------------------------------------------------------------------------------------


class FakeChannel:
    """Has all that is asked of it done at once."""

    channel_id = 3
    on_closed: Any = None

    def __init__(self) -> None:
        self.cancel_callbacks: dict[str, Any] = {}

    def ask(self, *_: Any, **__: Any) -> None:
        pass

    queue_declare = basic_qos = basic_consume = ask


class FakeConnection:
    """Notes what is written."""

    lost = None
    max_message_bytes = 1000

    def __init__(self) -> None:
        self.deliveries: dict[int, Any] = {}
        self.written: list[bytes] = []

    def open_channel(self) -> FakeChannel:
        return FakeChannel()

    def write(self, buffer: bytes, channel: FakeChannel) -> bool:
        self.written.append(buffer)
        return True

    def forget_channel(self, channel: FakeChannel) -> None:
        pass


def deliver(connection: FakeConnection, tag: int, body: bytes) -> None:
    """Hand the frames of one delivery to the consumer's hook, the body in pieces of three octets."""
    method = b"\x00\x3c\x00\x3c" + dumps("sLbss", ("t", tag, False, "e", "k"))
    hook = connection.deliveries[3]
    hook(1, method)
    hook(2, pack(">HHQH", 60, 0, len(body), 0))
    for start in range(0, len(body), 3):
        hook(3, body[start : start + 3])


def make_consumer() -> tuple[FakeConnection, Consumer]:
    connection = FakeConnection()
    consumer = Consumer(
        connection, on_arrival=lambda: None, on_ended=lambda *_: None, on_too_large=lambda *_: None  # type: ignore[arg-type]
    )
    return connection, consumer


def test_what_is_finished_out_of_order_waits_and_goes_with_one_acknowledgement() -> None:
    connection, consumer = make_consumer()
    for tag in range(1, 7):
        deliver(connection, tag, b"")
    one, two, three, four, five, six = list(consumer.ready)
    consumer.finish([two, three], accepted=True)
    consumer.flush_acks()
    assert connection.written == []
    consumer.finish([one], accepted=True)
    consumer.finish([five], accepted=False)
    consumer.flush_acks()
    consumer.flush_acks()
    assert connection.written == [settle_frame(3, 80, 3, True)]
    consumer.finish([six, four], accepted=True)
    consumer.flush_acks()
    assert connection.written[1:] == [
        settle_frame(3, 80, 4, True) + settle_frame(3, 90, 5, False) + settle_frame(3, 80, 6, True)
    ]


def test_the_acknowledgement_is_the_librarys_own_bytes() -> None:
    for method, bit in ((spec.Basic.Ack, True), (spec.Basic.Reject, False)):
        payload = pack(">HH", *method) + dumps("Lb", (2**40, bit))
        assert settle_frame(3, method[1], 2**40, bit) == pack(">BHI", 1, 3, len(payload)) + payload + b"\xce"


def test_bodies_are_put_together_from_any_number_of_frames() -> None:
    connection, consumer = make_consumer()
    bodies = [b"", b"a", b"abc", b"abcd", b"x" * 1000]
    for tag, body in enumerate(bodies, 1):
        deliver(connection, tag, body)
    assert [delivery.body for delivery in consumer.ready] == bodies
    assert [(d.tag, d.exchange, d.routing_key) for d in consumer.ready] == [(n, "e", "k") for n in range(1, 6)]
    assert consumer.outstanding == 0


def test_message_above_the_largest_is_rejected_once_those_before_it_are_finished() -> None:
    connection, consumer = make_consumer()
    deliver(connection, 1, b"x" * 1000)
    deliver(connection, 2, b"x" * 1001)
    deliver(connection, 3, b"after")
    first, last = list(consumer.ready)
    assert (len(first.body), last.body, consumer.outstanding) == (1000, b"after", 0)
    consumer.ready.clear()
    consumer.flush_acks()
    assert connection.written == []
    consumer.finish([first, last], accepted=True)
    consumer.flush_acks()
    assert connection.written == [
        settle_frame(3, 80, 1, True) + settle_frame(3, 90, 2, False) + settle_frame(3, 80, 3, True)
    ]


def test_deliveries_that_are_not_numbered_in_order_are_no_amqp() -> None:
    connection, _ = make_consumer()
    deliver(connection, 1, b"")
    with pytest.raises(Malformed, match="tag 3 where 2"):
        deliver(connection, 3, b"")


@pytest.fixture
def subscribed() -> Iterator[tuple[FakeConnection, QueueSubscriber]]:
    """A subscriber that runs and consumes."""
    connection, subscriber = FakeConnection(), QueueSubscriber(QUEUE)
    subscriber.connection_initialized(connection)  # type: ignore[arg-type]
    subscriber.resume_producing()
    running = gevent.spawn(subscriber.run)
    with gevent.Timeout(10):
        while not connection.deliveries:
            gevent.sleep(0)
    yield connection, subscriber
    subscriber.stop()
    running.join(5)


def test_message_above_the_largest_is_counted_and_the_broker_is_told_soon(
    subscribed: tuple[FakeConnection, QueueSubscriber]
) -> None:
    connection, subscriber = subscribed
    deliver(connection, 1, b"x" * 1001)
    with gevent.Timeout(10):
        while not connection.written:
            gevent.sleep(0.005)
    assert connection.written == [settle_frame(3, 90, 1, False)]
    figures = subscriber.stats()
    assert (figures["received"], figures["rejected"], figures["too_large"], figures["ready"]) == (1, 1, 1, 0)


def test_one_channel_is_enough_to_declare_bind_and_consume() -> None:
    client = ScriptedClient()
    subscriber = QueueSubscriber(QUEUE, [Subscription("one", None), Subscription("two", "key")])
    connection = client.connect(ScriptedConnection(max_channels=1))
    subscriber.connection_initialized(connection)
    subscriber.resume_producing()
    running = gevent.spawn(subscriber.run)
    with gevent.Timeout(10):
        while not any(channel.consumers for channel in connection.channels.values()):
            gevent.sleep(0)
    assert subscriber.problems() == []
    asked = [name for channel in connection.opened for name, _, _ in channel.asked]
    assert asked.count("queue_bind") == 2
    subscriber.stop()
    running.join(5)
    assert running.successful()


def test_a_drain_ends_once_what_was_handed_out_is_finished_and_told(
    subscribed: tuple[FakeConnection, QueueSubscriber]
) -> None:
    connection, subscriber = subscribed
    for tag in range(1, 5):
        deliver(connection, tag, b"")
    one, two, three = subscriber.get(3)
    draining = gevent.spawn(subscriber.drain, 60)
    subscriber.finish([one])
    subscriber.finish([three])
    draining.join(0.2)
    assert not draining.dead
    subscriber.finish([two])
    draining.join(10)
    assert draining.dead
    assert connection.written[-1] == settle_frame(3, 80, 3, True)


def test_a_drain_ends_when_the_connection_does(subscribed: tuple[FakeConnection, QueueSubscriber]) -> None:
    connection, subscriber = subscribed
    deliver(connection, 1, b"")
    assert len(subscriber.get(1)) == 1
    draining = gevent.spawn(subscriber.drain, 60)
    draining.join(0.05)
    subscriber.connection_lost()
    draining.join(10)
    assert draining.dead
    assert connection.written == []
