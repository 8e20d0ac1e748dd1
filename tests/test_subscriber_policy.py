"""The pull side of a queue on a scripted bus: what it asks for, hands out, gives back, and when it begins anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests.support.scripted import ScriptedChannel, ScriptedConnection
from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.boundqueue import ENSURE_PERIOD_S
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.errors import BusDown
from vigiloconn.settings.values import Subscription

SUBSCRIPTIONS = [Subscription("one", None), Subscription("two", "key")]
#: Longer than any time in a test.
HOUR_S = 3600.0


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


class Clock:
    """Time goes on by itself, and by jumps."""

    def __init__(self) -> None:
        self.jumped_s = 0.0

    def __call__(self) -> float:
        return gevent.get_hub().loop.now() + self.jumped_s


class Subscribed:
    """A subscriber that runs, on connections that the test makes."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.left = 0
        self.subscriber = QueueSubscriber("q", SUBSCRIPTIONS, on_left=self._on_left, clock=self.clock, **options)
        self.running = gevent.spawn(self.subscriber.run)
        self.connection = ScriptedConnection()

    def _on_left(self) -> None:
        self.left += 1

    def connect(self, connection: ScriptedConnection | None = None) -> ScriptedConnection:
        self.connection = connection or ScriptedConnection(max_message_bytes=1000)
        self.subscriber.connection_initialized(self.connection)
        return self.connection

    def consume(self) -> ScriptedChannel:
        """Let it consume, and return the channel."""
        if self.subscriber.is_paused:
            self.subscriber.resume_producing()
        wait_for(lambda: self.consuming)
        return self.channel

    @property
    def consuming(self) -> list[ScriptedChannel]:
        return [each for each in self.connection.channels.values() if each.consumers]

    @property
    def channel(self) -> ScriptedChannel:
        [found] = self.consuming
        return found

    def jump(self, seconds: float) -> None:
        """Let time pass, and the subscriber see it."""
        self.clock.jumped_s += seconds
        self.subscriber.interrupt()
        self.subscriber._wake.set()

    def asked(self, name: str) -> list[tuple[Any, ...]]:
        return [args for channel in self.connection.opened for asked, args, _ in channel.asked if asked == name]

    def topics(self) -> list[str]:
        return [problem.name for problem in self.subscriber.problems()]

    def take(self, count: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < count:
            taken += self.subscriber.get(count - len(taken), 10)
        return taken

    def close(self) -> None:
        self.subscriber.stop()
        self.running.join(10)
        assert self.running.successful()


@pytest.fixture
def made() -> Iterator[Callable[..., Subscribed]]:
    found: list[Subscribed] = []

    def make(**options: Any) -> Subscribed:
        found.append(Subscribed(**options))
        return found[-1]

    yield make
    for each in found:
        each.close()


# --- declared and bound ---------------------------------------------------------------------------------------------


def test_a_queue_that_is_not_consumed_yet_is_declared_and_bound(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    assert one.asked("queue_declare") == [("q",)]
    assert one.asked("basic_consume") == []
    assert one.subscriber.is_paused


def test_a_wrong_subscription_is_told_before_anything_is_consumed(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = ScriptedConnection()
    connection.refuse("queue_bind", 404, "no exchange 'one'")
    one.connect(connection)
    wait_for(one.topics)
    assert one.topics() == ["queue-bind"]
    assert "no exchange 'one'" in one.subscriber.problems()[0].text


@pytest.mark.parametrize("consumes", [True, False])
def test_bindings_are_made_again_now_and_then(made: Callable[..., Subscribed], consumes: bool) -> None:
    one = made()
    one.connect()
    if consumes:
        one.consume()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    one.jump(ENSURE_PERIOD_S - 5)
    gevent.sleep(0.01)
    assert len(one.asked("queue_bind")) == 2
    one.jump(10)
    wait_for(lambda: len(one.asked("queue_bind")) == 4)
    assert len(one.asked("basic_consume")) == int(consumes), "the consumer stays"


def test_a_binding_that_is_refused_later_is_told_and_comes_back(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = one.connect()
    one.consume()
    connection.refuse("queue_bind", 404, "no exchange 'one'")
    one.jump(ENSURE_PERIOD_S + 1)
    wait_for(one.topics)
    assert one.topics() == ["queue-bind"]
    assert one.consuming
    one.jump(ENSURE_PERIOD_S + 1)
    wait_for(lambda: not one.topics())


def test_each_connection_is_bound_anew(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    one.consume()
    one.connection.abort("gone")
    one.subscriber.connection_lost()
    one.connect()
    wait_for(lambda: one.consuming)
    assert len(one.asked("queue_bind")) == 2
    assert one.asked("queue_declare") == [("q",)]


def test_one_channel_is_enough(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect(ScriptedConnection(max_channels=1))
    one.consume()
    one.jump(ENSURE_PERIOD_S + 1)
    gevent.sleep(0.01)
    assert one.topics() == []
    assert one.consuming
    assert len(one.asked("queue_bind")) == 2


# --- refused, cancelled, closed --------------------------------------------------------------------------------------


def test_a_consumer_that_is_refused_is_tried_again_and_told_meanwhile(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = ScriptedConnection()
    connection.refuse("basic_consume", 403, "in exclusive use")
    connection.refuse("basic_consume", 403, "in exclusive use")
    one.connect(connection)
    one.subscriber.resume_producing()
    wait_for(one.topics)
    assert one.topics() == ["queue-consume"]
    assert "in exclusive use" in one.subscriber.problems()[0].text
    one.jump(HOUR_S)
    wait_for(lambda: len(one.asked("basic_consume")) == 2)
    one.jump(HOUR_S)
    wait_for(lambda: one.consuming)
    assert one.topics() == []
    assert len(connection.channels) == 1, "channels that were refused are closed"


def test_a_consumer_that_is_refused_is_tried_again_by_itself_and_the_queue_declared_for_it(
    made: Callable[..., Subscribed]
) -> None:
    one = made()
    connection = ScriptedConnection()
    connection.refuse("basic_consume", 404)
    one.connect(connection)
    one.subscriber.resume_producing()
    wait_for(lambda: one.consuming)
    assert [name for channel in connection.opened for name, _, _ in channel.asked].count("queue_declare") == 2


def test_a_connection_that_does_not_answer_is_thrown_away(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)

    def open_channel() -> ScriptedChannel:
        raise BusDown("no answer within 30 s")

    connection.open_channel = open_channel  # type: ignore[method-assign]
    one.subscriber.resume_producing()
    wait_for(lambda: connection.lost)
    assert "no answer within 30 s" in str(connection.lost)


def during_consume(connection: ScriptedConnection, action: Callable[[ScriptedChannel], object]) -> None:
    """Let something happen between the broker's yes to the next consumer and the subscriber's hearing of it."""
    open_channel = connection.open_channel

    def opened() -> ScriptedChannel:
        channel = open_channel()
        consume = channel.basic_consume

        def basic_consume(*args: Any, **options: Any) -> str:
            tag = consume(*args, **options)
            connection.open_channel = open_channel  # type: ignore[method-assign]
            action(channel)
            return tag

        channel.basic_consume = basic_consume  # type: ignore[method-assign]
        return channel

    connection.open_channel = opened  # type: ignore[method-assign]


def test_a_consumer_that_is_cancelled_before_it_is_known_is_tried_again(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    during_consume(connection, lambda channel: channel.cancel_by_broker())
    one.subscriber.resume_producing()
    wait_for(lambda: one.topics() == ["queue-consume"])
    wait_for(lambda: one.consuming)
    wait_for(lambda: one.topics() == [])


def test_a_message_that_is_too_large_before_the_consumer_is_known_is_rejected_all_the_same(
    made: Callable[..., Subscribed]
) -> None:
    one = made()
    connection = one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    during_consume(connection, lambda channel: channel.deliver(b"x" * 1001))
    channel = one.consume()
    wait_for(lambda: not channel.unsettled)
    assert one.subscriber.stats()["too_large"] == 1


def test_a_consumer_that_begins_when_its_connection_is_gone_is_not_taken_for_one(
    made: Callable[..., Subscribed]
) -> None:
    one = made()
    connection = one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    during_consume(connection, lambda channel: one.subscriber.connection_lost())
    one.subscriber.resume_producing()
    wait_for(lambda: one.asked("basic_consume"))
    gevent.sleep(0.01)
    assert connection.channels == {}
    one.connect()
    wait_for(lambda: one.consuming)


def test_the_end_of_a_consumer_that_was_left_is_no_news(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    one.subscriber.pause_producing()
    channel.cancel_by_broker()
    assert one.topics() == []
    assert one.left == 1


def test_the_delays_of_tries_that_fail_grow_however_far_apart_they_are(
    made: Callable[..., Subscribed], caplog: pytest.LogCaptureFixture
) -> None:
    one = made()
    connection = one.connect()
    channel = one.consume()
    for _ in range(5):
        connection.refuse("basic_consume", 403)
    with caplog.at_level(logging.INFO):
        channel.cancel_by_broker()
        for tries in range(5):
            one.jump(100)
            wait_for(lambda: len(one.asked("basic_consume")) == tries + 2)  # noqa: B023
            gevent.sleep(0)
    texts = [record.getMessage() for record in caplog.records if "subscribing again in" in record.getMessage()]
    assert float(texts[4].split(" in ")[1].removesuffix(" s")) > 2


def test_a_channel_that_can_not_be_opened_is_tried_again(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    one.connection.refuse("open_channel", 504)
    one.subscriber.resume_producing()
    wait_for(one.topics)
    one.jump(HOUR_S)
    wait_for(lambda: one.consuming)
    assert one.topics() == []


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_the_broker_ends_is_declared_and_consumed_again(made: Callable[..., Subscribed], how: str) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    channel.deliver(b"1")
    [taken] = one.take(1)
    channel.deliver(b"2")
    if how == "cancel":
        channel.cancel_by_broker()
    else:
        channel.close_by_broker(406, "delivery acknowledgement timed out")
    assert one.left == 1
    assert one.subscriber.is_stale(taken)
    assert one.subscriber.get(10, 0.01) == [], "what had come is not handed out"
    assert one.topics() == ["queue-consume"]
    one.jump(HOUR_S)
    wait_for(lambda: one.consuming)
    assert one.topics() == []
    assert len(one.asked("queue_declare")) >= 2
    one.subscriber.finish([taken])
    assert one.subscriber.stats()["acknowledged"] == 0
    assert one.channel.settlements == []


def test_delays_grow_while_a_consumer_does_not_last_and_begin_anew_after_one_that_did(
    made: Callable[..., Subscribed], caplog: pytest.LogCaptureFixture
) -> None:
    one = made()
    one.connect()
    one.consume()

    def delay_s() -> float:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            one.channel.cancel_by_broker()
        [text] = [record.getMessage() for record in caplog.records if "subscribing again in" in record.getMessage()]
        one.jump(100)
        wait_for(lambda: one.consuming)
        return float(text.split(" in ")[1].removesuffix(" s"))

    delays = [delay_s() for _ in range(5)]
    assert delays[0] <= 0.3 < 2 <= delays[4]
    one.jump(31)
    assert delay_s() <= 0.3


# --- handing out ------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_handed_out_in_order_and_no_more_than_that(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    for number in range(5):
        channel.deliver(b"%d" % number)
    assert [each.body for each in one.subscriber.get(3)] == [b"0", b"1", b"2"]
    assert one.subscriber.stats()["ready"] == 2
    assert [each.body for each in one.subscriber.get(3)] == [b"3", b"4"]
    assert one.subscriber.get(3, 0.01) == []


def test_one_who_waits_gets_what_comes_and_an_interruption_ends_the_wait(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    gevent.spawn(channel.deliver, b"x")
    assert [each.body for each in one.subscriber.get(3, HOUR_S)] == [b"x"]
    gevent.spawn(one.subscriber.interrupt)
    assert one.subscriber.get(3, HOUR_S) == []


def test_what_is_finished_is_acknowledged_a_moment_later_with_others(made: Callable[..., Subscribed]) -> None:
    one = made(prefetch_messages=100)
    one.connect()
    channel = one.consume()
    for _ in range(4):
        channel.deliver(b"x")
    taken = one.take(4)
    one.subscriber.finish(taken[:1])
    one.subscriber.finish(taken[1:3])
    one.subscriber.finish(taken[3:], accepted=False)
    assert channel.settlements == []
    wait_for(lambda: not channel.unsettled)
    assert [each.kind for each in channel.settlements] == ["ack", "reject"]
    figures = one.subscriber.stats()
    assert (figures["acknowledged"], figures["rejected"], figures["received"]) == (3, 1, 4)


def test_a_quarter_of_the_prefetch_is_acknowledged_at_once(made: Callable[..., Subscribed]) -> None:
    one = made(prefetch_messages=8)
    one.connect()
    channel = one.consume()
    for _ in range(3):
        channel.deliver(b"x")
    taken = one.take(3)
    one.subscriber.finish(taken[:1])
    assert channel.settlements == []
    one.subscriber.finish(taken[1:2])
    assert [each.tag for each in channel.settlements] == [2]


def test_a_message_that_is_too_large_is_counted_and_the_broker_told_soon(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    channel.deliver(b"x" * 1001)
    wait_for(lambda: not channel.unsettled)
    figures = one.subscriber.stats()
    assert (figures["received"], figures["rejected"], figures["too_large"], figures["ready"]) == (1, 1, 1, 0)


def test_figures_go_on_over_connections(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    one.consume().deliver(b"x")
    one.connection.abort("gone")
    one.subscriber.connection_lost()
    one.connect()
    wait_for(lambda: one.consuming)
    one.channel.deliver(b"x", redelivered=True)
    figures = one.subscriber.stats()
    assert (figures["received"], figures["redelivered"], figures["ready"]) == (2, 1, 1)


# --- gathering --------------------------------------------------------------------------------------------------------


def test_what_comes_while_it_gathers_is_handed_out_together(made: Callable[..., Subscribed]) -> None:
    one = made(prefetch_messages=3, gather_s=HOUR_S)
    one.connect()
    channel = one.consume()

    def deliver() -> None:
        for _ in range(3):
            channel.deliver(b"x")
            gevent.sleep(0)

    gevent.spawn(deliver)
    assert len(one.subscriber.get(500)) == 3, "no more than the prefetch can come"


def test_gathering_ends_with_its_time_and_with_an_interruption(made: Callable[..., Subscribed]) -> None:
    one = made(gather_s=0.01)
    one.connect()
    channel = one.consume()
    channel.deliver(b"x")
    assert len(one.subscriber.get(500)) == 1
    other = made(gather_s=HOUR_S)
    other.connect()
    other.consume().deliver(b"x")
    gevent.spawn(other.subscriber.interrupt)
    assert len(other.subscriber.get(500)) == 1


def test_of_what_was_gathered_on_two_connections_only_the_newer_ones_is_handed_out(
    made: Callable[..., Subscribed]
) -> None:
    one = made(prefetch_messages=2, gather_s=HOUR_S)
    one.connect()
    one.consume().deliver(b"old")
    getting = gevent.spawn(one.subscriber.get, 500)
    wait_for(lambda: not one.subscriber.stats()["ready"])
    one.connection.abort("gone")
    one.subscriber.connection_lost()
    one.connect()
    wait_for(lambda: one.consuming)
    for _ in range(2):
        if not getting.dead:
            one.channel.deliver(b"new")
            gevent.sleep(0)
    getting.join(10)
    assert b"old" not in [each.body for each in getting.value if not one.subscriber.is_stale(each)]


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_pause_gives_back_and_a_resumption_consumes_anew(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    for _ in range(3):
        channel.deliver(b"x")
    first, second = one.take(2)
    one.subscriber.finish([first])
    one.subscriber.pause_producing()
    assert one.subscriber.is_paused
    assert one.subscriber.is_stale(second)
    assert one.left == 1
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [2, 3]
    one.subscriber.finish([second])
    assert one.subscriber.stats()["acknowledged"] == 1
    one.subscriber.resume_producing()
    wait_for(lambda: one.consuming)
    assert len(one.asked("queue_declare")) == 1, "the queue is known to be there"


def test_a_resumption_waits_for_no_delay_of_earlier_failures(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = one.connect()
    for _ in range(10):
        connection.refuse("basic_consume", 403)
    one.subscriber.resume_producing()
    for tries in range(1, 10):
        wait_for(lambda: len(one.asked("basic_consume")) == tries)  # noqa: B023
        one.jump(HOUR_S)
    wait_for(lambda: len(one.asked("basic_consume")) == 10)
    one.subscriber.pause_producing()
    one.consume()


def test_a_pause_while_it_subscribes_is_obeyed(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = one.connect()
    wait_for(lambda: len(one.asked("queue_bind")) == 2)
    open_channel = connection.open_channel

    def open_slowly() -> ScriptedChannel:
        one.subscriber.pause_producing()
        return open_channel()

    connection.open_channel = open_slowly  # type: ignore[method-assign]
    one.subscriber.resume_producing()
    wait_for(lambda: one.asked("basic_consume"))
    wait_for(lambda: not connection.channels)
    assert one.subscriber.get(1, 0.01) == []


def test_a_stop_acknowledges_what_is_finished_and_gives_back_the_rest(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    channel.deliver(b"x")
    channel.deliver(b"x")
    one.subscriber.finish(one.take(1))
    one.close()
    assert not channel.is_open
    assert channel.unsettled == [2]


def test_a_life_begins_by_giving_back_what_the_former_one_had(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    channel.deliver(b"x")
    [taken] = one.take(1)
    one.running.kill()
    one.running = gevent.spawn(one.subscriber.run)
    wait_for(lambda: not channel.is_open)
    wait_for(lambda: one.consuming)
    assert one.subscriber.is_stale(taken)
    assert channel.unsettled == [1]


def test_nothing_is_asked_on_a_connection_that_is_lost(made: Callable[..., Subscribed]) -> None:
    one = made()
    connection = ScriptedConnection()
    connection.abort("gone before anybody looked")
    one.connect(connection)
    one.subscriber.resume_producing()
    gevent.sleep(0.01)
    assert connection.opened == []
    one.subscriber.connection_lost()
    one.connect()
    wait_for(lambda: one.consuming)


def test_a_drain_ends_once_what_was_handed_out_is_finished_and_acknowledged(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.connect()
    channel = one.consume()
    for _ in range(4):
        channel.deliver(b"x")
    first, second, third = one.take(3)
    draining = gevent.spawn(one.subscriber.drain, HOUR_S)
    one.subscriber.finish([first])
    one.subscriber.finish([third])
    draining.join(0.2)
    assert not draining.dead
    one.subscriber.finish([second])
    draining.join(10)
    assert draining.dead
    assert channel.unsettled == [4]
    assert one.subscriber.get(1, 0.01) == []


def test_a_drain_ends_with_its_time_and_with_the_connection(made: Callable[..., Subscribed]) -> None:
    one = made()
    one.subscriber.drain(HOUR_S)
    one.connect()
    one.consume().deliver(b"x")
    one.take(1)
    one.subscriber.drain(0.01)
    draining = gevent.spawn(one.subscriber.drain, HOUR_S)
    draining.join(0.01)
    one.subscriber.connection_lost()
    draining.join(10)
    assert draining.dead


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_what_was_kept_at_the_bound_is_done_first_and_then_fewer_messages_are_asked_for(
    made: Callable[..., Subscribed]
) -> None:
    one = made(prefetch_messages=10, max_bytes=1000)
    one.connect()
    channel = one.consume()
    assert channel.prefetch_messages == 10
    for _ in range(5):
        channel.deliver(b"x" * 400)
    taken = one.take(2)
    assert one.subscriber.get(10, 0.01) == []
    one.subscriber.finish(taken[:1])
    gevent.sleep(0.01)
    assert channel.is_open
    assert not one.subscriber.is_stale(taken[1]), "what is in work is not given back"
    one.subscriber.finish(taken[1:])
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [3, 4, 5]
    assert {each.kind for each in channel.settlements} == {"ack"}, "what goes back by a nack goes to the end"
    wait_for(lambda: one.consuming)
    assert one.channel.prefetch_messages == 2
    one.channel.deliver(b"x" * 400)
    one.subscriber.finish(one.take(1))
    assert one.channel.unsettled == [], "with so few ahead the broker waits for each acknowledgement"


def test_the_count_grows_again_when_messages_are_small(made: Callable[..., Subscribed]) -> None:
    one = made(prefetch_messages=10, max_bytes=1000)
    one.connect()
    one.consume()
    for _ in range(3):
        one.channel.deliver(b"x" * 400)
    one.subscriber.finish(one.take(2))
    wait_for(lambda: one.consuming and one.channel.prefetch_messages == 2)
    channel = one.channel
    for _ in range(10):
        channel.deliver(b"x")
        one.subscriber.finish(one.take(1))
    wait_for(lambda: one.consuming and one.channel.prefetch_messages == 10)
    assert channel.unsettled == []
    assert one.subscriber.stats()["acknowledged"] == 12


@pytest.mark.parametrize("how", ["overrun", "pause"])
def test_the_next_one_consumes_a_while_after_the_channel_with_what_goes_back_was_closed(
    made: Callable[..., Subscribed], how: str
) -> None:
    one = made(prefetch_messages=10, max_bytes=1000)
    connection = one.connect()
    channel = one.consume()
    opened_at: list[float] = []
    open_channel = connection.open_channel

    def watch() -> ScriptedChannel:
        assert not channel.is_open
        opened_at.append(one.clock())
        return open_channel()

    connection.open_channel = watch  # type: ignore[method-assign]
    for _ in range(3):
        channel.deliver(b"x" * 400)
    taken = one.take(2)
    if how == "overrun":
        one.subscriber.finish(taken)
    else:
        one.subscriber.pause_producing()
        one.subscriber.resume_producing()
    wait_for(lambda: not channel.is_open)
    closed_at = one.clock()
    wait_for(lambda: one.consuming)
    assert opened_at[0] - closed_at > 0.2


def test_an_overrun_says_what_changes_and_is_no_new_subscription(
    made: Callable[..., Subscribed], caplog: pytest.LogCaptureFixture
) -> None:
    one = made(prefetch_messages=10, max_bytes=1000)
    with caplog.at_level(logging.INFO):
        one.connect()
        one.consume()
        for _ in range(3):
            one.channel.deliver(b"x" * 400)
        assert "2 messages ahead" in caplog.text
        one.subscriber.finish(one.take(2))
        wait_for(lambda: one.consuming and one.channel.prefetch_messages == 2)
        assert caplog.text.count(": subscribed") == 1
        one.subscriber.pause_producing()
        wait_for(lambda: not one.consuming)
        one.consume()
        wait_for(lambda: caplog.text.count(": subscribed") == 2)
