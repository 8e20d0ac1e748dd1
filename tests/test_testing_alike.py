"""One suite for the bus of `vigiloconn.testing` and a real RabbitMQ: what holds on one has to hold on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import amqp
import pytest
from gevent.event import Event

from tests.support.bus import Bus
from tests.support.proxy import TcpProxy
from tests.support.rabbit import RabbitNode
from vigiloconn.connectors.parts import add_consumer, add_publisher
from vigiloconn.errors import BadMessage, NotNow
from vigiloconn.handlers.message import Envelope, MessageHandler
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor
from vigiloconn.testing import MemoryBus, Running, run_connector

_KEYS = "queue = in\nretry_max_delay = 0.1\n"
Build = Callable[[Settings, Supervisor], None]


class Side(Protocol):
    """A bus with the queue `in`, an exchange `out` with the queue `copies`, and one with no queue, `nowhere`."""

    def run(self, build: Build, max_redeliveries: int = 1000) -> AbstractContextManager[Running]: ...
    def publish(self, message: dict[str, Any], **properties: Any) -> None: ...
    def depth(self, queue: str) -> int: ...
    def take(self, queue: str, count: int) -> list[tuple[Any, dict[str, Any]]]: ...
    def refuse(self) -> None: ...
    def accept(self) -> None: ...
    def lose(self) -> None: ...


class OnMemory:
    def __init__(self) -> None:
        self._bus = MemoryBus()
        self._bus.declare_queue("in")
        self._bus.declare_queue("copies", self._bus.declare_exchange("out"))
        self._bus.declare_exchange("nowhere")

    def run(self, build: Build, max_redeliveries: int = 1000) -> AbstractContextManager[Running]:
        return run_connector(build, f"[bus]\n{_KEYS}max_redeliveries = {max_redeliveries}\n", bus=self._bus)

    def publish(self, message: dict[str, Any], **properties: Any) -> None:
        self._bus.publish("", "in", message, **properties)

    def depth(self, queue: str) -> int:
        return self._bus.depth(queue)

    def take(self, queue: str, count: int) -> list[tuple[Any, dict[str, Any]]]:
        return [(each.json(), dict(each.headers)) for each in self._bus.drain(queue, count)]

    def refuse(self) -> None:
        self._bus.refused.add("out")

    def accept(self) -> None:
        self._bus.refused.discard("out")

    def lose(self) -> None:
        self._bus.lose()


class OnRabbit:
    def __init__(self, node: RabbitNode, vhost: str, bus: Bus, proxy: TcpProxy) -> None:
        self._bus = bus
        self._proxy = proxy
        self._account = f"hosts = {proxy.address}\nuser = {node.user}\npassword = {node.password}\nvhost = {vhost}\n"
        bus.declare_queue("in")
        bus.declare_queue("copies", bus.declare_exchange("out"))
        bus.declare_queue("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
        bus.declare_exchange("nowhere")

    def run(self, build: Build, max_redeliveries: int = 1000) -> AbstractContextManager[Running]:
        keys = f"{self._account}{_KEYS}max_redeliveries = {max_redeliveries}\n"
        return run_connector(build, f"[bus]\n{keys}", on_memory=False)

    def publish(self, message: dict[str, Any], **properties: Any) -> None:
        self._bus.publish("", "in", message, **properties)

    def depth(self, queue: str) -> int:
        try:
            return self._bus.queue_depth(queue)
        except amqp.NotFound:
            return 0

    def take(self, queue: str, count: int) -> list[tuple[Any, dict[str, Any]]]:
        taken = self._bus.drain(queue, count)
        return [(each.json(), each.properties.get("application_headers") or {}) for each in taken]

    def refuse(self) -> None:
        self._bus.unbind("copies", "out")
        self._bus.bind("full", "out")

    def accept(self) -> None:
        self._bus.unbind("full", "out")
        self._bus.bind("copies", "out")

    def lose(self) -> None:
        self._proxy.cut()


@pytest.fixture(params=["memory", "rabbit"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "memory":
        yield OnMemory()
    else:
        node, vhost, bus, proxy = (request.getfixturevalue(name) for name in ("rabbit", "vhost", "bus", "proxy"))
        yield OnRabbit(node, vhost, bus, proxy)


class Copier(MessageHandler):
    """Sends what comes on, `to` an exchange, and notes it when the bus has it."""

    name = "copier"

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher
        self.begun: list[tuple[int, bool]] = []
        self.done: list[int] = []
        self.gate = Event()
        self.gate.set()
        self.not_now = 0

    def process_message(self, message: dict[str, Any], envelope: Envelope) -> None:
        self.begun.append((message["n"], envelope.redelivered))
        self.gate.wait()
        if message.get("to") == "dead":
            raise BadMessage("told so")
        if self.not_now:
            self.not_now -= 1
            raise NotNow("told so", after_s=0.01)
        self._publisher.send(message.get("to", "out"), "key", message, mandatory=True).get()
        self.done.append(message["n"])


def build(settings: Settings, supervisor: Supervisor) -> None:
    publisher = add_publisher(settings, supervisor)
    add_consumer(settings, supervisor, Copier(publisher), publisher)


def test_what_is_confirmed_is_acknowledged_and_the_order_is_kept(side: Side) -> None:
    with side.run(build) as running:
        for number in range(50):
            side.publish({"n": number})
        running.wait(lambda: len(running.handler(Copier).done) == 50)
    assert running.exit_status == 0
    assert [message["n"] for message, _ in side.take("copies", 50)] == list(range(50))
    assert (side.depth("in"), side.depth("copies")) == (0, 0)


def test_a_nacked_message_is_tried_until_it_is_taken_and_nothing_overtakes_it(side: Side) -> None:
    side.refuse()
    with side.run(build) as running:
        copier = running.handler(Copier)
        for number in range(3):
            side.publish({"n": number})
        running.wait(lambda: copier.failed > 0)
        assert (copier.done, side.depth("copies")) == ([], 0)
        side.accept()
        running.wait(lambda: len(copier.done) == 3)
    assert copier.done == [0, 1, 2]
    assert (side.depth("in"), side.depth("in.dead")) == (0, 0)


def test_a_returned_message_fails_with_the_reason_of_the_bus(side: Side) -> None:
    with side.run(build, max_redeliveries=1) as running:
        side.publish({"n": 1, "to": "nowhere"})
        running.wait(lambda: running.handler(Copier).stats()["acknowledged"] == 1)
        assert running.handler(Copier).done == []
    assert side.depth("in") == 0
    [(_, headers)] = side.take("in.dead", 1)
    assert headers["x-vigilo-error"] == "BusRefused"
    assert "NO_ROUTE" in headers["x-vigilo-reason"]


def test_what_is_not_done_at_the_stop_is_redelivered_to_the_next(side: Side) -> None:
    side.refuse()
    with side.run(build) as first:
        side.publish({"n": 1})
        first.wait(lambda: first.handler(Copier).failed > 0)
    assert (first.exit_status, side.depth("in")) == (0, 1)
    side.accept()
    with side.run(build) as second:
        second.wait(lambda: second.handler(Copier).done)
        assert second.handler(Copier).begun == [(1, True)]
    assert (side.depth("in"), side.depth("copies")) == (0, 1)


def test_what_is_given_back_for_a_pause_comes_again_in_order(side: Side) -> None:
    for number in range(5):
        side.publish({"n": number})
    with side.run(build) as running:
        copier = running.handler(Copier)
        copier.not_now = 1
        running.wait(lambda: len(copier.done) == 5)
        assert copier.begun == [(0, False), *((number, True) for number in range(5))]
    assert (copier.done, side.depth("in"), side.depth("copies")) == ([0, 1, 2, 3, 4], 0, 5)


def test_a_loss_of_the_connection_loses_nothing(side: Side) -> None:
    with side.run(build) as running:
        copier = running.handler(Copier)
        copier.gate.clear()
        for number in range(5):
            side.publish({"n": number})
        running.wait(lambda: copier.begun)
        side.lose()
        copier.gate.set()
        running.wait(lambda: set(copier.done) == set(range(5)) and side.depth("in") == 0, timeout_s=20)
    assert side.depth("in") == 0
    copies = [message["n"] for message, _ in side.take("copies", side.depth("copies"))]
    assert list(dict.fromkeys(copies)) == list(range(5))


def test_a_dead_letter_has_reason_and_headers_and_what_is_behind_it_is_done(side: Side) -> None:
    with side.run(build) as running:
        side.publish({"n": 1, "to": "dead"}, application_headers={"mine": 7})
        side.publish({"n": 2})
        running.wait(lambda: running.handler(Copier).done == [2])
    assert (side.depth("in"), side.depth("copies")) == (0, 1)
    [(message, headers)] = side.take("in.dead", 1)
    assert (message["n"], headers["x-vigilo-reason"], headers["mine"]) == (1, "BadMessage: told so", 7)
