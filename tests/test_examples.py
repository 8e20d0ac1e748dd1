"""The examples do what they say, each as a process of its own on the real broker."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import amqp
import pytest

from examples.demo import Screen, remains
from tests.support.bus import Bus, connect
from tests.support.connector import ROOT, ConnectorProcess, render_settings
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

_ENV = {**os.environ, "PYTHONPATH": str(ROOT)}

Make = Callable[..., ConnectorProcess]


@pytest.fixture
def example(connector: Make, vhost: str) -> Make:
    """A function that makes an example's process, not started: its name, the keys of its own section, `[bus]` keys."""

    def make(name: str, own: dict[str, object], **bus: object) -> ConnectorProcess:
        process = connector(vhost, bus=bus, name=f"examples.{name}:build")
        with process.settings_path.open("a", encoding="utf-8") as file:
            file.write(render_settings({f"connector-{name}": own}))
        return process

    return make


def until(process: ConnectorProcess, condition: Callable[[], object], what: str) -> None:
    try:
        wait_until(condition, 60, what)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{process.log_text()}") from None


def test_echo_sends_what_it_gets_in_order_and_acknowledges_it(bus: Bus, example: Make) -> None:
    bus.declare_exchange("in")
    bus.declare_queue("out", bus.declare_exchange("out"))
    process = example("echo", {"exchange": "out"}, queue="echo", subscriptions="in")
    process.launch()
    process.wait_log("'echo': subscribed", 60)
    sent = [{"n": number} for number in range(100)]
    for message in sent:
        bus.publish("in", "key", message)
    assert [message.json() for message in bus.drain("out", 100, 60)] == sent
    assert process.terminate() == 0
    assert bus.queue_depth("echo") == 0


def test_echo_does_not_lose_what_its_exchange_refuses(bus: Bus, example: Make) -> None:
    bus.declare_queue("echo")
    process = example("echo", {"exchange": "missing"}, queue="echo", max_redeliveries=1)
    process.launch()
    bus.publish("", "echo", {"n": 1})
    process.wait_log("its end is echo.dead", 60)
    [dead] = bus.drain("echo.dead", 1, 60)
    assert dead.json() == {"n": 1}
    assert "no exchange 'missing'" in dead.properties["application_headers"]["x-vigilo-reason"]
    assert process.terminate() == 0


