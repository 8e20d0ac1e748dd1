"""A broker that says what a test wants it to: a legal handshake up to some stage, then any bytes at all.

It runs on greenlets of the test's own process, on a port of the loopback address. Knows AMQP's frames and methods,
nothing of queues: it confirms what is published, and answers calls with what is usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from struct import pack, unpack
from typing import Any

import gevent
from amqp import spec
from amqp.serialization import dumps, loads
from gevent import socket
from gevent.server import StreamServer

from vigiloconn.ipv6 import Endpoint

Sig = tuple[int, int]

PROPERTIES = {"product": "fake", "capabilities": {"publisher_confirms": True, "connection.blocked": True}}
#: Synchronous methods -> their usual answers.
ANSWERS: dict[Sig, tuple[Sig, str, tuple[Any, ...]]] = {
    spec.Channel.Open: (spec.Channel.OpenOk, "S", ("",)),
    spec.Channel.Close: (spec.Channel.CloseOk, "", ()),
    spec.Confirm.Select: (spec.Confirm.SelectOk, "", ()),
    spec.Queue.Declare: (spec.Queue.DeclareOk, "sll", ("q", 0, 0)),
    spec.Queue.Bind: (spec.Queue.BindOk, "", ()),
    spec.Exchange.Declare: (spec.Exchange.DeclareOk, "", ()),
    spec.Basic.Qos: (spec.Basic.QosOk, "", ()),
    spec.Basic.Consume: (spec.Basic.ConsumeOk, "s", ("tag",)),
    spec.Connection.Close: (spec.Connection.CloseOk, "", ()),
}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame (AMQP 0-9-1, section 2.3.5)."""
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, sig: Sig, fmt: str = "", values: tuple[Any, ...] = ()) -> bytes:
    """Return a method's frame."""
    return frame(1, channel, pack(">HH", *sig) + (dumps(fmt, values) if fmt else b""))


def start(properties: Mapping[str, Any] | bytes = PROPERTIES, mechanisms: bytes = b"PLAIN AMQPLAIN") -> bytes:
    """Return a `connection.start`; `properties` may be the bytes of a table, its length included."""
    table = properties if isinstance(properties, bytes) else dumps("F", (dict(properties),))
    names = pack(">I", len(mechanisms)) + mechanisms
    return frame(1, 0, pack(">HHBB", *spec.Connection.Start, 0, 9) + table + names + dumps("S", ("en_US",)))


def tune(channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 60) -> bytes:
    """Return a `connection.tune`."""
    return method(0, spec.Connection.Tune, "BlB", (channel_max, frame_max, heartbeat))


def delivery(
    channel: int, tag: int, body: bytes, *, consumer: str = "tag", size: int | None = None, chunk: int = 131064
) -> bytes:
    """Return the frames of a `basic.deliver` with its content; `size` is what the header says where it lies."""
    head = method(channel, spec.Basic.Deliver, "sLbss", (consumer, tag, False, "", "q"))
    header = frame(2, channel, pack(">HHQH", 60, 0, len(body) if size is None else size, 0))
    pieces = [frame(3, channel, body[at : at + chunk]) for at in range(0, len(body), chunk)]
    return b"".join([head, header, *pieces])


class Session:
    """One client's connection, as the script sees it."""

    def __init__(self, sock: Any, broker: FakeBroker) -> None:
        self.sock = sock
        self.broker = broker
        self.published = 0
        self._unread = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def shake_hands(self, upto: str = "open", **tuned: int) -> None:
        """Do the legal handshake up to and with the broker's answer at stage `header`, `start`, `tune` or `open`."""
        assert self._read(8) == b"AMQP\x00\x00\x09\x01"
        if upto == "header":
            return
        self.send(start())
        self.read_method()
        if upto == "start":
            return
        self.send(tune(**tuned))
        self.broker.agreed = tuple(loads("BlB", self.read_method()[2], 4)[0])
        self.read_method()
        if upto == "tune":
            return
        self.send(method(0, spec.Connection.OpenOk, "s", ("",)))

    def serve(self, until: Sig | None = None) -> int:
        """Answer calls as usual and confirm what is published, until the method `until` was answered.

        Returns its channel; 0 at the end of the stream.
        """
        publishing = 0
        while True:
            try:
                kind, channel, payload = self.read_frame()
            except EOFError:
                return 0
            if kind == 1:
                sig: Sig = unpack(">HH", payload[:4])
                publishing = channel if sig == spec.Basic.Publish else 0
                if sig in ANSWERS:
                    self.send(method(channel, *ANSWERS[sig]))
                if sig == until:
                    return channel
            elif kind == 3 and publishing:
                self.published += 1
                self.broker.bodies.append(payload)
                if self.broker.is_confirming:
                    self.send(method(channel, spec.Basic.Ack, "Lb", (self.published, False)))

    def read_frame(self) -> tuple[int, int, bytes]:
        """Return the client's next frame. Raises `EOFError` when it has hung up."""
        kind, channel, size = unpack(">BHI", self._read(7))
        payload = self._read(size + 1)
        assert payload[-1] == 0xCE
        return kind, channel, payload[:-1]

    def read_method(self) -> tuple[int, Sig, bytes]:
        """Return the client's next method: channel, signature, payload."""
        while True:
            kind, channel, payload = self.read_frame()
            if kind == 1:
                return channel, unpack(">HH", payload[:4]), payload

    def wait_gone(self) -> None:
        """Read until the client hangs up."""
        try:
            while self.sock.recv(65536):
                pass
        except OSError:
            pass

    def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._unread += data
        data, self._unread = self._unread[:size], self._unread[size:]
        return data


def sound(session: Session) -> None:
    """The script of a broker that works."""
    session.shake_hands()
    session.serve()


class FakeBroker:
    """Runs `script(session)` for each client that connects; a script that returns hangs up. A context manager."""

    def __init__(self, script: Callable[[Session], None] = sound) -> None:
        self.script = script
        self.sessions: list[Session] = []
        self.bodies: list[bytes] = []
        self.agreed: tuple[int, ...] = ()
        """channel_max, frame_max and heartbeat, as the latest client has answered."""
        self.is_confirming = True
        self._server = StreamServer(("127.0.0.1", 0), self._serve)

    def __enter__(self) -> FakeBroker:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for session in self.sessions:
            session.sock.close()
        self._server.stop(timeout=1)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self._server.server_port)

    @property
    def address(self) -> str:
        return str(self.endpoint)

    def _serve(self, sock: Any, _: Any) -> None:
        session = Session(sock, self)
        self.sessions.append(session)
        try:
            self.script(session)
        except (EOFError, OSError):
            # The client has gone, as most of these tests want it to.
            pass


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a listener whose backlog is full: to a client it looks like a host that drops every packet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Return once `condition()` is true, while other greenlets run. Raises `AssertionError` naming `what`."""
    with gevent.Timeout(timeout_s, AssertionError(f"{what}: not within {timeout_s:g} s")):
        while not condition():
            gevent.sleep(0.002)
