"""Several messages at a time: order within a key, acknowledgements, what comes again, what takes too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.support.bus import connect
from tests.support.rabbit import RabbitNode
from tests.test_message_policy import Bus, Recorder, reason, wait_for
from vigiloconn.connectors.parts import add_consumer
from vigiloconn.consuming.lanes import Lanes
from vigiloconn.errors import NotNow, Retry, RetryLater, SettingsError
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.handlers.nagios import NagiosCommandHandler
from vigiloconn.nagios.pipe import CommandPipe
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor
from vigiloconn.testing import run_connector


class Gated(Recorder):
    """Holds each message with a `gate` until it is opened, and orders them by `k`."""

    workers = 4
    retry_first_delay_s = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, Event] = {}
        self.begun: list[Any] = []

    def order_key(self, message: dict[str, Any]) -> Any:
        return message.get("k")

    def gate(self, name: str) -> Event:
        return self.gates.setdefault(name, Event())

    def process_message(self, message: dict[str, Any]) -> None:
        self.begun.append(message["n"])
        if "gate" in message:
            self.gate(message["gate"]).wait()
        super().process_message(message)


@pytest.fixture
def bus() -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(handler: Recorder, **options: Any) -> Bus:
        made.append(Bus(handler, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_slow_message_keeps_back_its_own_key_alone_and_no_acknowledgement_of_others(bus: Callable[..., Bus]) -> None:
    handler = Gated()
    made = bus(handler)
    made.deliver({"n": 1, "k": "a", "gate": "a"}, {"n": 2, "k": "a"}, *({"n": n, "k": "b"} for n in range(3, 300)))
    wait_for(lambda: made.channel.unsettled == [1, 2])
    assert handler.done == list(range(3, 300))
    handler.gate("a").set()
    made.wait_settled()
    assert handler.done[-2:] == [1, 2]


def test_no_more_messages_are_worked_at_a_time_than_there_are_workers(bus: Callable[..., Bus]) -> None:
    handler = Gated()
    made = bus(handler)
    made.deliver(*({"n": n, "gate": "all"} for n in range(10)))
    wait_for(lambda: len(handler.begun) == 4)
    gevent.sleep(0)
    assert handler.begun == [0, 1, 2, 3]
    handler.gate("all").set()
    made.wait_settled()


def test_one_that_fails_keeps_its_key_and_no_worker_while_it_waits(bus: Callable[..., Bus]) -> None:
    handler = Gated()
    made = bus(handler, retry_first_delay_s=0.2)
    failing = [{"n": n, "k": n, "do": "fail", "times": 1} for n in range(8)]
    made.deliver(*failing, *({"n": n + 10, "k": n} for n in range(8)), {"n": 100})
    wait_for(lambda: 100 in handler.done)
    assert handler.done == [100]
    made.wait_settled()
    for n in range(8):
        assert handler.done.index(n) < handler.done.index(n + 10)


def test_one_that_is_tried_later_lets_its_key_go_on(bus: Callable[..., Bus]) -> None:
    class Later(Gated):
        def process_message(self, message: dict[str, Any]) -> None:
            self.begun.append(message["n"])
            if self.begun.count(1) == 1 and message["n"] == 1:
                raise RetryLater("not yet", after_s=0.1)
            self.done.append(message["n"])

    made = bus(Later())
    made.deliver({"n": 1, "k": "a"}, {"n": 2, "k": "a"}, {"n": 3, "k": "a"})
    made.wait_settled()
    assert made.handler.done == [2, 3, 1]


def test_what_fails_for_good_is_a_dead_letter_and_holds_up_no_other_key(bus: Callable[..., Bus]) -> None:
    made = bus(Gated(), max_redeliveries=1)
    made.deliver({"n": 1, "k": "a", "do": "fail"}, {"n": 2, "k": "b"}, b"no JSON", {"messages": [{"n": 3}, {"n": 4}]})
    first, second = made.wait_letter(1), made.wait_letter(2)
    wait_for(lambda: made.channel.unsettled == [1, 3])
    reasons = {reason(first), reason(second)}
    assert any(each.startswith("RuntimeError: at 1") for each in reasons)
    assert any("expected a JSON object" in each for each in reasons)
    first.result.set(None)
    second.result.set(None)
    made.wait_settled()
    assert sorted(made.handler.done) == [2, 3, 4]
    assert made.handler.stats()["dead_lettered"] == 2


def test_the_messages_of_one_body_are_worked_side_by_side_and_it_is_acknowledged_after_the_last(
    bus: Callable[..., Bus]
) -> None:
    handler = Gated()
    made = bus(handler)
    made.deliver({"messages": [{"n": 1, "k": "a", "gate": "a"}, {"n": 2, "k": "a"}, {"n": 3, "k": "b"}]}, {"n": 4})
    wait_for(lambda: made.channel.unsettled == [1] and handler.done == [3, 4])
    handler.gate("a").set()
    made.wait_settled()
    assert handler.done == [3, 4, 1, 2]


def test_what_was_done_is_not_done_again_when_it_comes_again_even_if_it_was_in_work(bus: Callable[..., Bus]) -> None:
    handler = Gated()
    made = bus(handler)

    def deliver(redelivered: bool) -> None:
        channel = made.channel
        for number, more in ((1, b', "gate": "a"'), (2, b""), (3, b"")):
            body = b'{"n": %d, "k": "%s"%s}' % (number, b"b" if number == 3 else b"a", more)
            channel.deliver(body, message_id=f"m-{number}", redelivered=redelivered)

    deliver(False)
    wait_for(lambda: handler.done == [3])
    made.client.lose()
    made.connect()
    deliver(True)
    wait_for(lambda: made.channel.unsettled == [1, 2])
    handler.gate("a").set()
    made.wait_settled()
    assert handler.done == [3, 1, 2]
    assert handler.begun.count(1) == 1


def test_equal_messages_without_an_id_are_never_taken_for_one_another(bus: Callable[..., Bus]) -> None:
    made = bus(Gated())
    made.deliver({"n": 1}, {"n": 1})
    made.wait_settled()
    made.client.lose()
    made.connect()
    made.deliver({"n": 1}, redelivered=True)
    made.wait_settled()
    assert made.handler.done == [1, 1, 1]


def test_not_now_stops_all_of_it_and_the_order_holds_when_it_goes_on(bus: Callable[..., Bus]) -> None:
    class Away(Gated):
        is_away = True

        def process_message(self, message: dict[str, Any]) -> None:
            if self.is_away:
                raise NotNow("away", after_s=0.01)
            self.done.append(message["n"])

    handler = Away()
    made = bus(handler)
    channel = made.channel
    messages = [{"n": n, "k": "a"} for n in range(20)]
    made.deliver(*messages)
    wait_for(lambda: not channel.is_open)
    assert len(channel.unsettled) == 20
    handler.is_away = False
    wait_for(lambda: made._consuming())
    made.deliver(*messages, redelivered=True)
    made.wait_settled()
    assert handler.done == list(range(20))


def test_a_message_that_takes_too_long_has_failed(bus: Callable[..., Bus]) -> None:
    made = bus(Gated(), time_limit_s=0.05, max_redeliveries=0)
    made.deliver({"n": 1, "gate": "never"}, {"n": 2})
    letter = made.wait_letter(1)
    assert reason(letter) == "TookTooLong: not done within 0.05 s"
    letter.result.set(None)
    made.wait_settled()


def test_at_a_stop_what_is_in_work_is_done_and_the_rest_given_back(bus: Callable[..., Bus]) -> None:
    handler = Gated()
    made = bus(handler)
    channel = made.channel
    made.deliver(*({"n": n, "gate": "all"} for n in range(6)))
    wait_for(lambda: len(handler.begun) == 4)
    made.supervisor.stop()
    gevent.sleep(0)
    handler.gate("all").set()
    wait_for(lambda: not channel.is_open)
    assert sorted(handler.done) == [0, 1, 2, 3]
    assert channel.unsettled == [5, 6]


def test_a_key_that_can_not_be_told_is_a_dead_letter(bus: Callable[..., Bus]) -> None:
    class Keyed(Gated):
        def order_key(self, message: dict[str, Any]) -> Any:
            return message["host"]

    made = bus(Keyed())
    made.deliver({"n": 1}, {"n": 2, "host": "a"})
    letter = made.wait_letter(1)
    assert reason(letter).startswith("order_key: KeyError")
    letter.result.set(None)
    made.wait_settled()


def test_nothing_of_a_message_goes_raw_into_a_reason(bus: Callable[..., Bus]) -> None:
    class Echoing(Gated):
        def order_key(self, message: dict[str, Any]) -> Any:
            if "k" in message:
                raise ValueError(message["k"])

        def process_message(self, message: dict[str, Any]) -> None:
            raise RuntimeError(message["text"])

    made = bus(Echoing(), max_redeliveries=0)
    made.deliver({"n": 1, "text": "\nforged \x1b[2J"}, {"n": 2, "k": "\nforged \x1b[2J"})
    for number in (1, 2):
        letter = made.wait_letter(number)
        assert reason(letter).isprintable()
        letter.result.set(None)
    made.wait_settled()


def test_several_workers_are_refused_where_there_is_one_order_only() -> None:
    class Batched(MessageHandler):
        def process_messages(self, batch: list[dict[str, Any]]) -> None:
            pass

    with pytest.raises(SettingsError, match=r"\[bus\] workers: expected at most 1 for nagios commands, got 2"):
        NagiosCommandHandler(CommandPipe("/nowhere"), ["X"]).subscribe("q", workers=2)
    with pytest.raises(SettingsError, match="which takes batches"):
        Batched().subscribe("q", workers=2)


class Slow(Gated):
    workers = 8

    def process_message(self, message: dict[str, Any]) -> None:
        gevent.sleep(0.002)
        self.done.append((message["k"], message["n"]))


def build_slow(settings: Settings, supervisor: Supervisor) -> None:
    add_consumer(settings, supervisor, Slow())


def test_on_a_real_broker_nothing_is_lost_or_done_twice_and_each_key_keeps_its_order_when_connections_are_cut(
    rabbit: RabbitNode, vhost: str
) -> None:
    account = f"hosts = {rabbit.address}\nuser = {rabbit.user}\npassword = {rabbit.password}\nvhost = {vhost}\n"
    with connect(rabbit, vhost) as broker:
        broker.declare_queue("q")
        for number in range(2000):
            broker.publish("", "q", {"n": number, "k": number % 20}, message_id=f"m-{number}", confirm=number == 1999)
        settings = f"[bus]\n{account}queue = q\nmax_reconnect_delay = 1\n"
        with run_connector(build_slow, settings, on_memory=False) as made:
            done = made.handler(Slow).done
            for share in (300, 900):
                made.wait(lambda share=share: len(done) > share, timeout_s=60)
                made.handler(Slow).client.connection.abort("cut by the test")
            made.wait(lambda: len(done) >= 2000 and made.handler(Slow).stats()["ready"] == 0, timeout_s=60)
        assert broker.queue_depth("q") == 0
    assert sorted(n for _, n in done) == list(range(2000))
    for key in range(20):
        numbers = [n for k, n in done if k == key]
        assert numbers == sorted(numbers)


class One:
    def __init__(self, name: str, key: Any = None) -> None:
        self.name = name
        self.key = key


def test_lanes_forget_what_is_dropped_and_let_what_is_behind_it_go() -> None:
    now_s = [0.0]
    ready: list[int] = []
    lanes: Lanes[One] = Lanes(lambda: now_s[0], lambda: ready.append(1))
    first, second, third, alone = One("old", "a"), One("old", "a"), One("new", "a"), One("old")
    for each in (first, second, third, alone):
        lanes.add(each)
    assert lanes.take() is first
    lanes.keep(first, 1.0)
    assert (len(lanes), lanes.due_in_s()) == (4, 1.0)
    lanes.drop(lambda item: item.name == "old")
    assert lanes.take() is third
    assert lanes.take() is None
    lanes.end(third)
    assert (len(lanes), lanes.due_in_s()) == (0, None)
    assert Retry("x").after_s is None
