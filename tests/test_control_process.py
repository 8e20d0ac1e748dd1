"""A running connector asked from outside, as an operator does it: no broker is needed for that."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.connector import ROOT, ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.control.asking import Answer, CantAsk, ask

#: Nobody listens there.
_NO_BROKER = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorProcess]:
    with ConnectorProcess(tmp_path / "c", bus=_NO_BROKER) as running:
        yield running


def asked(connector: ConnectorProcess, target: str, body: bytes | None = None) -> Answer:
    path = connector.directory / "control.sock"
    wait_until(path.exists, 10.0, f"{path} is there")
    return ask(path, target, body)


def test_a_connector_without_a_broker_is_alive_and_accepts(connector: ConnectorProcess) -> None:
    assert asked(connector, "/healthz") == (200, "text/plain; charset=utf-8", b"alive\n")
    assert asked(connector, "/readyz").text == "accepting"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl_can_ask_it(connector: ConnectorProcess) -> None:
    asked(connector, "/healthz")
    command = ["curl", "-sS", "--unix-socket", str(connector.directory / "control.sock"), "http://localhost/healthz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_after_the_stop_the_socket_is_gone_and_the_one_who_asks_is_told(connector: ConnectorProcess) -> None:
    asked(connector, "/healthz")
    assert connector.terminate() == 0
    with pytest.raises(CantAsk, match="is the connector running") as raised:
        ask(connector.directory / "control.sock", "/healthz")
    assert raised.value.is_absent


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(CantAsk, match="more than 107 bytes"):
        ask(tmp_path / ("x" * 108), "/healthz")


def status(connector: ConnectorProcess) -> dict[str, Any]:
    return json.loads(asked(connector, "/status").body)  # type: ignore[no-any-return]


def test_in_an_outage_the_status_tells_what_waits_how_old_it_is_what_is_wrong_and_what_to_do(
    connector: ConnectorProcess
) -> None:
    connector.send(f"event|1|host|Load|OK|{number}" for number in range(300))
    connector.sync()
    wait_until(lambda: status(connector)["flow"]["oldest_s"] > 0, 10.0, "the oldest has an age")
    found = status(connector)
    assert found["flow"]["waiting"] == 300
    [problem] = found["state"]["problems"]
    assert (problem["name"], problem["level"], found["state"]["word"]) == ("bus-away", 1, "WARNING")
    assert "127.0.0.1:1" in problem["text"]
    assert problem["what_to_do"].startswith("start the broker")
    assert found["flow"]["drained_in_s"] is None
    broker = found["brokers"]["client (publish)"]
    assert (broker["broker"], broker["next_broker"]) == (None, "127.0.0.1:1")
    states = {part["name"]: (part["state"], part["crashes"]) for part in found["parts"]}
    assert states["journal"] == states["socket"] == ("running", 0)
    assert found["latency"]["acceptance"]["messages"] >= 300
    assert found["latency"]["acceptance"]["at_most"]["+Inf"] == found["latency"]["acceptance"]["messages"]


def test_an_outage_of_some_seconds_stands_in_the_log_with_what_to_do(connector: ConnectorProcess) -> None:
    connector.send("event|1|host|Load|OK|x")
    connector.sync()
    connector.wait_log("problem: bus-away: no connection to the bus")
    connector.wait_log("state: WARNING: bus-away; 1 messages wait, the oldest for")


def test_what_waits_at_the_start_has_its_age_from_before(connector: ConnectorProcess) -> None:
    connector.send("event|1|host|Load|OK|x")
    connector.sync()
    connector.terminate()
    with sqlite3.connect(connector.journal_path) as file:
        file.execute("UPDATE vigiloconn_accepted SET accepted_at = accepted_at - 7200, boot_s = boot_s - 7200")
    file.close()
    connector.start()
    assert 7200 <= status(connector)["flow"]["oldest_s"] < 7300


def test_parked_messages_are_told_by_exchange_and_reason(connector: ConnectorProcess) -> None:
    connector.terminate()
    with sqlite3.connect(connector.journal_path) as file:
        file.executemany(
            "INSERT INTO vigiloconn_parked (id, exchange, reason, msg, parked_at) VALUES (?, ?, ?, '{}', ?)",
            [(10_000 + number, "event", "NO_ROUTE" if number else "too long", time.time()) for number in range(4)],
        )
    file.close()
    connector.start()
    parked = status(connector)["parked"]
    assert [(kind["exchange"], kind["reason"], kind["messages"]) for kind in parked] == [
        ("event", "NO_ROUTE", 3), ("event", "too long", 1),
    ]  # fmt: skip


def test_the_history_is_given_by_columns(connector: ConnectorProcess) -> None:
    rows = wait_until(
        lambda: (found := json.loads(asked(connector, "/history").body))["time"] and found, 10.0, "a row"
    )
    assert rows["waiting"] == [0.0]
    assert asked(connector, "/history?hours=x").status == 400


def test_the_metrics_of_a_running_connector_can_be_parsed(connector: ConnectorProcess) -> None:
    connector.send(f"event|1|host|Load|OK|{number}" for number in range(30))
    connector.sync()
    families = list(text_string_to_metric_families(asked(connector, "/metrics").text + "\n"))
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["vigilo_socket_lines_total"] == values["vigilo_journal_messages"] == 30
    assert values["vigilo_acceptance_seconds_count"] == 30


def test_a_writer_that_has_to_wait_is_told_why_and_so_is_the_log(tmp_path: Path) -> None:
    full = ConnectorProcess(tmp_path / "c", bus=_NO_BROKER, connector={"journal_max_messages": 5})
    with full as connector:
        connector.send(f"event|1|host|Load|OK|{number}" for number in range(5))
        connector.sync()
        command = [sys.executable, "-m", "vigiloconn", "send", "--sync", "--timeout", "4",
                   "--socket", str(connector.socket_path)]  # fmt: skip
        done = subprocess.run(
            command, input=b"event|1|host|Load|OK|late\n", cwd=ROOT, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 1
        *told, failed = done.stderr.decode().splitlines()
        assert told[-1].endswith("send.sock: waiting: nothing is accepted: the journal is full")
        assert failed.endswith("not done within 4 s")
        connector.wait_log("problem: writers-blocked: 1 writers have to wait")
        assert status(connector)["flow"]["waiting"] == 5
