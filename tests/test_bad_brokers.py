"""Brokers that send what AMQP does not allow, at every stage: they are left as down, in one line, for the next.

In this process, on scripted brokers; each case takes milliseconds.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from struct import pack
from typing import Any

import gevent
import pytest
from amqp import spec
from gevent.event import Event

from tests.support.fakebroker import FakeBroker, Session, delivery, frame, method, sound, start, tune, until
from tests.test_client import Rig, running
from vigiloconn import ipv6
from vigiloconn.bus.confirms import ConfirmChannel
from vigiloconn.bus.connection import BusConnection, GoingDown
from vigiloconn.bus.contents import Delivery
from vigiloconn.bus.inbound import FRAME_MAX
from vigiloconn.consuming.channel import Consumer
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BusDown, BusRefused, LeaveBroker, NoChannel
from vigiloconn.kit.turns import Turns
from vigiloconn.options import parse_settings

#: Tables, their length included.
BAD_TIMESTAMP = b"\x00\x00\x00\x0b\x01tT" + b"\xff" * 8
WHOLE_TABLE = b"\x00\x00\x00\x00"


def nested(depth: int) -> bytes:
    """A table in a table, `depth` times."""
    table = b""
    for _ in range(depth):
        table = b"\x01xF" + pack(">I", len(table)) + table
    return pack(">I", len(table)) + table


def deliver(channel: int, payload: bytes) -> bytes:
    return frame(1, channel, pack(">HH", *spec.Basic.Deliver) + payload)


#: What may come at any time, on the connection's own channel or on one that is in use.
ANYWHERE: dict[str, bytes] = {
    "no frame at all": b"HTTP/1.1 200 OK\r\n\r\n",
    "a frame without its end": frame(1, 0, b"\x00\x0a\x00\x3d")[:-1] + b"\x00",
    "a frame larger than agreed": pack(">BHI", 1, 0, FRAME_MAX),
    "a frame of four gigabytes": pack(">BHI", 3, 1, 0xFFFFFFFF) + b"x" * 10_000,
    "a method of no bytes": frame(1, 0, b""),
    "a method of three bytes": frame(1, 0, b"\x00\x0a\x00"),
    "a method that nobody knows": frame(1, 0, b"\xff\xff\xff\xff"),
    "a method of channels": method(0, spec.Basic.Qos),
    "a second step of the login": method(0, spec.Connection.Secure, "S", ("?",)),
    "a close cut short": frame(1, 0, pack(">HHH", *spec.Connection.Close, 320)),
    "a close whose text is cut short": frame(1, 0, pack(">HHHB", *spec.Connection.Close, 320, 200) + b"going"),
    "a close whose text is no UTF-8": frame(
        1, 0, pack(">HHHB", *spec.Connection.Close, 320, 2) + b"\xff\xfe" + pack(">HH", 0, 0)
    ),
    "a close-ok that nobody asked for": method(0, spec.Connection.CloseOk),
}
START: dict[str, bytes] = {
    "an impossible timestamp": start(BAD_TIMESTAMP),
    "a table nested a thousand deep": start(nested(5000)),
    "a table longer than its frame": start(b"\x00\x00\xff\xff\x01a"),
    "a table of an unknown type": start(b"\x00\x00\x00\x03\x01a?"),
    "capabilities that are a number": start({"capabilities": 7}),
    "capabilities that are a list": start({"capabilities": ["publisher_confirms"]}),
    "logins that are no UTF-8": start(mechanisms=b"\xff\xfe"),
    "a start cut short": frame(1, 0, pack(">HHB", *spec.Connection.Start, 0)),
    "a tune before the start": tune(),
    "an open-ok before the start": method(0, spec.Connection.OpenOk, "s", ("",)),
}
TUNE: dict[str, bytes] = {
    "a second start": start(),
    "frames below what AMQP allows": tune(frame_max=4095),
    "frames of one byte": tune(frame_max=1),
    "a tune cut short": frame(1, 0, pack(">HHH", *spec.Connection.Tune, 0)),
}
OPEN: dict[str, bytes] = {
    "a second tune": tune(),
}
LATER: dict[str, bytes] = {
    "a start": start(),
    "a tune": tune(),
    "another open-ok": method(0, spec.Connection.OpenOk, "s", ("",)),
    "a channel's close cut short": frame(1, 1, pack(">HHHB", *spec.Channel.Close, 404, 9)),
    "a channel's close that is no UTF-8": frame(1, 1, pack(">HHHB", *spec.Channel.Close, 404, 1) + b"\xff\0\0\0\0"),
    "a channel's close-ok that nobody asked for": method(1, spec.Channel.CloseOk),
    "an ack cut short": frame(1, 1, pack(">HHI", *spec.Basic.Ack, 1)),
    "a return cut short": frame(1, 1, pack(">HHH", *spec.Basic.Return, 312)) + frame(2, 1, b"\0" * 14),
    "a returned header cut short": method(1, spec.Basic.Return, "Bsss", (312, "NO_ROUTE", "", "k")) + frame(2, 1, b"x"),
    "a returned body that is too long": method(1, spec.Basic.Return, "Bsss", (312, "NO_ROUTE", "", "k"))
    + frame(2, 1, pack(">HHQH", 60, 0, 1, 0)) + frame(3, 1, b"xx"),
    "a delivery cut short": deliver(2, b"\x01t" + b"\0" * 9) + frame(2, 2, pack(">HHQH", 60, 0, 0, 0)),
    "a delivery without a tag": deliver(2, b"\x03tag") + frame(2, 2, pack(">HHQH", 60, 0, 0, 0)),
    "a header cut short": deliver(2, b"") + frame(2, 2, b"\x00\x3c"),
    "a header of nothing": frame(2, 2, pack(">HHQH", 60, 0, 5, 0)),
    "a body of nothing": frame(3, 2, b"x"),
    "a body longer than its header says": delivery(2, 1, b"xx", size=1),
    "a method in the middle of a body": delivery(2, 1, b"x", size=5) + delivery(2, 2, b"x"),
    "a delivery out of turn": delivery(2, 7, b"x"),
    "a cancel cut short": frame(1, 2, pack(">HHB", *spec.Basic.Cancel, 40)),
}
STAGES: dict[str, tuple[str, dict[str, bytes]]] = {
    "start": ("header", {**ANYWHERE, **START}),
    "tune": ("start", {**ANYWHERE, **TUNE}),
    "open": ("tune", {**ANYWHERE, **OPEN}),
    "later": ("open", {**ANYWHERE, **LATER}),
}
CASES = [
    pytest.param(before, wrong, id=f"{stage}: {name}")
    for stage, (before, cases) in STAGES.items() for name, wrong in cases.items()
]


class Talk:
    """A connection with its reader, one channel that publishes (1) and one that consumes (2)."""

    def __init__(self, broker: FakeBroker, **bus: object) -> None:
        text = "\n".join(f"{key} = {value}" for key, value in bus.items())
        self.connection = BusConnection(
            broker.endpoint, parse_settings(f"[bus]\n{text}").bus, name="test",
            dial=lambda endpoint, timeout_s: ipv6.connect(endpoint, timeout_s, spawn=gevent.spawn),
        )
        self.too_large: list[int] = []
        self.returned: list[tuple[str, str]] = []
        self.consumer: Consumer | None = None
        self.error: BaseException | None = None
        self._reading: Any = None

    def connect(self) -> Talk:
        self.connection.connect()
        self._reading = gevent.spawn(self._read)
        return self

    def use(self) -> Talk:
        """Open the channels."""
        ConfirmChannel[int](
            self.connection, on_settled=lambda *_: None, on_closed=lambda *_: None,
            on_returned=lambda name, returned: self.returned.append((name, returned.text)),
        )
        self.consumer = Consumer(
            self.connection, on_arrival=lambda: None, on_ended=lambda *_: None,
            on_too_large=lambda _, size: self.too_large.append(size), on_overrun=lambda: None,
            prefetch=Prefetch(10, 1 << 20),
        )
        self.consumer.start("q")
        return self

    def _read(self) -> None:
        try:
            self.connection.read()
        except BaseException as exc:  # noqa: BLE001
            self.error = exc

    @property
    def taken(self) -> list[Delivery]:
        assert self.consumer is not None
        return list(self.consumer.ready)

    def end(self) -> BaseException:
        """Return what the reader ends with."""
        self._reading.join(timeout=10)
        assert self.error is not None, "the reader still reads"
        return self.error


def _sending(before: str, wrong: bytes) -> Callable[[Session], None]:
    def script(session: Session) -> None:
        session.shake_hands(before)
        if before == "open":
            session.serve(until=spec.Basic.Consume)
        session.send(wrong)
        session.wait_gone()

    return script


@pytest.mark.parametrize(("before", "wrong"), CASES)
def test_broker_that_sends_what_is_no_amqp_is_left_with_one_clear_line(before: str, wrong: bytes) -> None:
    with FakeBroker(_sending(before, wrong)) as broker, gevent.Timeout(20):
        talk = Talk(broker)
        if before == "open":
            error = talk.connect().use().end()
        else:
            with pytest.raises(LeaveBroker) as caught:
                talk.connection.connect()
            error = caught.value
        assert isinstance(error, LeaveBroker), repr(error)
        assert str(error).startswith(f"{broker.address}: speaks no AMQP that was agreed: "), str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 400
        assert talk.connection.lost is not None


@pytest.mark.parametrize(("before", "wrong"), [
    ("header", START["a table nested a thousand deep"]),
    ("start", TUNE["frames of one byte"]),
    ("open", ANYWHERE["a close whose text is no UTF-8"]),
])  # fmt: skip
def test_next_broker_is_tried_at_once(before: str, wrong: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def script(session: Session) -> None:
        session.shake_hands(before)
        session.send(wrong)
        session.wait_gone()

    with FakeBroker(script) as bad, FakeBroker() as good, running(Rig(f"{bad.address}, {good.address}")) as rig:
        until(lambda: rig.connected_to == good.address, "the second broker")
        assert len(bad.sessions) == 1
        assert rig.supervisor.crashes == 0
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f" {bad.address}: speaks no AMQP that was agreed: " in line.getMessage()


@pytest.mark.parametrize(("offered", "agreed"), [
    ((0, 0), (65535, FRAME_MAX)),
    ((7, 4096), (7, 4096)),
    ((2047, 256 << 20), (2047, FRAME_MAX)),
    ((65535, 2**32 - 1), (65535, FRAME_MAX)),
])  # fmt: skip
def test_sizes_are_tuned_down_to_ours(offered: tuple[int, int], agreed: tuple[int, int]) -> None:
    def script(session: Session) -> None:
        session.shake_hands(channel_max=offered[0], frame_max=offered[1])
        session.serve()

    with FakeBroker(script) as broker:
        talk = Talk(broker).connect().use()
        assert broker.agreed[:2] == agreed
        assert talk.connection.frame_max == agreed[1]
        talk.connection.close(5)


def test_frame_above_what_was_agreed_is_refused_though_we_could_take_it() -> None:
    def script(session: Session) -> None:
        session.shake_hands(frame_max=4096)
        session.send(frame(8, 0, b"x" * 4088) + pack(">BHI", 3, 1, 4089))
        session.wait_gone()

    with FakeBroker(script) as broker:
        assert "4089 bytes, frames of 4096 were agreed" in str(Talk(broker).connect().end())


def test_channels_above_the_brokers_limit_are_refused_with_its_name_and_the_connection_stays() -> None:
    def script(session: Session) -> None:
        session.shake_hands(channel_max=2)
        session.serve()

    with FakeBroker(script) as broker:
        talk = Talk(broker).connect().use()
        with pytest.raises(NoChannel, match=r"allows 2 channels on a connection \(channel_max\)"):
            talk.connection.open_channel()
        assert talk.connection.lost is None
        assert talk.consumer is not None
        talk.consumer.close()
        talk.connection.open_channel()
        talk.connection.close(5)


# -- size and time ---------------------------------------------------------------------------------------------------


def test_body_above_the_largest_is_rejected_unread_and_the_connection_goes_on() -> None:
    settled = Event()

    def script(session: Session) -> None:
        session.shake_hands()
        channel = session.serve(until=spec.Basic.Consume)
        session.send(delivery(channel, 1, b"x" * 300_000, size=1 << 40, chunk=100_000)[:-1])
        settled.wait()

    with FakeBroker(script) as broker:
        talk = Talk(broker, max_message="100K").connect().use()
        until(lambda: talk.too_large, "the refusal, before the body's end")
        assert talk.too_large == [1 << 40]
        assert talk.connection.lost is None
        assert talk.taken == []
        settled.set()


def test_message_behind_one_that_is_too_large_is_taken() -> None:
    def script(session: Session) -> None:
        session.shake_hands()
        channel = session.serve(until=spec.Basic.Consume)
        session.send(delivery(channel, 1, b"x" * 300_000) + delivery(channel, 2, b"y" * 100_000))
        session.serve()

    with FakeBroker(script) as broker:
        talk = Talk(broker, max_message=100_000).connect().use()
        until(lambda: talk.taken, "the second message")
        assert [(one.tag, len(one.body)) for one in talk.taken] == [(2, 100_000)]
        talk.connection.close(5)


class Endless:
    """A socket with always more to read, which takes a millisecond to handle. Notes how others get their turn."""

    def __init__(self, talk: Talk) -> None:
        self.now_s = 1000.0
        self.reads = 0
        self.turns: list[int] = []
        self.greenlet: Any = None
        connection = talk.connection
        connection._clock = lambda: self.now_s
        connection._turns = Turns(connection._clock)
        connection._library.transport.sock = self
        self._feed = connection._frames.feed
        connection._frames.feed = self._handle  # type: ignore[method-assign]
        self._others = gevent.spawn(self._run_others)

    def recv(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > 100:
            raise OSError("the end")
        return frame(8, 0, b"") * 100

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...

    def _handle(self, data: bytes) -> None:
        self._feed(data)
        self.now_s += 0.001

    def _run_others(self) -> None:
        while True:
            self.turns.append(self.reads)
            gevent.sleep(0.00001)


def test_flood_lets_others_have_their_turn_every_few_milliseconds() -> None:
    with FakeBroker(sound) as broker, gevent.Timeout(20):
        talk = Talk(broker)
        talk.connection.connect()
        endless = Endless(talk)
        with pytest.raises(BusDown, match="the end"):
            talk.connection.read()
        endless._others.kill()
        waited = [later - earlier for earlier, later in zip([0, *endless.turns], endless.turns, strict=False)]
        assert endless.reads == 101
        assert max(waited) <= 4
        assert len(endless.turns) > 20


def test_consumer_of_a_lost_connection_leaves_nothing_to_the_garbage_collector() -> None:
    def script(session: Session) -> None:
        session.shake_hands()
        channel = session.serve(until=spec.Basic.Consume)
        session.send(delivery(channel, 1, b"x" * 100))
        session.serve()

    gc.collect()
    gc.disable()
    try:
        with FakeBroker(script) as broker:
            talk = Talk(broker).connect().use()
            until(lambda: talk.taken, "the message")
            talk.connection.abort("a test")
            talk.end()
            assert talk.consumer is not None
            talk.consumer.close()
            gone = weakref.ref(talk.consumer)
            talk.consumer = None
            assert gone() is None
    finally:
        gc.enable()


# -- text ------------------------------------------------------------------------------------------------------------

FORGED = "gone\n2026-01-01 INFO all is well\x1b[2J"


def test_text_of_a_close_is_one_printable_line() -> None:
    def closes(code: int) -> Callable[[Session], None]:
        def script(session: Session) -> None:
            session.shake_hands()
            session.send(method(0, spec.Connection.Close, "BsBB", (code, FORGED, 0, 0)))
            session.serve()

        return script

    for code, kind in ((320, GoingDown), (501, BusRefused)):
        with FakeBroker(closes(code)) as broker:
            talk = Talk(broker).connect()
            error = talk.end()
            assert isinstance(error, kind)
            for text in (str(error), str(talk.connection.lost)):
                assert "gone\\n2026" in text
                assert text.isprintable()


def test_text_of_a_refused_login_is_one_printable_line() -> None:
    def script(session: Session) -> None:
        session.shake_hands("start")
        session.send(method(0, spec.Connection.Close, "BsBB", (403, FORGED, 0, 0)))
        session.wait_gone()

    with FakeBroker(script) as broker, pytest.raises(BusRefused, match="gone") as caught:
        Talk(broker).connection.connect()
    assert str(caught.value).isprintable()


def test_text_of_channels_and_of_returned_messages_is_one_printable_line() -> None:
    def script(session: Session) -> None:
        session.shake_hands()
        session.serve(until=spec.Basic.Consume)
        session.send(
            method(1, spec.Basic.Return, "Bsss", (312, FORGED, "e", "k\x1b"))
            + frame(2, 1, pack(">HHQH", 60, 0, 3, 1 << 7) + b"\x03J-1") + frame(3, 1, b"abc")
            + method(2, spec.Channel.Close, "BsBB", (404, FORGED, 0, 0))
        )
        session.serve()

    with FakeBroker(script) as broker:
        talk = Talk(broker).connect().use()
        until(lambda: talk.consumer and talk.consumer.ended, "the channel's end")
        ((name, text),) = talk.returned
        assert name == "J-1"
        assert "gone\\n2026" in text
        assert text.isprintable()
        assert talk.consumer is not None
        assert str(talk.consumer.ended).isprintable()
        assert talk.connection.lost is None
        talk.connection.close(5)


@pytest.mark.parametrize("wrong", [
    method(1, spec.Basic.Return, "Bsss", (312, "NO_ROUTE", "", "k")) + frame(2, 1, pack(">HHQH", 60, 0, 0, 1 << 13)),
    method(1, spec.Basic.Cancel, "s", ("nobody's",)),
    method(77, spec.Channel.Close, "BsBB", (404, "what", 0, 0)),
    method(1, spec.Basic.Ack, "Lb", (2**64 - 1, True)) + method(1, spec.Basic.Nack, "Lb", (0, False)),
    method(1, spec.Queue.DeclareOk, "sll", ("q", 0, 0)),
    deliver(77, b"") + frame(2, 77, b"") + frame(3, 77, b"x"),
    frame(8, 5, b"with a payload"),
])  # fmt: skip
def test_what_is_odd_but_harmless_changes_nothing(wrong: bytes) -> None:
    with FakeBroker(lambda session: _after_consume(session, wrong)) as broker:
        talk = Talk(broker).connect().use()
        until(lambda: talk.taken, "the message behind it")
        assert talk.connection.lost is None
        talk.connection.close(5)


def _after_consume(session: Session, wrong: bytes) -> None:
    session.shake_hands()
    channel = session.serve(until=spec.Basic.Consume)
    session.send(wrong + delivery(channel, 1, b"x"))
    session.serve()


def test_sound_broker_is_taken_for_one() -> None:
    with FakeBroker(sound) as broker:
        talk = Talk(broker).connect().use()
        talk.connection.close(5)
        assert "closed by us" in str(talk.end())