def test_echo_stops_in_order_in_the_middle_of_its_tries_and_the_message_is_back_in_its_queue(
    bus: Bus, example: Make
) -> None:
    # This queue refuses everything.
    bus.declare_exchange("out")
    bus.declare_queue("full", "out", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    bus.declare_queue("echo")
    bus.publish("", "echo", {"n": 1})
    process = example("echo", {"exchange": "out"}, queue="echo", max_redeliveries=1000)
    process.launch()
    process.wait_log("tried again (2 of", 60)
    assert process.terminate() == 0
    until(process, lambda: bus.queue_depth("echo") == 1, "the message is back in its queue")


def test_echo_acknowledges_nothing_before_the_confirm_and_stops_in_order_while_it_waits_for_one(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    with connect(spare_node) as bus:
        bus.declare_queue("out", bus.declare_exchange("out"))
        bus.declare_queue("echo")
        bus.publish("", "echo", {"n": 1})
        spare_node.memory_alarm(True)
        settings = {"hosts": spare_node.address, "queue": "echo"}
        process = ConnectorProcess(tmp_path, bus=settings, name="examples.echo:build")
        with process.settings_path.open("a", encoding="utf-8") as file:
            file.write("[connector-echo]\nexchange = out\n")
        try:
            process.launch()
            until(process, lambda: bus.queue_depth("echo") == 0, "the message is under way")
            assert process.terminate(20) == 0
        finally:
            process.close()
        until(process, lambda: bus.queue_depth("echo") == 1, "the message is back in its queue")
        spare_node.memory_alarm(False)


def perf(number: int, value: object = "1.5") -> dict[str, object]:
    return {"type": "perf", "timestamp": str(1165939739 + number), "host": "srv1", "datasource": "Load", "value": value}


def rows(path: Path) -> list[tuple[object, ...]]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT host, datasource, timestamp, value FROM perf ORDER BY timestamp").fetchall()


def test_perf_to_sqlite_writes_each_value_once_though_some_come_twice_and_some_are_bad(
    bus: Bus, example: Make, tmp_path: Path
) -> None:
    path = tmp_path / "perf.sqlite"
    bus.declare_queue("perf")
    bad: list[dict[str, object]] = [perf(1000, "much"), {"type": "event"}]
    messages = [perf(number) for number in range(400)]
    whole: list[dict[str, object]] = [*messages[:200], bad[0], *messages[100:300], bad[1], {"messages": messages[300:]}]
    for message in whole:
        bus.publish("", "perf", message, confirm=False)
    process = example("perf_to_sqlite", {"database": path}, queue="perf")
    process.launch()
    dead_queue = "perf.dead"
    process.wait_log(f"{dead_queue!r}: declared", 60)
    assert [message.json() for message in bus.drain(dead_queue, 2, 60)] == bad
    until(process, lambda: path.exists() and len(rows(path)) == 400, "400 rows")
    assert rows(path) == [("srv1", "Load", 1165939739.0 + number, 1.5) for number in range(400)]
    assert process.terminate() == 0
    assert bus.queue_depth("perf") == 0


def test_producer_sends_the_load_again_and_again(bus: Bus, example: Make) -> None:
    bus.declare_queue("perf", bus.declare_exchange("perf"))
    process = example("producer", {"period": 0.1, "host": "srv1"})
    process.launch()
    first = [message.json() for message in bus.drain("perf", 6, 60)]
    assert [message["datasource"] for message in first] == ["load1", "load5", "load15"] * 2
    assert {message["host"] for message in first} == {"srv1"}
    assert all(message["value"] >= 0 for message in first)
    assert process.terminate() == 0


def test_syslog_lines_of_several_clients_are_events(bus: Bus, example: Make) -> None:
    bus.declare_queue("events", bus.declare_exchange("event"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = example("syslog", {"port": port})
    process.launch()
    process.wait_log("connected to", 60)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(b"<11>first\n<14>second\n")
    found = [message.json() for message in bus.drain("events", 4, 60)]
    assert sorted(each["message"] for each in found) == ["first", "first", "second", "second"]
    assert process.terminate() == 0


def test_producer_keeps_what_it_measures_in_the_journal_while_there_is_no_bus(example: Make) -> None:
    process = example("producer", {"period": 0.1}, hosts="127.0.0.1:1")
    process.launch()

    def stored() -> int:
        if not process.journal_path.exists():
            return 0
        with closing(sqlite3.connect(process.journal_path)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tobus'").fetchone():
                return 0
            return int(db.execute("SELECT count(*) FROM tobus").fetchone()[0])

    until(process, lambda: stored() >= 6, "6 values in the journal")
    assert process.terminate() == 0


def oneshot(rabbit: RabbitNode, vhost: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    bus = {"hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost}
    settings = directory / "settings.ini"
    settings.write_text(render_settings({"bus": bus, "publications": {"event": "announcements"}}), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "examples.oneshot", str(settings), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )


def test_oneshot_ends_with_0_once_its_event_is_in_a_queue(
    rabbit: RabbitNode, vhost: str, bus: Bus, tmp_path: Path
) -> None:
    bus.declare_queue("events", bus.declare_exchange("announcements"))
    done = oneshot(rabbit, vhost, tmp_path, "srv1", "DOWN", "maintenance until noon")
    assert done.returncode == 0, done.stderr
    [message] = bus.drain("events", 1)
    assert {**message.json(), "timestamp": 0} == {
        "type": "event", "timestamp": 0, "host": "srv1", "state": "DOWN", "message": "maintenance until noon",
    }  # fmt: skip


def test_oneshot_ends_with_1_when_no_queue_wants_its_event(
    rabbit: RabbitNode, vhost: str, bus: Bus, tmp_path: Path
) -> None:
    bus.declare_exchange("announcements")
    done = oneshot(rabbit, vhost, tmp_path, "srv1", "DOWN", "nobody hears it")
    assert done.returncode == 1
    assert "NO_ROUTE" in done.stderr


@pytest.mark.parametrize(
    ("name", "own", "missing"),
    [("echo", "exchange = out", "exchange"), ("perf_to_sqlite", "database = perf.sqlite", "database"),
     ("producer", "period = 1", None)],
)  # fmt: skip
def test_check_takes_an_example_with_its_settings_touches_nothing_and_names_what_is_missing(
    name: str, own: str, missing: str | None, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.ini"

    def check(text: str) -> subprocess.CompletedProcess[str]:
        settings.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "vigiloconn", "check", f"examples.{name}:build", "--config", str(settings)],
            env=_ENV, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )

    done = check(f"[bus]\nqueue = q\n[connector]\nbackup_file = {tmp_path}/j.sqlite\n[connector-{name}]\n{own}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.ini"]
    if missing is not None:
        done = check("[bus]\nqueue = q\n")
        assert done.returncode == 2
        assert f"[connector-{name}] {missing}: expected" in done.stderr


def test_a_period_that_is_no_time_is_refused(tmp_path: Path) -> None:
    settings = tmp_path / "settings.ini"
    settings.write_text("[connector-producer]\nperiod = soon\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "vigiloconn", "check", "examples.producer:build", "--config", str(settings)],
        env=_ENV, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 2
    assert "period: expected seconds above 0, such as 30 or 0.5, got 'soon'" in done.stderr


def test_the_demo_names_what_it_leaves_on_a_broker_of_somebody_else() -> None:
    report = ("exchange event: created", "queue event: created", "binding event: created", "3 created")
    left = remains("\n".join(report))
    assert "before: exchange event, queue event." in left
    assert "vigilo-bus-config delete-exchange event; vigilo-bus-config delete-queue event" in left
    assert "in queues that were there before" in remains("12 unchanged\n")


def test_the_demo_shows_the_lines_of_its_user_and_the_first_of_the_connectors_figures(
    capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen("demo.example.com")
    service = "vigilo-connector-nagios-1"
    for exchange, body in (
        ("perf", f'{{"datasource":"{service}-sent"}}'), ("perf", f'{{"datasource":"{service}-queue"}}'),
        ("perf", '{"datasource":"load1","host":"demo.example.com"}'), ("perf", '{"datasource":"mine"}'),
        ("nagios", f'{{"cmdname":"{service}"}}'),
    ):  # fmt: skip
        message = amqp.Message(body)
        message.delivery_info = {"exchange": exchange, "routing_key": exchange}
        screen.show(message)
    shown = capsys.readouterr().out.splitlines()
    assert [name for name in ("sent", "queue", "load1", "mine", "cmdname") for line in shown if name in line] == [
        "sent", "load1", "mine", "cmdname"
    ]  # fmt: skip
    assert screen.missing == {"event", "state", "nagios"}
