"""The root of a connection on scripted brokers: which one is tried, what a crash or a bad broker means. No RabbitMQ."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from amqp import spec
from gevent import socket

from tests.support.fakebroker import FakeBroker, Session, black_hole, method, until
from tests.support.journals import KEY, body
from vigiloconn.client import VigiloClient
from vigiloconn.connectors import parts
from vigiloconn.errors import LeaveBroker
from vigiloconn.interfaces import Batch
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Handler, Supervisor


class Listening(Handler):
    """Notes what the client tells it."""

    name = "listening"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.owed = 0

    def connection_initialized(self) -> None:
        self.events.append("initialized")

    def connection_lost(self) -> None:
        self.events.append("lost")

    def outstanding(self) -> int:
        return self.owed


class Rig:
    """A client under a supervisor of its own, on greenlets of the test."""

    def __init__(self, hosts: str, **bus: object) -> None:
        text = "\n".join(f"{key} = {value}" for key, value in bus.items())
        self.client = VigiloClient(
            parse_settings(f"[bus]\nhosts = {hosts}\n{text}").bus, name="client", connection_name="test"
        )
        self.handler = Listening()
        self.client.add_handler(self.handler)
        self.supervisor = Supervisor()
        self.supervisor.add(self.client)

    @property
    def connected_to(self) -> str:
        connection = self.client.connection
        return str(connection.endpoint) if connection is not None else ""


@contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    main = gevent.spawn(rig.supervisor.run)
    try:
        yield rig
    finally:
        rig.supervisor.stop()
        main.join(timeout=20)
        assert main.dead
        assert main.exception is None


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


def test_crash_in_the_middle_of_work_throws_the_connection_away_and_makes_another(broker: FakeBroker) -> None:
    with running(Rig(broker.address)) as rig:
        until(lambda: rig.connected_to, "the connection")
        first = rig.client.connection
        result = rig.client.send("", "q", b"one")
        result.get(timeout=10)
        # A helper that fails ends its owner's life wherever that is.
        rig.supervisor.spawn(_fail, name="helper", owner=rig.client)
        until(lambda: rig.client.connections == 2, "another connection")
        assert first is not None
        assert first.lost is not None
        assert rig.handler.events == ["initialized", "lost", "initialized"]
        assert rig.supervisor.crashes == 1
        rig.client.send("", "q", b"two").get(timeout=10)
    assert broker.bodies == [b"one", b"two"]


def _fail() -> None:
    raise ValueError("a bug")


def test_message_under_way_when_the_connection_is_lost_goes_again_on_the_next() -> None:
    with FakeBroker() as broker:
        broker.is_confirming = False
        with running(Rig(broker.address)) as rig:
            result = rig.client.send("", "q", b"one")
            until(lambda: broker.bodies, "the message")
            broker.is_confirming = True
            broker.sessions[0].sock.close()
            result.get(timeout=10)
    assert broker.bodies == [b"one", b"one"]


def test_first_broker_that_is_a_black_hole_costs_one_time_limit(broker: FakeBroker) -> None:
    with black_hole() as hole, running(Rig(f"{hole}, {broker.address}", connect_timeout=1)) as rig:
        tried = _attempts(rig)
        until(lambda: rig.connected_to == broker.address, "the second broker")
    assert tried == [hole, broker.address]


def _silent(session: Session) -> None:
    session.wait_gone()


def _no_login(session: Session) -> None:
    session.shake_hands("start")
    session.wait_gone()


def _attempts(rig: Rig) -> list[str]:
    """Return a list that grows with each broker that is dialled."""
    tried: list[str] = []
    dial = rig.client._dial

    def noted(endpoint: object, timeout_s: float) -> object:
        tried.append(str(endpoint))
        return dial(endpoint, timeout_s)  # type: ignore[arg-type]

    rig.client._dial = noted  # type: ignore[method-assign,assignment]
    return tried


@pytest.mark.parametrize("script", [_silent, _no_login])
def test_broker_that_does_not_answer_in_time_is_left_at_once(
    script: Callable[[Session], None], broker: FakeBroker
) -> None:
    with FakeBroker(script) as deaf, running(Rig(f"{deaf.address}, {broker.address}", connect_timeout=1)) as rig:
        until(lambda: rig.connected_to == broker.address, "the second broker")
        assert len(deaf.sessions) == 1


def test_broker_that_drops_young_connections_is_left_after_three_and_costs_the_other_one_nothing(
    broker: FakeBroker,
) -> None:
    with FakeBroker(Session.shake_hands) as fickle, running(Rig(f"{fickle.address}, {broker.address}")) as rig:
        until(lambda: rig.connected_to == broker.address, "the second broker")
        assert len(fickle.sessions) == 3


def test_broker_that_a_handler_leaves_is_not_tried_again_before_the_other(broker: FakeBroker) -> None:
    with FakeBroker() as mute, running(Rig(f"{mute.address}, {broker.address}")) as rig:
        until(lambda: rig.connected_to == mute.address, "the first broker")
        assert rig.client.connection is not None
        rig.client.connection.leave("nothing is confirmed")
        until(lambda: rig.connected_to == broker.address, "the second broker")
        assert len(mute.sessions) == 1
        assert rig.client.has_others


def test_broker_that_owes_answers_has_proved_nothing_however_long_it_lives(broker: FakeBroker) -> None:
    rig = Rig(broker.address, max_reconnect_delay=1, heartbeat=1)
    rig.handler.owed = 1
    proved: list[None] = []
    rig.client._rotation.note_success = lambda: proved.append(None)  # type: ignore[method-assign]
    ticks: list[None] = []
    rig.handler.tick = lambda: ticks.append(None)  # type: ignore[method-assign]
    with running(rig):
        until(lambda: len(ticks) > 6, "some time with an answer outstanding")
        assert not proved
        rig.handler.owed = 0
        until(lambda: proved, "some time without")


def test_broker_that_confirms_nothing_is_left_for_the_next_which_gets_all_of_it(
    broker: FakeBroker, tmp_path: Path
) -> None:
    with FakeBroker() as mute:
        mute.is_confirming = False
        settings = parse_settings(
            f"[bus]\nhosts = {mute.address}, {broker.address}\nconfirm_timeout = 1\nmax_reconnect_delay = 0.1\n"
            f"[connector]\nbackup_file = {tmp_path}/backup.sqlite\n"
        )
        supervisor = Supervisor()
        provider = parts.add_journal(settings, supervisor)
        main = gevent.spawn(supervisor.run)
        bodies = [body(number) for number in range(20)]
        provider.put(Batch([(KEY, one) for one in bodies], sum(map(len, bodies))))
        until(lambda: len(broker.bodies) == 20, "the messages on the second broker")
        assert mute.bodies == broker.bodies == bodies
        assert len(mute.sessions) == 1
        until(lambda: provider.stats()["backup"] == 0, "the journal is empty")
        supervisor.stop()
        main.join(timeout=20)
        assert main.value == 0


def test_dead_broker_costs_the_other_one_no_delay(broker: FakeBroker) -> None:
    def drops_the_first(session: Session) -> None:
        session.shake_hands()
        if len(broker.sessions) > 1:
            session.serve()

    broker.script = drops_the_first
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{dead.getsockname()[1]}"
        rig = Rig(f"{address}, {broker.address}")
        tried = _attempts(rig)
        with running(rig):
            until(lambda: rig.client.connections == 2 and rig.connected_to, "its second connection")
    assert tried == [address] * 3 + [broker.address] * 2


def _hung_up(rig: Rig, session: Session) -> None:
    session.sock.close()


def _aborted(rig: Rig, session: Session) -> None:
    assert rig.client.connection is not None
    rig.client.connection.abort("a test")


def _no_amqp(rig: Rig, session: Session) -> None:
    session.send(b"HTTP/1.1 200 OK\r\n\r\n")


def _forced(rig: Rig, session: Session) -> None:
    session.send(method(0, spec.Connection.Close, "BsBB", (320, "going down", 0, 0)))


def _refused(rig: Rig, session: Session) -> None:
    session.send(method(0, spec.Connection.Close, "BsBB", (501, "frame error", 0, 0)))


def _channel_closed(rig: Rig, session: Session) -> None:
    session.send(method(1, spec.Channel.Close, "BsBB", (404, "no such exchange", 60, 40)))
    result = rig.client.send("gone", "q", b"two")
    until(result.ready, "the answer")
    _hung_up(rig, session)


@pytest.mark.parametrize("lose", [_hung_up, _aborted, _no_amqp, _forced, _refused, _channel_closed])
def test_lost_connection_leaves_nothing_to_the_garbage_collector(
    lose: Callable[[Rig, Session], None], broker: FakeBroker
) -> None:
    gc.collect()
    gc.disable()
    try:
        with running(Rig(broker.address, max_reconnect_delay=1)) as rig:
            lost = []
            for count in (1, 2, 3):
                until(lambda count=count: rig.client.connections == count and rig.connected_to, "the connection")
                rig.client.send("", "q", b"one").get(timeout=10)
                connection = rig.client.connection
                assert connection is not None
                lost += [weakref.ref(connection), weakref.ref(connection._library)]
                del connection
                lose(rig, broker.sessions.pop())
            until(lambda: rig.client.connections == 4, "the last connection")
            until(lambda: not any(ref() for ref in lost), "the end of all that is lost")
    finally:
        gc.enable()


def test_state_names_why_the_bus_is_away(broker: FakeBroker) -> None:
    rig = Rig(broker.address)
    assert [problem.name for problem in rig.client.problems()] == ["bus-away"]
    with running(rig):
        until(lambda: rig.connected_to, "the connection")
        assert rig.client.problems() == []
        assert rig.client.stats() == {"connected": 1.0, "connections": 1}
        broker.script = _silent
        assert rig.client.connection is not None
        rig.client.connection.leave("nothing is confirmed")
        until(lambda: rig.client.connection is None, "the loss")
        (problem,) = rig.client.problems()
        assert "nothing is confirmed" in problem.text
        assert isinstance(rig.client.last_error, LeaveBroker)


def test_stop_does_not_wait_for_a_channel_that_is_never_opened(tmp_path: Path) -> None:
    asked = []

    def opens_no_channel(session: Session) -> None:
        session.shake_hands()
        asked.append(session.read_method())
        session.wait_gone()

    with FakeBroker(opens_no_channel) as mute:
        settings = parse_settings(
            f"[bus]\nhosts = {mute.address}\n[connector]\nbackup_file = {tmp_path}/backup.sqlite\n"
        )
        supervisor = Supervisor(stop_timeout_s=1000)
        provider = parts.add_journal(settings, supervisor)
        main = gevent.spawn(supervisor.run)
        provider.put(Batch([(KEY, body(1))], 10))
        until(lambda: asked, "a channel is asked for")
        supervisor.stop()
        main.join(timeout=20)
        assert main.value == 0


def test_stop_does_not_wait_for_a_broker_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    with FakeBroker(_silent) as deaf, running(Rig(deaf.address, connect_timeout=1000)):
        until(lambda: deaf.sessions, "the attempt")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
