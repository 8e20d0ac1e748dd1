"""The scripted bus: it must see what a broker sees, and answer as one does."""

from __future__ import annotations

import pytest

from tests.support.bus import Bus
from tests.support.scripted import ScriptedClient, ScriptedConnection, Settlement, WrongFrames, bodies
from vigiloconn.bus.confirms import ConfirmChannel, Returned
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.consuming.channel import Consumer, settle_frame
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.supervisor import Handler
from vigiloconn.topology.apply import declare_queue
from vigiloconn.topology.wanted import Queue

FRAME_MAX = 4096
OPTIONS = {
    "persistent": False, "expiration_ms": 60_000, "content_encoding": "utf-8",
    "headers": {"x-reason": "why", "count": 3, "nested": {"list": [1, "two", True]}},
}  # fmt: skip
SIZES = (0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX)


class Seen:
    """A confirm channel on a scripted connection, and what it was told."""

    def __init__(self, connection: ScriptedConnection) -> None:
        self.settled: list[tuple[list[str], bool]] = []
        self.returned: list[tuple[str, str]] = []
        self.closed: list[tuple[int, list[str]]] = []
        self.channel: ConfirmChannel[str] = ConfirmChannel(
            connection,
            on_settled=lambda tokens, acked: self.settled.append((tokens, acked)),
            on_returned=lambda message_id, reason: self.returned.append((message_id, reason)),
            on_closed=lambda error, tokens: self.closed.append((error.code, tokens)),
        )
        self.bus_side = connection.channels[self.channel.id]
        self._frames = PublishFrames(self.channel.id, "event", "key", frame_max=connection.frame_max)

    def send(self, *names: str) -> None:
        buffer = b"".join(self._frames.render(name.encode(), f"id-{name}".encode()) for name in names)
        self.channel.send(buffer, names)


def render_all(channel_id: int, exchange: str) -> bytes:
    plain = PublishFrames(channel_id, exchange, "clé", frame_max=FRAME_MAX)
    rich = PublishFrames(channel_id, exchange, "other", frame_max=FRAME_MAX, **OPTIONS)
    return b"".join(
        frames.render(b"x" * size, f"id-{size}".encode()) for frames in (plain, rich) for size in SIZES
    )


def decoded(exchange: str) -> list[tuple[object, ...]]:
    connection = ScriptedConnection(frame_max=FRAME_MAX)
    connection.open_channel()
    channel = connection.open_channel()
    connection.write(render_all(channel.channel_id, exchange), channel)
    return [(m.exchange, m.routing_key, m.body, m.properties) for m in connection.published]


def test_what_is_decoded_is_what_a_consumer_on_a_real_broker_sees(bus: Bus) -> None:
    bus.declare_exchange("event")
    bus.declare_queue("q", "event")
    transport = bus.connection.transport
    transport.write(render_all(bus.channel.channel_id, "event"))
    seen = [(m.exchange, m.routing_key, m.body, m.properties) for m in bus.drain("q", 2 * len(SIZES))]
    assert decoded("event") == seen


def test_a_publish_that_is_not_mandatory_is_told_from_one_that_is() -> None:
    connection = ScriptedConnection()
    channel = connection.open_channel()
    for mandatory in (True, False):
        frames = PublishFrames(1, "e", "k", frame_max=FRAME_MAX, mandatory=mandatory)
        connection.write(frames.render(b"x", b"1"), channel)
    assert [message.mandatory for message in channel.published] == [True, False]
    assert channel.unanswered == []  # it is not in confirm mode: no broker would answer


def test_answers_reach_the_publisher_by_tag_multiple_or_not() -> None:
    seen = Seen(ScriptedConnection())
    seen.send("a", "b", "c", "d")
    assert bodies(seen.bus_side.ack(2)) == [b"b"]
    assert bodies(seen.bus_side.nack(3, multiple=True)) == [b"a", b"c"]
    assert bodies(seen.bus_side.unanswered) == [b"d"]
    assert bodies(seen.bus_side.ack()) == [b"d"]
    assert seen.settled == [(["b"], True), (["a", "c"], False), (["d"], True)]
    assert seen.bus_side.ack() == []


def test_a_returned_message_is_told_by_its_id_and_then_confirmed() -> None:
    seen = Seen(ScriptedConnection())
    seen.send("a")
    seen.bus_side.return_(1)
    seen.bus_side.ack(1)
    assert seen.returned == [("id-a", Returned(312, "312 NO_ROUTE: no queue is bound for 'key'"))]
    assert seen.settled == [(["a"], True)]


def test_a_channel_that_the_broker_closes_gives_back_what_is_unanswered_and_takes_nothing_more() -> None:
    connection = ScriptedConnection()
    seen = Seen(connection)
    seen.send("a", "b")
    seen.bus_side.ack(1)
    seen.bus_side.close_by_broker(404)
    assert seen.closed == [(404, ["b"])]
    assert not connection.write(b"", seen.bus_side)
    with pytest.raises(BusRefused, match="NOT_FOUND"):
        seen.send("c")
    # As py-amqp does, the next channel has the number of the closed one.
    assert Seen(connection).channel.id == seen.channel.id


