"""Random frames of a broker: whatever bytes come, the connection ends as `BusDown` or `BusRefused`, and soon.

Must run patched by gevent.
"""

from __future__ import annotations

import random
import socket
from typing import Any

import gevent

from tests.chaos.fakebroker import FakeBroker
from tests.chaos.fuzz import CASE_S
from vigiloconn.bus.confirms import ConfirmChannel
from vigiloconn.bus.connection import BusConnection
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.ipv6 import Endpoint
from vigiloconn.options import parse_settings

_PUBLISHES = 4
#: Each closed connection keeps its pair of ports for a minute, and there are some 28,000 of one listener.
_CONNECTIONS_PER_PORT = 5000

_settings = parse_settings("[bus]\nconnect_timeout = 2\nheartbeat = 60\n").bus


class _Door:
    """A listener of the loopback, a new one now and then."""

    def __init__(self) -> None:
        self._left = 0
        self._listener = socket.socket()

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the client's and the broker's end of a connection."""
        if not self._left:
            self._listener.close()
            self._listener = socket.create_server(("127.0.0.1", 0))
            self._left = _CONNECTIONS_PER_PORT
        self._left -= 1
        ours = socket.create_connection(self._listener.getsockname())
        theirs, _ = self._listener.accept()
        return ours, theirs


_door = _Door()


def case(chance: random.Random) -> int:
    """Try one connection; return how many frames the broker has sent."""
    ours, theirs = _door.pair()
    broker = FakeBroker(theirs, chance, _PUBLISHES)
    talking = gevent.spawn(broker.talk)
    connection = BusConnection(
        Endpoint("127.0.0.1", 5672), _settings, dial=lambda endpoint, timeout_s: ours, name="fuzz"
    )
    try:
        with gevent.Timeout(CASE_S, TimeoutError(f"not over after {CASE_S:g} s")):
            _use(connection, talking)
    finally:
        connection.abort("the case is over")
        talking.kill()
        ours.close()
    return broker.frames


def _use(connection: BusConnection, talking: Any) -> None:
    try:
        connection.connect()
    except (BusDown, BusRefused):
        return
    reading = gevent.spawn(_read, connection)
    try:
        _publish(connection)
    except (BusDown, BusRefused):
        pass  # said before the connection's end, which is what counts
    subscriber = QueueSubscriber("q")
    subscriber.connection_initialized(connection)
    subscriber.resume_producing()
    consuming = gevent.spawn(_consume, subscriber)
    # Its life begins with taking back an earlier stop.
    gevent.sleep(0)
    talking.join()
    reading.join()
    subscriber.connection_lost()
    subscriber.stop()
    consuming.join()
    for error in (reading.value, consuming.value):
        if not isinstance(error, (BusDown, BusRefused, type(None))):
            raise error


def _read(connection: BusConnection) -> Exception:
    try:
        connection.read()
    except Exception as exc:  # noqa: BLE001 - which one is the question
        return exc
    return AssertionError("reading has ended without an error")


def _consume(subscriber: QueueSubscriber) -> Exception | None:
    try:
        subscriber.run()
    except Exception as exc:  # noqa: BLE001 - as above
        return exc
    return None


def _publish(connection: BusConnection) -> None:
    channel: ConfirmChannel[int] = ConfirmChannel(
        connection, on_settled=lambda *_: None, on_returned=lambda *_: None, on_closed=lambda *_: None
    )
    frames = PublishFrames(channel.id, "x", "y", frame_max=max(4096, connection.frame_max))
    channel.send(b"".join(frames.render(b"{}", b"j-%d" % n) for n in range(_PUBLISHES)), range(_PUBLISHES))
