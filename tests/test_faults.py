"""The main direction while the bus or the connector fails: nothing lost, order kept, back after the cure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.bus import connect
from tests.support.connector import ConnectorProcess
from tests.support.flow import Flood, collect, lines, numbers
from tests.support.proxy import TcpProxy
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

FAST = {"heartbeat": 2, "max_reconnect_delay": 1}


def declare(node: RabbitNode, queue: str = "q", exchange: str = "event") -> None:
    with connect(node) as bus:
        bus.declare_exchange(exchange)
        bus.declare_queue(queue, exchange)


@contextmanager
def running(node: RabbitNode | TcpProxy, directory: Path, **options: object) -> Iterator[ConnectorProcess]:
    bus = {"hosts": node.address, **FAST, **(options.pop("bus", None) or {})}  # type: ignore[dict-item]
    with ConnectorProcess(directory, bus=bus, **options) as connector:  # type: ignore[arg-type]
        yield connector


def assert_all_came(node: RabbitNode, count: int, queue: str = "q") -> None:
    with connect(node) as bus:
        messages = collect(bus, queue, count)
    assert numbers(messages) == {"w": list(range(count))}


def stop_in_order(node: RabbitNode) -> None:
    node.stop()


def kill_it(node: RabbitNode) -> None:
    node.kill()


def close_everything(node: RabbitNode) -> None:
    node.close_all_connections()


def close_and_refuse(node: RabbitNode) -> None:
    node.suspend_listeners()
    node.close_all_connections()


def raise_alarm(node: RabbitNode) -> None:
    node.memory_alarm(True)


def end_alarm(node: RabbitNode) -> None:
    node.memory_alarm(False)


def nothing(node: RabbitNode) -> None:
    pass


Act = Callable[[RabbitNode], None]


FAULTS: dict[str, tuple[Act, str, Act]] = {
    "stopped in order": (stop_in_order, "bus lost", RabbitNode.start),
    "killed": (kill_it, "bus lost", RabbitNode.start),
    "paused for longer than two heartbeats": (RabbitNode.pause, "nothing heard", RabbitNode.resume),
    "under a memory alarm": (raise_alarm, "takes no messages", end_alarm),
    "closing all connections": (close_everything, "bus lost", nothing),
    "refusing new connections": (close_and_refuse, "bus lost", RabbitNode.resume_listeners),
}


@pytest.mark.parametrize(
    ("fault", "durability"),
    # For the other durability a lost connection is one like any other.
    [*((fault, "journal") for fault in FAULTS), ("killed", "overflow"), ("under a memory alarm", "overflow")],
)
def test_broker_that_is_hurt_under_load_loses_nothing_and_gets_the_rest_after_its_cure(
    fault: str, durability: str, spare_node: RabbitNode, tmp_path: Path
) -> None:
    hurt, sign, cure = FAULTS[fault]
    declare(spare_node)
    with (
        running(spare_node, tmp_path, connector={"durability": durability}) as connector,
        Flood(connector.socket_path) as flood,
    ):
        wait_until(lambda: flood.synced >= 200, 20, "lines are accepted")
        hurt(spare_node)
        connector.wait_log(sign, 30)
        accepted = flood.synced
        wait_until(lambda: flood.synced > accepted, 20, "lines are accepted without the bus")
        cure(spare_node)
        accepted = flood.synced
        wait_until(lambda: flood.synced > accepted + 200, 20, "lines are accepted after the cure")
        assert_all_came(spare_node, flood.finish())


@pytest.mark.parametrize("how", ["paused", "alarm"])
def test_connector_is_idle_while_the_broker_takes_nothing(how: str, spare_node: RabbitNode, tmp_path: Path) -> None:
    declare(spare_node)
    with connect(spare_node) as bus:
        # One exchange that is held, with a trial due, and one with an incomplete batch: both have deadlines.
        bus.declare_exchange("perf")
    with running(
        spare_node, tmp_path, bus={"batch_send_perf": 100, "batch_linger_ms": 50, "heartbeat": 20},
        publications={"state": "missing"},
    ) as connector:
        connector.send("state|1|h|1.2.3.4||0|HARD|1|held")
        connector.sync()
        connector.wait_log("exchange missing: held")
        if how == "paused":
            spare_node.pause()
        else:
            spare_node.memory_alarm(True)
        connector.send([*lines(0, 10), "perf|1|h|d|1"])
        connector.sync()
        if how == "alarm":
            connector.wait_log("takes no messages")
        before_s = connector.cpu_s()
        # What is measured is the work of a span of time: there is no condition to wait for.
        time.sleep(2.0)
        used_s = connector.cpu_s() - before_s
        spare_node.resume()
        assert used_s < 0.3


def test_kill_at_any_moment_loses_nothing_that_was_synced(spare_node: RabbitNode, tmp_path: Path) -> None:
    declare(spare_node)
    sent = 0
    with running(spare_node, tmp_path) as connector:
        for round_number in range(5):
            with connector.writer() as writer:
                writer.send(lines(sent, sent + 700))
                writer.sync()
                sent += 700
                # In the middle of publishing what was synced and of accepting what was not.
                writer.send(lines(10**6 * (round_number + 1), 10**6 * (round_number + 1) + 500))
                connector.kill()
            connector.start()
        with connect(spare_node) as bus:
            found: list[int] = []
            messages = []
            deadline = time.monotonic() + 60
            while len([n for n in found if n < 10**6]) < sent and time.monotonic() < deadline:
                messages += bus.drain_all("q")
                found = numbers(messages).get("w", [])
                time.sleep(0.05)
    assert [number for number in found if number < 10**6] == list(range(sent))


@pytest.mark.parametrize("broker", ["there", "away"])
def test_overflow_keeps_what_was_synced_over_a_kill_and_the_rest_over_a_stop(
    broker: str, spare_node: RabbitNode, tmp_path: Path
) -> None:
    declare(spare_node)
    with running(spare_node, tmp_path, connector={"durability": "overflow"}) as connector:
        if broker == "away":
            spare_node.pause()
        connector.send(lines(0, 1000))
        connector.sync()
        connector.kill()
        connector.start()
        connector.send(lines(1000, 2000))
        assert connector.terminate() == 0
        spare_node.resume()
        connector.start()
        assert_all_came(spare_node, 2000)


def test_stop_in_a_backlog_with_a_paused_broker_loses_nothing_and_ends_in_time(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    declare(spare_node)
    spare_node.pause()
    with running(spare_node, tmp_path, connector={"stop_timeout": 4}, bus={"connect_timeout": 60}) as connector:
        connector.send(lines(0, 5000))
        connector.sync()
        assert connector.terminate(timeout_s=20) == 0
        spare_node.resume()
        connector.start()
        assert_all_came(spare_node, 5000)


def test_stop_in_the_middle_of_a_backlog_loses_nothing(spare_node: RabbitNode, tmp_path: Path) -> None:
    declare(spare_node)
    spare_node.suspend_listeners()
    with running(spare_node, tmp_path) as connector:
        connector.send(lines(0, 20000))
        connector.sync()
        spare_node.resume_listeners()
        connector.wait_log("connected to", 20)
        assert connector.terminate() == 0
        connector.start()
        assert_all_came(spare_node, 20000)


def test_next_broker_takes_over_and_the_preferred_one_gets_its_place_back(
    rabbit: RabbitNode, spare_node: RabbitNode, tmp_path: Path
) -> None:
    declare(spare_node, "first")
    with connect(rabbit) as bus:
        bus.declare_exchange("event")
        bus.declare_queue("second", "event")
    try:
        hosts = [spare_node.address, rabbit.address]
        with (
            running(spare_node, tmp_path, bus={"hosts": hosts, "failback_delay": 1}) as connector,
            Flood(connector.socket_path) as flood,
        ):
            wait_until(lambda: flood.synced >= 100, 20, "lines are accepted")
            spare_node.stop()
            connector.wait_log(f"connected to {rabbit.address}", 20)
            spare_node.start()
            connector.wait_log(f"the preferred broker {spare_node.address} is back", 20)
            wait_until(
                lambda: connector.log_text().count(f"connected to {spare_node.address}") == 2, 20, "the way back"
            )
            sent = flood.finish()
            with connect(spare_node) as preferred, connect(rabbit) as other:
                by_way: dict[str, list[int]] = {"first": [], "second": []}

                def all_came() -> bool:
                    by_way["first"] += numbers(preferred.drain_all("first")).get("w", [])
                    by_way["second"] += numbers(other.drain_all("second")).get("w", [])
                    return len({*by_way["first"], *by_way["second"]}) == sent

                wait_until(all_came, 30, "every message on one of the brokers")
            assert by_way["second"]
            for way in by_way.values():
                assert list(dict.fromkeys(way)) == sorted(set(way))
    finally:
        with connect(rabbit) as bus:
            bus.delete_queue("second")
            bus.delete_exchange("event")


def black_hole(proxy: TcpProxy, connector: ConnectorProcess) -> None:
    proxy.pause()
    connector.wait_log("nothing heard", 30)
    proxy.cut()
    proxy.resume()


CUTS: dict[str, Callable[[TcpProxy, ConnectorProcess], None]] = {
    "reset": lambda proxy, _: proxy.cut("rst"),
    "closed": lambda proxy, _: proxy.cut("fin"),
    "black hole": black_hole,
}


@pytest.mark.parametrize("cut", CUTS)
def test_connection_that_is_cut_under_load_is_made_again(
    cut: str, rabbit: RabbitNode, vhost: str, proxy: TcpProxy, tmp_path: Path
) -> None:
    with connect(rabbit, vhost) as bus:
        bus.declare_exchange("event")
        bus.declare_queue("q", "event")
        with (
            running(proxy, tmp_path, bus={"vhost": vhost}) as connector,
            Flood(connector.socket_path) as flood,
        ):
            for upto in (200, 600, 1000):
                wait_until(lambda upto=upto: flood.synced >= upto, 20, "lines are accepted")  # type: ignore[misc]
                if cut == "black hole" and upto > 200:
                    continue
                CUTS[cut](proxy, connector)
            sent = flood.finish()
            assert numbers(collect(bus, "q", sent)) == {"w": list(range(sent))}
            wait_until(lambda: connector.log_text().count("connected to") > 1, 20, "a second connection")