def test_limits_on_channels_are_those_of_the_protocol_and_those_of_the_user() -> None:
    connection = ScriptedConnection(max_channels=1)
    channel = connection.open_channel()
    with pytest.raises(BusRefused, match="channel_max"):
        connection.open_channel()
    connection.forget_channel(channel)
    connection.open_channel()
    connection = ScriptedConnection(max_channels=2)
    assert [connection.open_channel().channel_id for _ in range(2)] == [1, 2]
    connection = ScriptedConnection(max_channels_of_user=0)
    with pytest.raises(BusDown, match="user's limit"):
        connection.open_channel()
    assert connection.refusal is not None
    assert connection.refusal.code == 530


def test_a_call_is_refused_as_often_as_the_script_says_and_costs_its_channel() -> None:
    connection = ScriptedConnection()
    connection.refuse("queue_declare", 406, "PRECONDITION_FAILED - inequivalent arg")
    with pytest.raises(BusRefused, match="inequivalent"):
        declare_queue(connection, Queue("q"))
    declare_queue(connection, Queue("q"))
    assert [channel.closed_by is None for channel in connection.opened] == [False, True]
    assert connection.channels == {}


def test_a_connection_is_cut_in_the_middle_of_a_write() -> None:
    connection = ScriptedConnection()
    seen = Seen(connection)
    connection.cut_after(2)
    with pytest.raises(BusDown, match="in the middle"):
        seen.send("a", "b", "c")
    assert bodies(connection.published) == [b"a", b"b"]
    assert seen.channel.unanswered() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda data: data[:-1] + b"\0", "no end of a frame"),
        (lambda data: data[:-20], "no end of a frame"),
        (lambda data: data[:1] + b"\0\7" + data[3:], "frame of channel 7"),
        (lambda data: settle_frame(1, 80, 1, False), "unknown or was settled"),
        (lambda data: data[data.index(b"\xce") + 1 :], "out of place"),
        (lambda data: data[: data.index(b"\xce") + 1] * 2, "out of place"),
    ],
    ids=["end", "torn", "channel", "tag", "header-first", "method-twice"],
)
def test_frames_that_no_broker_takes_are_refused(spoil: object, complaint: str) -> None:
    connection = ScriptedConnection(frame_max=FRAME_MAX)
    channel = connection.open_channel()
    buffer = PublishFrames(1, "e", "k", frame_max=FRAME_MAX).render(b"body", b"1")
    with pytest.raises(WrongFrames, match=complaint):
        connection.write(spoil(buffer), channel)  # type: ignore[operator]


def test_a_frame_above_what_was_agreed_is_refused() -> None:
    connection = ScriptedConnection(frame_max=FRAME_MAX)
    channel = connection.open_channel()
    with pytest.raises(WrongFrames, match="agreed were 4096"):
        connection.write(PublishFrames(1, "e", "k", frame_max=FRAME_MAX + 1).render(b"x" * FRAME_MAX, b"1"), channel)


def test_deliveries_reach_a_consumer_and_its_acknowledgements_are_seen() -> None:
    connection = ScriptedConnection(frame_max=FRAME_MAX)
    arrived: list[int] = []
    ended: list[str] = []
    consumer = Consumer(
        connection, on_arrival=lambda: arrived.append(1), on_ended=lambda _, reason: ended.append(reason),
        on_too_large=lambda *_: None, on_overrun=lambda: None, prefetch=Prefetch(10, 1 << 20),
    )
    consumer.start("q")
    [channel] = connection.channels.values()
    assert (channel.prefetch_messages, list(channel.consumers.values())) == (10, ["q"])
    for size in SIZES:
        channel.deliver(b"x" * size, exchange="e", routing_key="clé", message_id=f"m{size}", redelivered=size == 1)
    channel.deliver(b"y", properties=b"\xff\xfe")
    taken = list(consumer.ready)
    assert [len(delivery.body) for delivery in taken] == [*SIZES, 1]
    assert [delivery.redelivered for delivery in taken[:3]] == [False, True, False]
    assert (taken[0].exchange, taken[0].routing_key) == ("e", "clé")
    assert [delivery.message_id() for delivery in taken] == [*(f"m{size}" for size in SIZES), ""]
    consumer.finish([*taken[:2], taken[3]], accepted=True)
    consumer.finish(taken[2:3], accepted=False)
    consumer.flush_acks()
    assert channel.settlements == [
        Settlement("ack", 2, True, False), Settlement("reject", 3, False, False), Settlement("ack", 4, True, False)
    ]
    assert channel.unsettled == [5, 6, 7]
    channel.cancel_by_broker()
    assert len(ended) == 1


class Told(Handler):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def connection_initialized(self) -> None:
        assert self.client.connection is not None
        self.events.append("made")

    def connection_lost(self) -> None:
        assert self.client.connection is None
        self.events.append(str(self.client.last_error))

    def connection_blocked(self, blocked: bool) -> None:
        self.events.append(blocked)


def test_a_client_tells_its_handlers_what_happens_to_the_connection() -> None:
    client, told = ScriptedClient(), Told()
    client.add_handler(told)
    connection = client.connect()
    client.block()
    assert connection.blocked
    client.block(False)
    client.lose()
    client.connect().close_by_broker(530, "NOT_ALLOWED")
    client.lose()
    assert told.events == ["made", True, False, "scripted: pulled the plug", "made", "scripted: NOT_ALLOWED"]
    client.send("", "q", b"{}", mandatory=True).rawlink(lambda result: told.events.append(result.exception))
    assert [(sent.routing_key, sent.options) for sent in client.sent] == [("q", {"mandatory": True})]
