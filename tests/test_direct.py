"""Single messages past the journal: order, answers, and what a closed channel or a lost connection does to them."""

from __future__ import annotations

from typing import Any

import pytest
from gevent.event import AsyncResult

from tests.support.scripted import ScriptedChannel, ScriptedConnection, bodies
from vigiloconn.bus.channels import ChannelPool
from vigiloconn.errors import BadMessage, BusDown, BusRefused
from vigiloconn.publishing import direct
from vigiloconn.publishing.direct import DirectSender


class Rig:
    """A sender whose crank the test turns."""

    def __init__(self) -> None:
        self.sender = DirectSender(ChannelPool())
        self.connection = ScriptedConnection()
        self.sender.connection_initialized(self.connection)

    def send(self, *messages: bytes, exchange: str = "x", **options: Any) -> list[AsyncResult[None]]:
        results = [self.sender.send(exchange, "key", body, **options) for body in messages]
        self.sender.pump()
        return results

    @property
    def channel(self) -> ScriptedChannel:
        [channel] = self.connection.channels.values()
        return channel

    def on_the_way(self) -> list[bytes]:
        return bodies(self.channel.unanswered)

    def reconnect(self) -> None:
        self.connection.abort("lost")
        self.sender.connection_lost()
        self.connection = ScriptedConnection()
        self.sender.connection_initialized(self.connection)
        self.sender.pump()


def refusal(result: AsyncResult[None]) -> BusRefused:
    assert isinstance(result.exception, BusRefused), result.exception
    return result.exception


def test_messages_go_in_order_and_each_result_is_set_by_its_own_confirm() -> None:
    rig = Rig()
    first, second, third = rig.send(b"1", b"2", b"3")
    assert rig.on_the_way() == [b"1", b"2", b"3"]
    rig.channel.ack(2)
    assert (first.ready(), second.ready(), third.ready()) == (False, True, False)
    rig.channel.ack(3, multiple=True)
    assert first.successful()
    assert third.successful()
    assert rig.sender.waiting == 0


def test_nack_refuses_that_message_alone() -> None:
    rig = Rig()
    first, second = rig.send(b"1", b"2")
    rig.channel.nack(1)
    rig.channel.ack(2)
    assert "basic.nack" in str(refusal(first))
    assert second.successful()


def test_returned_message_is_refused_with_the_brokers_code_and_reason() -> None:
    rig = Rig()
    [result] = rig.send(b"1", mandatory=True)
    rig.channel.return_(1, 313, "NO_CONSUMERS")
    rig.channel.ack()
    error = refusal(result)
    assert error.code == 313
    assert "exchange 'x'" in str(error)
    assert "313 NO_CONSUMERS" in str(error)


def test_return_is_of_its_message_only() -> None:
    rig = Rig()
    first, second = rig.send(b"1", b"2", mandatory=True)
    rig.channel.return_(2)
    rig.channel.ack()
    assert first.successful()
    assert refusal(second).code == 312


def test_closed_channel_with_one_message_on_it_refuses_that_one() -> None:
    rig = Rig()
    [result] = rig.send(b"1", exchange="missing")
    rig.channel.close_by_broker(404, "NOT_FOUND")
    assert refusal(result).code == 404
    [after] = rig.send(b"2")
    rig.channel.ack()
    assert after.successful()


def test_closed_channel_with_several_sends_them_one_by_one_until_the_culprit_is_found() -> None:
    rig = Rig()
    first, second, third = rig.send(b"1", b"2", b"3")
    rig.channel.close_by_broker(404)
    rig.sender.pump()
    assert rig.on_the_way() == [b"1"]
    rig.channel.ack()
    rig.sender.pump()
    assert rig.on_the_way() == [b"2"]
    rig.channel.close_by_broker(404)
    rig.sender.pump()
    assert rig.on_the_way() == [b"3"]
    fourth, fifth = rig.send(b"4", b"5")
    assert rig.on_the_way() == [b"3"]
    rig.channel.ack()
    rig.sender.pump()
    # All that was under suspicion is answered: in company again.
    assert rig.on_the_way() == [b"4", b"5"]
    rig.channel.ack()
    assert refusal(second).code == 404
    assert all(result.successful() for result in (first, third, fourth, fifth))


