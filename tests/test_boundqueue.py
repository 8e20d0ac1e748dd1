"""A queue that is to be there and bound, on a scripted bus and a clock of the test's."""

from __future__ import annotations

import logging
import math

import pytest

from tests.support.scripted import ScriptedConnection
from vigiloconn.consuming.boundqueue import ENSURE_PERIOD_S, BoundQueue
from vigiloconn.errors import BusDown
from vigiloconn.settings.values import Subscription
from vigiloconn.topology.wanted import Queue

SUBSCRIPTIONS = [Subscription("one", None), Subscription("two", "key")]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bound(clock: Clock) -> BoundQueue:
    return BoundQueue(Queue("q", "quorum", 60), SUBSCRIPTIONS, clock)


def asked(connection: ScriptedConnection) -> list[tuple[str, tuple[object, ...]]]:
    return [(name, args) for channel in connection.opened for name, args, _ in channel.asked]


def test_it_is_declared_and_bound_with_the_keys_of_its_subscriptions(bound: BoundQueue) -> None:
    connection = ScriptedConnection()
    assert bound.due_at_s == 0.0
    bound.ensure(connection)
    assert asked(connection) == [
        ("queue_declare", ("q",)), ("queue_bind", ("q", "one", "q")), ("queue_bind", ("q", "two", "key")),
    ]
    options = connection.opened[0].asked[0][2]
    assert options["arguments"] == {"x-queue-type": "quorum", "x-message-ttl": 60_000}
    assert bound.troubles == {}
    assert connection.channels == {}, "no channel stays open"


def test_it_is_seen_to_again_after_a_while_and_at_once_after_a_reset(bound: BoundQueue, clock: Clock) -> None:
    connection = ScriptedConnection()
    bound.ensure(connection)
    assert bound.due_at_s == clock.now_s + ENSURE_PERIOD_S
    bound.ensure(connection)
    assert len(asked(connection)) == 6
    bound.reset()
    assert bound.due_at_s == 0.0


def test_a_subscription_that_is_refused_is_told_and_tried_again_sooner_and_the_others_stand(
    bound: BoundQueue, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connection = ScriptedConnection()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            connection.refuse("queue_bind", 404, "NOT_FOUND - no exchange 'one'\x1b[31m\nforged")
            bound.ensure(connection)
            assert bound.due_at_s < clock.now_s + 5
    assert "exchange 'one': (404) NOT_FOUND - no exchange 'one'" in bound.troubles["bind"]
    assert "\x1b" not in caplog.text
    assert "\nforged" not in caplog.text
    assert caplog.text.count("is not bound, tried again later") == 1, "the same news is no news"
    assert asked(connection).count(("queue_bind", ("q", "two", "key"))) == 3
    with caplog.at_level(logging.INFO):
        bound.ensure(connection)
    assert bound.troubles == {}
    assert "bound to all its subscriptions" in caplog.text
    assert bound.due_at_s == clock.now_s + ENSURE_PERIOD_S


def test_the_tries_of_a_refused_subscription_grow_apart_up_to_the_period(bound: BoundQueue, clock: Clock) -> None:
    connection = ScriptedConnection()
    delays = []
    for _ in range(10):
        connection.refuse("queue_bind", 404)
        bound.ensure(connection)
        delays.append(bound.due_at_s - clock.now_s)
    assert delays[0] <= 1.0
    assert 0.75 * ENSURE_PERIOD_S <= delays[-1] <= ENSURE_PERIOD_S
    bound.ensure(connection)
    connection.refuse("queue_bind", 404)
    bound.ensure(connection)
    assert bound.due_at_s - clock.now_s <= 1.0, "a success begins anew"


def test_a_queue_that_exists_otherwise_is_bound_all_the_same_and_the_difference_told(bound: BoundQueue) -> None:
    connection = ScriptedConnection()
    connection.refuse("queue_declare", 406, "inequivalent arg 'x-message-ttl'")
    bound.ensure(connection)
    assert "inequivalent arg" in bound.troubles["declare"]
    assert "is used as it is" in bound.troubles["declare"]
    assert len(asked(connection)) == 3
    bound.ensure(connection)
    assert bound.troubles == {}


def test_where_the_consumer_has_the_only_channel_nothing_is_said_or_undone(bound: BoundQueue, clock: Clock) -> None:
    connection = ScriptedConnection(max_channels=1)
    bound.ensure(connection)
    connection.open_channel()
    clock.now_s += 100
    bound.ensure(connection)
    assert bound.troubles == {}
    assert bound.due_at_s == clock.now_s + ENSURE_PERIOD_S


def test_a_broker_that_allows_no_channel_at_all_is_a_trouble_at_each_connection(bound: BoundQueue) -> None:
    for _ in range(2):
        bound.ensure(ScriptedConnection(max_channels=0))
        assert "allows no channel" in bound.troubles["declare"]
        assert "bind" in bound.troubles
        bound.reset()
        bound.ensure(ScriptedConnection())
        assert bound.troubles == {}
        bound.reset()


def test_a_subscription_stays_refused_while_there_is_no_channel_to_ask_on(bound: BoundQueue) -> None:
    connection = ScriptedConnection(max_channels=1)
    connection.refuse("queue_bind", 404)
    bound.ensure(connection)
    connection.open_channel()
    bound.ensure(connection)
    assert "bind" in bound.troubles


def test_a_limit_that_is_met_at_connecting_says_nothing_of_later_ones(bound: BoundQueue, clock: Clock) -> None:
    with pytest.raises(BusDown):
        bound.ensure(ScriptedConnection(max_channels_of_user=0))
    bound.reset()
    bound.ensure(ScriptedConnection())
    assert bound.due_at_s == clock.now_s + ENSURE_PERIOD_S


def test_a_limit_that_ends_the_connection_is_met_once(bound: BoundQueue, clock: Clock) -> None:
    connection = ScriptedConnection(max_channels_of_user=1)
    bound.ensure(connection)
    connection.open_channel()
    with pytest.raises(BusDown):
        bound.ensure(connection)
    for refused in (False, True):
        bound.reset()
        connection = ScriptedConnection()
        if refused:
            connection.refuse("queue_bind", 404)
        bound.ensure(connection)
        assert bound.due_at_s == math.inf
    assert "bind" in bound.troubles


def test_a_connection_that_is_lost_changes_nothing(bound: BoundQueue, clock: Clock) -> None:
    connection = ScriptedConnection()
    bound.ensure(connection)
    connection.abort("gone")
    with pytest.raises(BusDown):
        bound.ensure(connection)
    assert bound.troubles == {}
    bound.reset()
    bound.ensure(ScriptedConnection())
    assert bound.due_at_s == clock.now_s + ENSURE_PERIOD_S
