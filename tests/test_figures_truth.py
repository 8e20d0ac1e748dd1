"""The figures against independent counts: of the lines that were written, the broker's queues, the journal's tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until
from vigiloconn.control.asking import ask

EVENTS, UNWANTED, HOMELESS, MALFORMED = 500, 300, 200, 7


def count(journal: Path, table: str) -> int:
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as file:
        found: int = file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    file.close()
    return found


def size_bytes(journal: Path, table: str) -> int:
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as file:
        found: int = file.execute(f"SELECT coalesce(sum(length(CAST(msg AS BLOB))), 0) FROM {table}").fetchone()[0]
    file.close()
    return found


def status(connector: ConnectorProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(connector.directory / "control.sock", "/status").body)
    return found


def metrics(connector: ConnectorProcess) -> dict[tuple[str, ...], float]:
    text = ask(connector.directory / "control.sock", "/metrics").text + "\n"
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "part")): sample.value
        for family in text_string_to_metric_families(text) for sample in family.samples
    }  # fmt: skip


def test_after_faults_every_figure_is_what_can_be_counted_from_outside(
    connector: Callable[..., ConnectorProcess], rabbit: RabbitNode, bus: Bus, vhost: str
) -> None:
    bus.declare_exchange("event")
    bus.declare_exchange("perf")
    queue = bus.declare_queue("events", "event")
    # The connector's own figures would be counted too; an exchange of their own keeps them out of the journal.
    running = connector(vhost, connector={"self_monitoring_perf_exchange": "none", "status_period": 3600})
    running.start()
    running.wait_log("connected to ")
    for turn in range(5):
        running.send(f"event|1|host|Load|OK|{turn}-{number}" for number in range(EVENTS // 5))
        running.send(f"perf|1|host|load|{number}" for number in range(UNWANTED // 5))
        running.send(f"state|1|host|ip|Load|0|HARD|1|{number}" for number in range(HOMELESS // 5))
        rabbit.close_all_connections()
    running.sync()
    running.send("nonsense" for _ in range(MALFORMED))

    def is_settled() -> bool:
        now = status(running)["flow"]
        return bool(now["waiting"] == HOMELESS and now["parked"] == UNWANTED)

    wait_until(is_settled, 40.0, "all is confirmed, parked or held")
    with connect(rabbit, vhost) as after:
        bodies = {message.body for message in after.drain_all(queue)}
    assert len(bodies) == EVENTS
    journal = running.journal_path
    assert (count(journal, "vigiloconn_parked"), count(journal, "vigiloconn_held")) == (UNWANTED, HOMELESS)
    told = status(running)
    figures = {part["name"]: part["figures"] for part in told["parts"]}
    publisher = figures["publisher"]
    assert (figures["socket"]["received"], figures["socket"]["malformed"]) == (EVENTS + UNWANTED + HOMELESS, MALFORMED)
    assert figures["journal"]["accepted"] == EVENTS + UNWANTED + HOMELESS
    assert (publisher["confirmed"], publisher["parked"], publisher["expired"]) == (EVENTS, UNWANTED, 0)
    assert publisher["returned"] >= UNWANTED
    assert publisher["published"] >= EVENTS + UNWANTED
    in_tables = {name: size_bytes(journal, name) for name in ("tobus", "vigiloconn_held", "vigiloconn_parked")}
    kept = figures["journal"]
    assert (kept["all_rows"], kept["all_bytes"]) == (UNWANTED + HOMELESS, sum(in_tables.values()))
    assert kept["backup_bytes"] == in_tables["tobus"] + in_tables["vigiloconn_held"]
    in_memory = ("queue", "backup_in_buf", "backup_out_buf")
    assert [kept[name] for name in ("dropped", "writers_waiting", *in_memory)] == [0] * 5
    assert (publisher["nacked"], publisher["unroutable"], publisher["held_exchanges"]) == (0, 0, 1)
    assert publisher["sent"] >= EVENTS
    assert [figures["socket"][name] for name in ("synced", "failed", "too_long", "refused")] == [1, 0, 0, 0]
    assert figures["client (publish)"]["connected"] == 1
    [held] = told["held"]
    assert (held["exchange"], held["messages"]) == ("state", HOMELESS)
    assert "NOT_FOUND" in held["reason"]
    [parked] = told["parked"]
    assert (parked["exchange"], parked["messages"]) == ("perf", UNWANTED)
    assert told["flow"]["waiting"] == count(journal, "tobus") + HOMELESS
    assert told["latency"]["confirm"]["messages"] == EVENTS
    assert told["latency"]["acceptance"]["messages"] == EVENTS + UNWANTED + HOMELESS
    [broker] = told["brokers"].values()
    assert broker["broker"] == rabbit.address
    assert figures["client (publish)"]["connections"] == running.log_text().count("connected to ")
    samples = metrics(running)
    assert samples["vigilo_publisher_confirmed_total",] == EVENTS
    assert samples["vigilo_journal_messages",] == HOMELESS
    assert samples["vigilo_parked_messages", "perf", parked["reason"]] == UNWANTED
    assert samples["vigilo_confirm_seconds_count",] == EVENTS
    assert {problem["name"] for problem in told["state"]["problems"]} == {"exchange-held", "messages-parked"}
