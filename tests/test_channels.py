"""Fewer channels than exchanges: a broker's limits cost speed and one connection, never a message twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.publishing import Clock, Rig, ids
from tests.support.scripted import ScriptedConnection
from vigiloconn.bus.channels import ChannelPool
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BusDown
from vigiloconn.interfaces import Level

KINDS = ("event", "perf", "state", "nagios")


class Holder:
    """One that publishes, and what it was told."""

    def __init__(self, pool: ChannelPool, connection: ScriptedConnection) -> None:
        self.pool = pool
        self.connection = connection
        self.has_channel = False
        self.woken = 0

    def send(self) -> bool:
        """Send one message if there is a channel now."""
        channel = self.pool.take(self.connection, self)
        if channel is None:
            return False
        self.has_channel = True
        channel.send(PublishFrames(channel.id, "x", "k", frame_max=4096).render(b"{}", b"1"), [self])
        return True

    def settled(self, tokens: list[Any], acked: bool) -> None:
        assert set(tokens) == {self}
        self.pool.wake_first()

    def returned(self, message_id: str, returned: Any) -> None:
        raise AssertionError("nothing is returned here")

    def closed(self, error: Exception, unanswered: list[Any]) -> None:
        self.has_channel = False

    def taken_away(self) -> None:
        self.has_channel = False

    def wake(self) -> None:
        self.woken += 1


def ack_all(connection: ScriptedConnection) -> None:
    for channel in connection.channels.values():
        channel.ack()


def holders(count: int, connection: ScriptedConnection, clock: Clock | None = None) -> list[Holder]:
    pool = ChannelPool(clock or Clock())
    return [Holder(pool, connection) for _ in range(count)]


def test_each_has_a_channel_of_its_own_where_the_broker_allows_it() -> None:
    connection = ScriptedConnection()
    first, second = holders(2, connection)
    first.pool.take(connection, first)
    second.pool.take(connection, second)
    assert first.send()
    assert second.send()
    assert first.send()
    assert len(connection.channels) == 2


def test_one_channel_more_is_opened_only_with_nothing_on_its_way() -> None:
    connection = ScriptedConnection()
    first, second = holders(2, connection)
    assert first.send()
    assert not second.send()
    # The other waits: nothing more is sent, or it would wait for ever.
    assert not first.send()
    ack_all(connection)
    assert second.woken
    assert not first.send()
    assert second.send()
    assert first.send()


@pytest.mark.parametrize("leaves", [False, True])
def test_one_that_stood_back_with_nothing_on_its_way_is_woken_when_nobody_waits_any_more(leaves: bool) -> None:
    connection = ScriptedConnection()
    first, second, third = holders(3, connection)
    first.pool.take(connection, first)
    assert third.send()
    assert not second.send()
    # Nothing will be answered that could wake it.
    assert not first.send()
    ack_all(connection)
    first.woken = 0
    if leaves:
        second.pool.leave(second)
    else:
        assert second.send()
    assert first.woken
    assert first.send()


def test_message_that_is_never_answered_does_not_prevent_another_channel() -> None:
    connection, clock = ScriptedConnection(), Clock()
    first, second = holders(2, connection, clock)
    assert first.send()
    assert not second.send()
    clock.wait(2)
    assert second.send()


def test_one_that_stands_back_wakes_no_other_that_may_not_open_its_channel_yet() -> None:
    connection = ScriptedConnection()
    first, second, third = holders(3, connection)
    first.pool.take(connection, first)
    second.pool.take(connection, second)
    assert first.send()
    assert not third.send()
    # The second has nothing on its way, the first has: to wake the third now would be to do so without an end.
    assert not second.send()
    assert third.woken == 0
    ack_all(connection)
    assert third.woken


def test_channel_that_was_closed_is_replaced_at_once() -> None:
    connection = ScriptedConnection()
    first, second = holders(2, connection)
    first.pool.take(connection, first)
    second.pool.take(connection, second)
    assert first.send()
    assert second.send()
    connection.channels[2].close_by_broker(404)
    assert second.send()


def test_at_the_limit_the_one_that_has_waited_longest_is_next() -> None:
    connection = ScriptedConnection(max_channels=1)
    several = holders(3, connection)
    order = []
    for _ in range(9):
        order += [number for number, holder in enumerate(several) if holder.send()]
        ack_all(connection)
    assert order == [0, 1, 2] * 3
    assert len(connection.opened) == 1
    assert sum(holder.has_channel for holder in several) == 1


def test_one_that_has_nothing_to_send_any_more_holds_nobody_up() -> None:
    connection = ScriptedConnection(max_channels=1)
    first, second, third = holders(3, connection)
    assert first.send()
    assert not second.send()
    assert not third.send()
    second.pool.leave(second)
    assert third.woken
    ack_all(connection)
    assert third.send()


def test_limit_of_the_user_is_learned_from_the_loss_and_kept_for_the_next_connection() -> None:
    pool = ChannelPool(Clock())
    connection = ScriptedConnection(max_channels_of_user=2)
    several = [Holder(pool, connection) for _ in range(3)]
    for holder in several[:2]:
        pool.take(connection, holder)
    with pytest.raises(BusDown):
        pool.take(connection, several[2])
    assert connection.refusal is not None
    assert pool.explains(connection.refusal)
    [problem] = pool.problems()
    assert (problem.name, problem.level) == ("channel-limit", Level.WARNING)
    assert "2 channels" in problem.text
    assert "user's limit" in problem.text
    again = ScriptedConnection(max_channels_of_user=2)
    for holder in several:
        holder.connection = again
        holder.send()
    assert again.lost is None
    # Lost for another reason: the limit may be another one by now.
    again.abort("pulled the plug")
    third = ScriptedConnection()
    for holder in several:
        pool.take(third, holder)
    assert len(third.channels) == 3
    assert pool.problems() == []


def test_what_another_connection_allowed_is_not_taken_for_granted() -> None:
    before = ScriptedConnection()
    first, second = holders(2, before)
    first.pool.take(before, first)
    second.pool.take(before, second)
    first.connection = second.connection = ScriptedConnection()
    assert first.send()
    assert not second.send()


def test_channels_that_are_had_after_all_are_no_longer_critical() -> None:
    pool = ChannelPool(Clock())
    refusing = ScriptedConnection(max_channels_of_user=0)
    with pytest.raises(BusDown):
        pool.take(refusing, Holder(pool, refusing))
    connection = ScriptedConnection()
    assert Holder(pool, connection).send()
    [problem] = pool.problems()
    assert (problem.level, "1 channels" in problem.text) == (Level.WARNING, True)


def test_no_channel_at_all_is_critical_with_the_brokers_words() -> None:
    pool = ChannelPool(Clock())
    for _ in range(3):
        connection = ScriptedConnection(max_channels_of_user=0)
        holder = Holder(pool, connection)
        with pytest.raises(BusDown):
            pool.take(connection, holder)
        assert connection.refusal is not None
        # A refusal like that of a login: tried again at the longest delay.
        assert not pool.explains(connection.refusal)
        [problem] = pool.problems()
        assert (problem.level, "user's limit" in problem.text) == (Level.CRITICAL, True)


# --- in the publisher ----------------------------------------------------------------------------------------------


def limited(kind: str, channels: int) -> ScriptedConnection:
    if kind == "channel_max":
        return ScriptedConnection(max_channels=channels)
    return ScriptedConnection(max_channels_of_user=channels)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("limit", ["channel_max", "user"])
def test_fewer_channels_than_exchanges_send_everything_once_and_in_order(limit: str, channels: int) -> None:
    rig = Rig("window = 50")
    for _ in range(60):
        for kind in KINDS:
            rig.journal.accept(2, kind)
    connections = [rig.connect(limited(limit, channels))]
    for _ in range(400):
        if rig.connection.lost is not None:
            rig.client.lose()
            connections.append(rig.connect(limited(limit, channels)))
        ack_all(rig.connection)
        rig.pump()
    assert rig.journal.is_empty
    assert len(connections) == (1 if limit == "channel_max" else 2)
    published = [message for connection in connections for message in connection.published]
    for kind in KINDS:
        sent = ids(message for message in published if message.exchange == kind)
        assert sent == sorted(set(sent))
    assert len(published) == 480


def test_exchange_that_comes_late_finds_a_channel_without_anything_being_sent_twice() -> None:
    rig = Rig()
    rig.connect(limited("user", 2))
    rig.accept(5, "event")
    rig.accept(5, "state")
    for _ in range(3):
        ack_all(rig.connection)
        rig.pump()
    rig.accept(5, "event")
    rig.accept(5, "perf")
    connection = rig.connection
    for _ in range(5):
        ack_all(rig.connection)
        rig.pump()
    assert connection.lost is not None
    rig.client.lose()
    again = rig.connect(limited("user", 2))
    for _ in range(5):
        ack_all(rig.connection)
        rig.pump()
    assert rig.journal.is_empty
    assert ids(again.published) == list(range(16, 21))
