"""Parked messages that are sent again on a real broker, under load, while the connector and the command are killed."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from tests.support import children, flow
from tests.support.bus import Bus
from tests.support.connector import ROOT, ConnectorProcess
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until
from tests.test_journal_running import argv, fill, numbers, run

#: 10000 for a trial of its own.
PARKED = int(os.environ.get("VIGILO_TEST_PARKED", "1500"))
KILLS = 2 + PARKED // 2500
#: What may be on its way to the broker, unconfirmed, when the connector is killed.
WINDOW = 2000


def test_parked_messages_arrive_under_load_whatever_is_killed_and_none_twice_but_what_was_on_its_way(
    tmp_path: Path, rabbit: RabbitNode, vhost: str, bus: Bus
) -> None:
    bus.declare_queue("q", bus.declare_exchange("event"))
    connector = ConnectorProcess(tmp_path, bus={"hosts": rabbit.address, "vhost": vhost})
    fill(connector.journal_path, parked=PARKED)
    lines = 0
    try:
        for _ in range(KILLS):
            connector.start()
            with flow.Flood(connector.socket_path, f"w{lines}") as flood:
                _retry_until_under_way(connector)
                lines += 1
                flood.finish()
            connector.kill()
        connector.start()
        assert run(tmp_path, "retry", "--all").returncode == 0
        wait_until(lambda: not numbers(connector.journal_path, "tobus", "vigiloconn_parked"), 60, "all is sent")
    finally:
        connector.close()
    bodies = [json.loads(message.body) for message in bus.drain_all("q")]
    found = Counter(body["n"] for body in bodies if "n" in body)
    assert sorted(found) == list(range(1, PARKED + 1))
    assert found.total() <= PARKED + KILLS * WINDOW
    writers = {body["host"] for body in bodies if "n" not in body}
    assert len(writers) == KILLS


def _retry_until_under_way(connector: ConnectorProcess) -> None:
    before = len(numbers(connector.journal_path, "vigiloconn_parked"))
    asking = children.spawn(argv(connector.directory, "retry", "--all"), cwd=ROOT)

    def is_under_way() -> bool:
        return asking.poll() is not None or len(numbers(connector.journal_path, "vigiloconn_parked")) < before

    wait_until(is_under_way, 30, "something is retried")
    children.end(asking)
