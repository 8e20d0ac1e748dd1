"""What becomes of messages that the bus refuses: held, parked, expired, and what that means for the others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.flow import Flood, collect, line, lines, numbers
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

Make = Callable[..., ConnectorProcess]
FAST = {"heartbeat": 2}


def count(path: Path, table: str) -> int:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found: int = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found
    finally:
        database.close()


def wait_count(process: ConnectorProcess, table: str, expected: int) -> None:
    wait_until(lambda: count(process.journal_path, table) == expected, 20, f"{expected} rows in {table}")


@pytest.mark.parametrize("durability", ["journal", "overflow"])
def test_exchange_deleted_under_load_is_held_others_pass_and_all_come_in_order_once_it_is_back(
    durability: str, bus: Bus, vhost: str, connector: Make
) -> None:
    bus.declare_exchange("event")
    bus.declare_queue("event", "event")
    bus.declare_exchange("perf")
    bus.declare_queue("perf", "perf")
    with connector(vhost, bus=FAST, connector={"durability": durability}) as process:
        with Flood(process.socket_path) as flood:
            wait_until(lambda: flood.synced >= 200, 20, "lines are accepted")
            bus.delete_exchange("event")
            process.wait_log("exchange event: held")
            process.send(lines(0, 50, kind="perf"))
            assert numbers(bus.drain("perf", 50)) == {"w": list(range(50))}
            bus.declare_exchange("event")
            bus.bind("event", "event")
            accepted = flood.synced
            wait_until(lambda: flood.synced >= accepted + 200, 20, "lines are accepted after the cure")
            sent = flood.finish()
        assert numbers(collect(bus, "event", sent)) == {"w": list(range(sent))}
        process.wait_log("no more held messages")
        wait_count(process, "vigiloconn_held", 0)


def test_held_messages_outlive_a_restart_and_go_before_newer_ones(bus: Bus, vhost: str, connector: Make) -> None:
    with connector(vhost, bus=FAST) as process:
        process.send(lines(0, 3000))
        process.sync()
        wait_count(process, "vigiloconn_held", 3000)
        process.kill()
        process.start()
        process.send(lines(3000, 3100))
        process.sync()
        wait_count(process, "vigiloconn_held", 3100)
        assert process.terminate() == 0
        bus.declare_exchange("event")
        bus.declare_queue("event", "event")
        # Nothing new is written: the held ones must go by themselves.
        process.start()
        assert numbers(collect(bus, "event", 3100)) == {"w": list(range(3100))}


def test_write_permission_that_is_withdrawn_and_given_back(spare_node: RabbitNode, tmp_path: Path) -> None:
    spare_node.add_user("writer", "secret")
    with connect(spare_node) as bus:
        bus.declare_exchange("event")
        bus.declare_queue("event", "event")
        settings = {"hosts": spare_node.address, "user": "writer", "password": "secret", **FAST}
        with ConnectorProcess(tmp_path, bus=settings) as process:
            process.send(lines(0, 10))
            assert len(bus.drain("event", 10)) == 10
            spare_node.set_permissions("writer", write="^$")
            spare_node.close_all_connections()
            process.send(lines(10, 500))
            process.sync()
            process.wait_log("exchange event: held")
            spare_node.set_permissions("writer")
            with connect(spare_node) as again:
                assert numbers(collect(again, "event", 490)) == {"w": list(range(10, 500))}
            assert "secret" not in process.log_text()


def test_queue_that_refuses_holds_its_exchange_until_there_is_room(bus: Bus, vhost: str, connector: Make) -> None:
    bus.declare_exchange("event")
    bus.declare_queue("event", "event", arguments={"x-max-length": 100, "x-overflow": "reject-publish"})
    with connector(vhost, bus=FAST) as process:
        process.send(lines(0, 400))
        process.sync()
        process.wait_log("basic.nack")
        messages = collect(bus, "event", 400)
        assert sorted(numbers(messages)["w"]) == list(range(400))
        wait_count(process, "vigiloconn_held", 0)
        wait_count(process, "tobus", 0)


def test_message_that_nobody_wants_is_parked_with_its_reason_or_dropped_and_others_pass(
    bus: Bus, vhost: str, connector: Make
) -> None:
    for kind in ("event", "state", "perf"):
        bus.declare_exchange(kind, "direct")
    bus.declare_queue("event", "event", "wanted")
    with connector(vhost, connector={"when_unroutable": "park, state:drop"}) as process:
        process.send([
            line(0, key="wanted"), line(1, key="unwanted"), line(2, key="wanted"), "state|1|h|1||0|HARD|1|x",
            line(3, kind="perf"), line(4, key="wanted"),
        ])  # fmt: skip
        assert numbers(bus.drain("event", 3)) == {"w": [0, 2, 4]}
        wait_count(process, "vigiloconn_parked", 2)
        wait_count(process, "tobus", 0)
    database = sqlite3.connect(process.journal_path)
    reasons = [row[0] for row in database.execute("SELECT reason FROM vigiloconn_parked ORDER BY id")]
    database.close()
    assert "NO_ROUTE" in reasons[0]
    assert "'unwanted'" in reasons[0]


def test_routing_key_that_does_not_fit_is_parked_and_the_rest_goes_on(bus: Bus, vhost: str, connector: Make) -> None:
    bus.declare_exchange("event")
    bus.declare_queue("event", "event")
    with connector(vhost) as process:
        process.send([line(0), line(1, key="k" * 256), line(2, key="\u00e9" * 128), line(3, key="k" * 255)])
        assert numbers(bus.drain("event", 2)) == {"w": [0, 3]}
        wait_count(process, "vigiloconn_parked", 2)
        wait_count(process, "tobus", 0)


def test_what_expired_in_the_journal_is_not_sent(spare_node: RabbitNode, tmp_path: Path) -> None:
    with connect(spare_node) as bus:
        for kind in ("event", "perf"):
            bus.declare_exchange(kind)
            bus.declare_queue(kind, kind)
    spare_node.pause()
    settings = {"hosts": spare_node.address, "connect_timeout": 2, **FAST}
    with ConnectorProcess(tmp_path, bus=settings, publications={"event": "event:1"}) as process:
        process.send(lines(0, 100))
        process.send(lines(0, 100, kind="perf"))
        process.sync()
        process.wait_log("can't connect to", 30)  # the connection attempt alone takes longer than the second they live
        spare_node.resume()
        with connect(spare_node) as bus:
            assert numbers(collect(bus, "perf", 100)) == {"w": list(range(100))}
            wait_count(process, "tobus", 0)
            assert bus.drain_all("event") == []


def test_batch_that_is_larger_than_the_broker_takes_is_split_and_nothing_is_parked(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    spare_node.eval("application:set_env(rabbit, max_message_size, 5000)")
    with connect(spare_node) as bus:
        bus.declare_exchange("perf")
        bus.declare_queue("perf", "perf")
        settings = {"hosts": spare_node.address, "batch_send_perf": 200, "batch_linger_ms": 100, **FAST}
        with ConnectorProcess(tmp_path, bus=settings) as process:
            process.send(lines(0, 1000, kind="perf"))
            messages = collect(bus, "perf", 1000)
            process.wait_log("is split")
            assert numbers(messages) == {"w": list(range(1000))}
            assert max(len(message.body) for message in messages) <= 5000
            wait_count(process, "tobus", 0)
            assert count(process.journal_path, "vigiloconn_parked") == 0


def test_parked_messages_that_are_put_back_below_held_ones_are_all_sent(bus: Bus, vhost: str, connector: Make) -> None:
    bus.declare_exchange("event")
    with connector(vhost, bus=FAST) as process:
        process.send(lines(0, 5))
        wait_count(process, "vigiloconn_parked", 5)
        bus.delete_exchange("event")
        process.send(lines(5, 10))
        wait_count(process, "vigiloconn_held", 5)
        process.kill()
        operator = sqlite3.connect(process.journal_path)
        with operator:
            operator.execute("INSERT INTO tobus (id, msg) SELECT id, msg FROM vigiloconn_parked")
            operator.execute("DELETE FROM vigiloconn_parked")
        operator.close()
        bus.declare_exchange("event")
        bus.declare_queue("event", "event")
        process.start()
        assert numbers(collect(bus, "event", 10)) == {"w": list(range(10))}
        wait_count(process, "vigiloconn_held", 0)
        wait_count(process, "tobus", 0)


@pytest.mark.parametrize("limit", ["channel_max", "user"])
def test_fewer_channels_than_exchanges_send_everything_once(
    limit: str, spare_node: RabbitNode, tmp_path: Path
) -> None:
    kinds = ("event", "perf", "state", "nagios")
    with connect(spare_node) as bus:
        for kind in kinds:
            bus.declare_exchange(kind)
            bus.declare_queue(kind, kind)
    if limit == "channel_max":
        spare_node.eval("application:set_env(rabbit, channel_max, 2)")
    else:
        # Two for the connector; this test's own are gone.
        spare_node.limit_channels(2)
    mixed = [
        text
        for number in range(500)
        for text in (
            line(number), line(number, kind="perf"), f"state|1|h|1|s|0|HARD|1|{number}", f"nagios|1|X|{number}",
        )
    ]  # fmt: skip
    with ConnectorProcess(tmp_path, bus={"hosts": spare_node.address, **FAST}) as process:
        process.send(mixed)
        process.sync()
        wait_count(process, "tobus", 0)
        assert process.log_text().count("connected to") <= 2
        assert count(process.journal_path, "vigiloconn_held") == 0
    spare_node.eval("application:set_env(rabbit, channel_max, 2047)")
    spare_node.limit_channels(None)
    with connect(spare_node) as bus:
        received = {kind: bus.drain_all(kind) for kind in kinds}
    # The connector's own state goes to `nagios` as well.
    ours = [message for message in received["nagios"] if message.json()["cmdname"] == "X"]
    assert [message.json()["value"] for message in ours] == [str(number) for number in range(500)]
    assert len(received["state"]) == 500
    for kind in ("event", "perf"):
        assert len(received[kind]) == 500
        assert numbers(received[kind]) == {"w": list(range(500))}


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_queue_that_does_not_answer_costs_other_exchanges_nothing_and_nothing_is_sent_twice(
    queue_type: str, spare_node: RabbitNode, tmp_path: Path
) -> None:
    with connect(spare_node) as bus:
        for kind in ("event", "perf"):
            bus.declare_exchange(kind)
        bus.declare_queue("event", "event", arguments={"x-queue-type": queue_type})
        bus.declare_queue("perf", "perf")
        with ConnectorProcess(tmp_path, bus={"hosts": spare_node.address, "window": 500}) as process:
            process.send([*lines(0, 10), *lines(0, 10, kind="perf")])
            assert numbers(bus.drain("event", 10) + bus.drain("perf", 10)) == {"w": list(range(10))}
            spare_node.silence_queue("event")
            process.send([*lines(10, 3000), *lines(10, 700, kind="perf")])
            process.sync()
            assert numbers(collect(bus, "perf", 690)) == {"w": list(range(10, 700))}
            assert process.log_text().count("connected to") == 1
            process.wait_log("exchange event does not answer")
            spare_node.wake_queue("event")
            messages = collect(bus, "event", 2990)
            assert numbers(messages) == {"w": list(range(10, 3000))}
            assert len(messages) == 2990
            process.wait_log("no more held messages")
            wait_count(process, "tobus", 0)
