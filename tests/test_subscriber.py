"""The pull side on the real broker: what becomes of bindings, consumer and acknowledgements, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.consuming import DEAD, QUEUE, Consuming
from tests.support.rabbit import RabbitNode


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


def test_a_binding_that_went_away_with_its_exchange_comes_back(bus: Bus, consuming: Callable[..., Consuming]) -> None:
    bus.declare_exchange("there")
    consumer = consuming("build_ensuring", subscriptions="there").start()
    bus.publish("there", "", {"n": 0})
    consumer.wait_done([0])
    bus.channel.exchange_delete("there")
    bus.declare_exchange("there")

    def arrives() -> bool:
        bus.publish("there", "", {"n": 1}, confirm=False)
        return len(consumer.done()) > 1

    consumer.wait(arrives, "bound again")
    consumer.wait_subscriptions(1)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_large_messages_are_done_in_order_within_the_bound_of_bytes(
    bus: Bus, consuming: Callable[..., Consuming], queue_type: str
) -> None:
    bus.declare_queue(QUEUE, arguments={"x-queue-type": queue_type})
    for number in range(60):
        bus.publish("", QUEUE, {"n": number, "pad": "x" * 500_000}, delivery_mode=2)
    fill(bus, 60, 300)
    consumer = consuming(queue_type=queue_type, prefetch_bytes="2 MiB", prefetch_count=50).start()
    consumer.wait_done(list(range(360)))
    consumer.wait_log("messages ahead")
    consumer.wait_log("messages are small again: 50 ahead")
    consumer.wait(lambda: bus.queue_depth(QUEUE) == 0, "all acknowledged")
    assert consumer.stats()["failed"] == 0


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