def test_lost_connection_sends_what_is_unanswered_again_first_and_in_order() -> None:
    rig = Rig()
    first, second, third = rig.send(b"1", b"2", b"3")
    rig.channel.ack(2)
    fourth = rig.sender.send("x", "key", b"4")
    rig.connection.abort("gone")
    rig.sender.connection_lost()
    rig.connection = ScriptedConnection()
    rig.sender.connection_initialized(rig.connection)
    rig.sender.pump()
    assert rig.on_the_way() == [b"1", b"3", b"4"]
    rig.channel.ack()
    assert all(result.successful() for result in (first, second, third, fourth))


def test_message_keeps_its_id_when_it_goes_again() -> None:
    rig = Rig()
    rig.send(b"1")
    [before] = rig.connection.published
    rig.reconnect()
    [after] = rig.connection.published
    assert before.message_id == after.message_id


def test_return_on_a_lost_connection_does_not_refuse_the_message_later() -> None:
    rig = Rig()
    [result] = rig.send(b"1", mandatory=True)
    rig.channel.return_(1)
    rig.reconnect()
    rig.channel.ack()
    assert result.successful()


def test_return_on_a_closed_channel_does_not_refuse_the_message_later() -> None:
    rig = Rig()
    first, second = rig.send(b"1", b"2", mandatory=True)
    rig.channel.return_(1)
    rig.channel.close_by_broker(541)
    for _ in range(2):
        rig.sender.pump()
        rig.channel.ack()
    assert first.successful()
    assert second.successful()


def test_message_that_can_t_be_encoded_is_refused_and_those_beside_it_go() -> None:
    rig = Rig()
    results = [
        rig.sender.send("x", "k" * 256, b"1"), rig.sender.send("x", "key", b"2", message_id="\ud800"),
        rig.sender.send("x", "key", b"3"),
    ]  # fmt: skip
    rig.sender.pump()
    assert rig.on_the_way() == [b"3"]
    assert [type(result.exception) for result in results[:2]] == [BadMessage, BadMessage]


def test_sender_holds_a_bounded_number_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "MAX_WAITING", 2)
    rig = Rig()
    rig.send(b"1", b"2")
    with pytest.raises(BusDown, match="2 messages wait"):
        rig.sender.send("x", "key", b"3")
    rig.channel.ack()
    rig.sender.send("x", "key", b"3")


def test_what_is_under_way_does_not_pay_again_for_an_exchange_that_has_closed_the_channel() -> None:
    rig = Rig()
    rig.send(b"1", exchange="missing")
    rig.channel.close_by_broker(404)
    [letter] = rig.send(b"2")
    [again] = rig.send(b"3", exchange="missing")
    assert rig.on_the_way() == [b"2"]
    rig.channel.ack()
    rig.sender.pump()
    assert letter.successful()
    assert rig.on_the_way() == [b"3"]
    rig.send(b"4")
    assert rig.on_the_way() == [b"3"]
    rig.channel.close_by_broker(404)
    assert refusal(again).code == 404
    rig.sender.pump()
    assert rig.on_the_way() == [b"4"]


def test_exchange_that_takes_messages_again_is_sent_to_beside_others() -> None:
    rig = Rig()
    rig.send(b"1", exchange="missing")
    rig.channel.close_by_broker(404)
    rig.send(b"2", exchange="missing")
    rig.channel.ack()
    rig.send(b"3", b"4")
    rig.send(b"5", exchange="missing")
    assert rig.on_the_way() == [b"3", b"4", b"5"]
