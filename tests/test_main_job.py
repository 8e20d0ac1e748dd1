"""From the socket to the bus in good weather, as a peer on the bus sees it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.bus import Bus
from tests.support.connector import ConnectorProcess
from tests.support.flow import collect, line, lines, numbers

Make = Callable[..., ConnectorProcess]

SHAPES = [
    (
        "event|1165939739|srv1.example.com|Load|CRITICAL|CRITICAL: load avg: 12 10 10", "event",
        {"type": "event", "timestamp": "1165939739", "host": "srv1.example.com", "service": "Load",
         "state": "CRITICAL", "message": "CRITICAL: load avg: 12 10 10"},
    ),
    (
        "event|1165939739|srv1.example.com|HOST|DOWN|DOWN: gone", "event",
        {"type": "event", "timestamp": "1165939739", "host": "srv1.example.com", "state": "DOWN",
         "message": "DOWN: gone"},
    ),
    (
        "perf|1165939739|srv1.example.com|Load|10|rk.perf", "rk.perf",
        {"type": "perf", "timestamp": "1165939739", "host": "srv1.example.com", "datasource": "Load",
         "value": "10", "routing_key": "rk.perf"},
    ),
    (
        "state|1239104006|srv.example.com|192.168.1.1||1|SOFT|2|WARNING: x", "state",
        {"type": "state", "timestamp": "1239104006", "host": "srv.example.com", "ip": "192.168.1.1", "service": "",
         "code": "1", "statetype": "SOFT", "attempt": "2", "message": "WARNING: x"},
    ),
    (
        "nagios|1239104006|PROCESS_SERVICE_CHECK_RESULT|srv.example.com|Load|0|OK|a=1", "nagios",
        {"type": "nagios", "timestamp": "1239104006", "cmdname": "PROCESS_SERVICE_CHECK_RESULT",
         "value": "srv.example.com;Load;0;OK;a=1", "host": "srv.example.com"},
    ),
    (
        "event|1|h|s|OK|m|cl\u00e9", "cl\u00e9",
        {"type": "event", "timestamp": "1", "host": "h", "service": "s", "state": "OK", "message": "m",
         "routing_key": "cl\u00e9"},
    ),
]  # fmt: skip


def declare(bus: Bus, *types: str) -> None:
    for kind in types:
        bus.declare_exchange(kind, "topic")
        bus.declare_queue(kind, kind, "#")


@pytest.mark.parametrize(("text", "routing_key", "body"), SHAPES)
def test_line_becomes_the_message_that_the_bus_knows(
    text: str, routing_key: str, body: dict[str, Any], bus: Bus, vhost: str, connector: Make
) -> None:
    kind = body["type"]
    declare(bus, kind)
    with connector(vhost) as process:
        process.send(text)
        [message] = bus.drain(kind, 1)
    assert message.json() == body
    assert (message.exchange, message.routing_key) == (kind, routing_key)
    assert message.properties["content_type"] == "application/json"
    assert message.properties["delivery_mode"] == 2
    assert "expiration" not in message.properties
    uuid, _, number = message.properties["message_id"].rpartition("-")
    assert len(uuid) == 32
    assert number.isdigit()


def test_publications_give_exchange_and_time_to_live(bus: Bus, vhost: str, connector: Make) -> None:
    declare(bus, "elsewhere")
    with connector(vhost, publications={"event": "elsewhere:60"}) as process:
        process.send(line(1))
        [message] = bus.drain("elsewhere", 1)
    assert message.properties["expiration"] == "60000"
    assert message.routing_key == "event"


@pytest.mark.parametrize("durability", ["journal", "overflow"])
def test_three_writers_at_once_arrive_complete_each_in_order_and_leave_no_row_behind(
    durability: str, bus: Bus, vhost: str, connector: Make
) -> None:
    declare(bus, "event")
    with connector(vhost, connector={"durability": durability}) as process:

        def write(name: str) -> None:
            with process.writer() as writer:
                writer.send(lines(0, 5000, name))
                writer.sync()

        threads = [Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        messages = bus.drain("event", 15000, 60)
        assert process.terminate() == 0
    assert numbers(messages) == {name: list(range(5000)) for name in "abc"}
    assert len({message.properties["message_id"] for message in messages}) == 15000
    assert all(json.loads(message.body)["service"] == "Load" for message in messages)
    assert rows(process.journal_path) == 0
    assert bus.drain_all("event") == []


def rows(path: Path, table: str = "tobus") -> int:
    with sqlite3.connect(path) as database:
        found: int = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    database.close()
    return found


def test_performance_batches_are_full_under_load_and_the_last_one_does_not_wait_for_ever(
    bus: Bus, vhost: str, connector: Make
) -> None:
    declare(bus, "perf", "event")
    with connector(vhost, bus={"batch_send_perf": 3, "batch_linger_ms": 300}) as process:
        process.send([line(n, kind="perf", key="rk") for n in range(7)])
        messages = bus.drain("perf", 3)
        process.send([line(7, kind="perf"), line(0), line(8, kind="perf")])
        messages += bus.drain("perf", 1)
        assert len(bus.drain("event", 1)) == 1
    assert [len(message.json()["messages"]) for message in messages] == [3, 3, 1, 2]
    assert all(message.json()["type"] == "perf" for message in messages)
    assert {message.routing_key for message in messages} == {"perf"}
    assert {message.properties["delivery_mode"] for message in messages} == {2}
    assert numbers(messages) == {"w": list(range(9))}


def test_window_smaller_than_a_batch_still_moves(bus: Bus, vhost: str, connector: Make) -> None:
    declare(bus, "perf")
    settings = {"batch_send_perf": 50, "batch_linger_ms": 600_000, "window": 7}
    with connector(vhost, bus=settings) as process:
        process.send(lines(0, 70, kind="perf"))
        assert numbers(collect(bus, "perf", 70)) == {"w": list(range(70))}


@pytest.mark.parametrize("size", [1, 2, 10])
def test_small_memory_queue_does_not_stand_still(size: int, bus: Bus, vhost: str, connector: Make) -> None:
    declare(bus, "event")
    with connector(vhost, connector={"max_queue_size": size}, bus={"window": 1}) as process:
        process.send(lines(0, 200))
        assert numbers(collect(bus, "event", 200)) == {"w": list(range(200))}


def test_file_of_a_twisted_connector_is_sent_first_as_it_says_and_junk_is_parked(
    bus: Bus, vhost: str, connector: Make
) -> None:
    declare(bus, "event")
    process = connector(vhost)
    stored = [
        {"type": "event", "timestamp": "1", "host": "w", "service": "s", "state": "OK", "message": "0",
         "persistent": False},
        "not JSON at all",
        {"type": "event", "timestamp": "1", "host": "w", "service": "s", "state": "OK", "message": "1"},
        [1, 2],
    ]  # fmt: skip
    with sqlite3.connect(process.journal_path) as database:
        database.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
        texts = [(each if isinstance(each, str) else json.dumps(each),) for each in stored]
        database.executemany("INSERT INTO tobus (msg) VALUES (?)", texts)
    database.close()
    with process:
        process.send(line(2))
        process.sync()
        messages = bus.drain("event", 3)
        assert process.terminate() == 0
    assert numbers(messages) == {"w": [0, 1, 2]}
    assert [message.properties["delivery_mode"] for message in messages] == [1, 2, 2]
    assert rows(process.journal_path) == 0
    assert rows(process.journal_path, "vigiloconn_parked") == 2


def test_backlog_is_sent_after_a_start_without_any_new_line(bus: Bus, vhost: str, connector: Make) -> None:
    declare(bus, "event")
    process = connector(vhost)
    with sqlite3.connect(process.journal_path) as database:
        database.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
        body = json.dumps({"type": "event", "host": "w", "message": "%d"})
        database.executemany("INSERT INTO tobus (msg) VALUES (?)", [(body % n,) for n in range(5000)])
    database.close()
    # More than once: whether bus or journal is ready first is a race.
    for _ in range(3):
        with process:
            process.kill()
    with process:
        assert numbers(collect(bus, "event", 5000)) == {"w": list(range(5000))}
