"""Endpoints and dual-stack connecting, on loopback. Nothing is patched: greenlets run in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from vigiloconn.errors import BusDown
from vigiloconn.ipv6 import Endpoint, connect, interleave, parse_endpoint

V4, V6 = socket.AF_INET, socket.AF_INET6


# --- endpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoint", "shown"),
    [
        ("bus", ("bus", 5672), "bus:5672"),
        ("bus.example.com:5671", ("bus.example.com", 5671), "bus.example.com:5671"),
        (" 192.0.2.1:1 ", ("192.0.2.1", 1), "192.0.2.1:1"),
        ("[::1]", ("::1", 5672), "[::1]:5672"),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535), "[2001:db8::1]:65535"),
        ("[fe80::1%eth0]:5672", ("fe80::1%eth0", 5672), "[fe80::1%eth0]:5672"),
    ],
)
def test_an_endpoint_is_read_and_shown(text: str, endpoint: tuple[str, int], shown: str) -> None:
    assert parse_endpoint(text, 5672) == Endpoint(*endpoint)
    assert str(parse_endpoint(text, 5672)) == shown
    assert parse_endpoint(shown, 1) == Endpoint(*endpoint)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a host"),
        (":5672", "expected a host"),
        ("::1", "brackets"),
        ("::1:5672", "brackets"),
        ("2001:db8::1", "brackets"),
        ("bus:", "port from 1 to 65535"),
        ("bus:0", "port from 1 to 65535"),
        ("bus:65536", "port from 1 to 65535"),
        ("bus:" + "9" * 5000, "port from 1 to 65535"),
        ("bus:amqp", "port from 1 to 65535"),
        ("bus:²", "port from 1 to 65535"),
        ("bus:-1", "port from 1 to 65535"),
        ("[::1", "not closed"),
        ("[::1]5672", "after the bracket"),
        ("[::1]:", "port from 1 to 65535"),
        ("[bus]:5672", "IPv6 address in brackets"),
        ("[192.0.2.1]:5672", "IPv6 address in brackets"),
        ("amqp://bus:5672", "URL"),
        ("user@bus:5672", "host name"),
        ("two words", "host name"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_endpoint(text, 5672)


def test_families_take_turns_beginning_with_the_first_one() -> None:
    def info(family: int, name: str) -> tuple[Any, ...]:
        return family, socket.SOCK_STREAM, 6, "", (name, 1)

    a, b, c = info(V6, "a"), info(V6, "b"), info(V6, "c")
    x, y = info(V4, "x"), info(V4, "y")
    assert interleave([a, b, c, x, b, y]) == [a, x, b, y, c]
    assert interleave([x, a]) == [x, a]
    assert interleave([]) == []


def test_reading_settings_with_endpoints_needs_no_gevent() -> None:
    program = "import sys, vigiloconn.kit.endpoint; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=20).returncode == 0


# --- connecting ----------------------------------------------------------------------------------------------------


class Net:
    """Listeners, refusing ports and black holes on loopback, and a name that resolves to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._open: list[socket.socket] = []
        self.greenlets: list[gevent.Greenlet[..., Any]] = []

    def listener(self, family: int, backlog: int = 5) -> socket.socket:
        listener = self.keep(socket.socket(family, socket.SOCK_STREAM))
        listener.bind(("::1" if family == V6 else "127.0.0.1", 0))
        listener.listen(backlog)
        return listener

    def refusing(self, family: int) -> tuple[Any, ...]:
        # Bound and not listening: refuses, and nobody else gets the port meanwhile.
        holder = self.keep(socket.socket(family, socket.SOCK_STREAM))
        holder.bind(("::1" if family == V6 else "127.0.0.1", 0))
        return holder.getsockname()  # type: ignore[no-any-return]

    def black_hole(self, family: int) -> tuple[Any, ...]:
        # With a full backlog the kernel drops what asks for a connection, without a word.
        listener = self.listener(family, backlog=0)
        for _ in range(3):
            filler = self.keep(socket.socket(family, socket.SOCK_STREAM))
            filler.settimeout(0.0)
            filler.connect_ex(listener.getsockname())
        gevent.sleep(0.01)
        return listener.getsockname()  # type: ignore[no-any-return]

    def keep(self, sock: socket.socket) -> socket.socket:
        self._open.append(sock)
        return sock

    def resolve_to(self, *addresses: tuple[Any, ...]) -> None:
        infos = [(V6 if ":" in address[0] else V4, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        self._monkeypatch.setattr("gevent.socket.getaddrinfo", lambda *args, **options: infos)

    def spawn(self, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
        greenlet = gevent.spawn(function, *args)
        self.greenlets.append(greenlet)
        return greenlet

    def connect(self, timeout_s: float = 5.0, attempt_delay_s: float = 0.1) -> socket.socket:
        return self.keep(
            connect(Endpoint("bus", 5672), timeout_s, spawn=self.spawn, attempt_delay_s=attempt_delay_s)
        )

    def end(self) -> None:
        for sock in self._open:
            sock.close()
        gevent.joinall(self.greenlets, timeout=2.0)
        assert all(greenlet.dead for greenlet in self.greenlets)
        assert all(greenlet.exception is None for greenlet in self.greenlets), "an attempt must not raise"


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    before = len(os.listdir("/proc/self/fd"))
    gevent.get_hub().threadpool  # noqa: B018 - it opens descriptors of its own when it is made
    made_by_hub = len(os.listdir("/proc/self/fd")) - before
    net = Net(monkeypatch)
    yield net
    net.end()
    assert len(os.listdir("/proc/self/fd")) <= before + made_by_hub, "sockets were left open"


@pytest.mark.parametrize("family", [V4, V6])
def test_a_listener_of_either_family_is_reached(net: Net, family: int) -> None:
    listener = net.listener(family)
    host, port = listener.getsockname()[:2]
    connection = net.keep(connect(Endpoint(host, port), 5.0, spawn=net.spawn))
    assert connection.getpeername()[:2] == (host, port)
    assert connection.gettimeout() is None
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_refusing_address_costs_nothing(net: Net) -> None:
    listener = net.listener(V4)
    net.resolve_to(net.refusing(V6), listener.getsockname())
    began_s = time.monotonic()
    connection = net.connect(attempt_delay_s=3.0)
    assert connection.getpeername() == listener.getsockname()
    assert time.monotonic() - began_s < 1.0


def test_a_refusal_brings_the_next_attempt_at_once_beside_one_that_hangs(net: Net) -> None:
    listener = net.listener(V6)
    net.resolve_to(net.black_hole(V6), net.refusing(V4), listener.getsockname())
    began_s = time.monotonic()
    connection = net.connect(attempt_delay_s=0.5)
    assert connection.getpeername() == listener.getsockname()
    assert 0.45 < time.monotonic() - began_s < 0.9, "one delay and not two"


def test_a_dead_address_costs_the_attempt_delay_and_not_the_timeout(net: Net) -> None:
    listener = net.listener(V4)
    net.resolve_to(net.black_hole(V6), listener.getsockname())
    began_s = time.monotonic()
    connection = net.connect(timeout_s=5.0, attempt_delay_s=0.2)
    assert connection.getpeername() == listener.getsockname()
    assert 0.19 < time.monotonic() - began_s < 1.0


def test_the_first_address_is_not_given_up_when_the_second_is_tried(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = net.listener(V4)

    class Late(socket.socket):
        """The first one takes its time."""

        def connect(self, address: Any) -> None:
            if self.family == V4:
                gevent.sleep(0.3)
            super().connect(address)

    net.resolve_to(listener.getsockname(), net.black_hole(V6))
    monkeypatch.setattr("gevent.socket.socket", Late)
    connection = net.connect(timeout_s=5.0, attempt_delay_s=0.05)
    assert connection.getpeername() == listener.getsockname()
    assert len(net.greenlets) == 2


def test_when_all_refuse_the_error_names_endpoint_and_each_address(net: Net) -> None:
    net.resolve_to(net.refusing(V6), net.refusing(V4))
    with pytest.raises(BusDown) as caught:
        net.connect()
    assert str(caught.value) == "bus:5672: no connection: ::1: Connection refused; 127.0.0.1: Connection refused"


def test_when_nobody_answers_the_whole_is_bounded_by_the_timeout(net: Net) -> None:
    net.resolve_to(net.black_hole(V6), net.refusing(V4))
    began_s = time.monotonic()
    with pytest.raises(BusDown, match=r"::1: no answer in time; 127\.0\.0\.1: Connection refused"):
        net.connect(timeout_s=0.5, attempt_delay_s=0.1)
    assert 0.4 < time.monotonic() - began_s < 1.0


def test_other_greenlets_run_while_it_waits(net: Net) -> None:
    net.resolve_to(net.black_hole(V4))
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.01)
            ticks += 1

    ticker = gevent.spawn(tick)
    with pytest.raises(BusDown):
        net.connect(timeout_s=0.3)
    ticker.kill()
    assert ticks > 10


@pytest.mark.parametrize("when", ["before the winner is told", "after the winner is told"])
def test_what_connects_too_late_is_closed(net: Net, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    net.resolve_to(net.listener(V6).getsockname(), net.listener(V4).getsockname())
    connected: list[socket.socket] = []
    go_on = Event()

    class Slow(socket.socket):
        """The first is connected and learns of it only when the second is."""

        def connect(self, address: Any) -> None:
            super().connect(address)
            connected.append(self)
            if len(connected) == 1:
                go_on.wait()
            elif when == "before the winner is told":
                go_on.set()
            else:
                # A greenlet's start takes one turn of the loop, so that the winner's caller runs before the loser.
                gevent.spawn(go_on.set)

    monkeypatch.setattr("gevent.socket.socket", Slow)
    connection = net.connect(attempt_delay_s=0.01)
    gevent.joinall(net.greenlets, timeout=2.0)
    [late] = [sock for sock in connected if sock is not connection]
    assert connection.fileno() >= 0
    assert late.fileno() == -1


def test_a_caller_that_is_ended_leaves_nothing_behind(net: Net) -> None:
    net.resolve_to(net.black_hole(V6), net.black_hole(V4))
    caller = gevent.spawn(net.connect, 30.0, 0.01)
    deadline_s = time.monotonic() + 2.0
    while len(net.greenlets) < 2:
        assert time.monotonic() < deadline_s
        gevent.sleep(0.005)
    caller.kill()
    gevent.joinall(net.greenlets, timeout=2.0)
    assert all(greenlet.dead for greenlet in net.greenlets)


def test_a_socket_that_is_connected_to_itself_is_no_connection(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(socket.socket):
        def connect(self, address: Any) -> None:
            self.bind(address)
            super().connect(address)

    with socket.socket(V4, socket.SOCK_STREAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    net.resolve_to(address)
    monkeypatch.setattr("gevent.socket.socket", Own)
    with pytest.raises(BusDown, match="nobody listens there"):
        net.connect()


def test_a_name_that_does_not_resolve_is_named(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("gevent.socket.getaddrinfo", fail)
    with pytest.raises(BusDown, match=r"bus:5672: name can't be resolved: .*not known"):
        net.connect()


def test_a_label_that_no_resolver_takes_is_named(net: Net) -> None:
    with pytest.raises(BusDown, match="name can't be resolved"):
        connect(Endpoint("é" * 100, 5672), 5.0, spawn=net.spawn)


def test_a_resolver_that_hangs_is_bounded_by_the_timeout(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gevent.socket.getaddrinfo", lambda *args, **options: gevent.sleep(30))
    began_s = time.monotonic()
    with pytest.raises(BusDown, match=r"no answer within 0\.3 s"):
        net.connect(timeout_s=0.3)
    assert time.monotonic() - began_s < 1.0
