"""`vigilo-connector journal` on the journal of a connector that runs, its bus away: nothing leaves but by a command."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import children, flow
from tests.support.connector import ROOT, ConnectorProcess
from tests.support.journals import reopened
from tests.support.rabbit import free_ports
from tests.support.wait import wait_until
from vigiloconn.control.asking import ask
from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.transaction import Transaction

KEY = RouteKey("event", None, True)


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorProcess]:
    """A connector that is not started yet."""
    found = ConnectorProcess(tmp_path, bus={"hosts": f"127.0.0.1:{free_ports(1)[0]}"})
    yield found
    found.close()


def fill(path: Path, waiting: int = 0, held: int = 0, parked: int = 0) -> None:
    journal = reopened(path)
    records = [
        Record(n, KEY, b'{"type":"event","n":%d}' % n, 1000.0) for n in range(1, waiting + held + parked + 1)
    ]
    journal.apply(Transaction(appends=records))
    journal.apply(Transaction(
        holds=[("event", record) for record in records[waiting : waiting + held]],
        parks=[("event", record, "nobody is bound") for record in records[waiting + held :]],
    ))  # fmt: skip
    journal.close()


def argv(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "vigiloconn", "journal", *arguments, "--config", f"{directory}/settings.ini"]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(directory, *arguments), capture_output=True, text=True, timeout=60, cwd=ROOT)


def numbers(path: Path, *tables: str) -> list[int]:
    """Return the messages that are in these tables, by what stands in them."""
    with sqlite3.connect(path, timeout=10) as reader:
        rows = [row[0] for table in tables for row in reader.execute(f"SELECT msg FROM {table}")]
    reader.close()
    return [json.loads(row)["n"] for row in rows]


def counted(connector: ConnectorProcess) -> dict[str, float]:
    """Return what the connector has counted of an operator's changes."""
    names = ("retried", "discarded", "moved", "imported")
    text = ask(connector.directory / "control.sock", "/metrics").text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("vigilo_control_"))
    return {name: float(found[f'vigilo_control_{name}_total{{part="control"}}']) for name in names}


def test_parked_messages_wait_again_without_a_stop_and_lines_go_on(connector: ConnectorProcess) -> None:
    fill(connector.journal_path, waiting=2, parked=1200)
    connector.start()
    done = run(connector.directory, "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "1200 messages to be sent again\n"), done.stderr
    assert f"process {connector.process.pid} runs on it" in done.stderr
    assert counted(connector) == {"retried": 1200, "discarded": 0, "moved": 0, "imported": 0}
    connector.send(flow.lines(0, 10))
    connector.sync()
    assert numbers(connector.journal_path, "vigiloconn_parked") == []
    with sqlite3.connect(connector.journal_path) as reader:
        rows = [row[0] for row in reader.execute("SELECT msg FROM tobus ORDER BY id")]
    reader.close()
    assert [json.loads(row)["n"] for row in rows[:-10]] == list(range(1, 1203))
    assert len(rows) == 1212


def _kill_both_during_a_retry(connector: ConnectorProcess) -> None:
    before = len(numbers(connector.journal_path, "vigiloconn_parked"))
    asking = children.spawn(argv(connector.directory, "retry", "--all"), cwd=ROOT)

    def is_under_way() -> bool:
        return asking.poll() is not None or len(numbers(connector.journal_path, "vigiloconn_parked")) < before

    wait_until(is_under_way, 20, "something is retried")
    connector.kill()
    children.end(asking)


def test_nothing_is_lost_and_nothing_doubled_when_both_are_killed_in_the_middle_of_it(
    connector: ConnectorProcess
) -> None:
    fill(connector.journal_path, waiting=1, parked=6000)
    for _ in range(3):
        connector.start()
        _kill_both_during_a_retry(connector)
    connector.start()
    assert run(connector.directory, "retry", "--all").returncode == 0
    found = Counter(numbers(connector.journal_path, "tobus"))
    assert sorted(found) == list(range(1, 6002))
    assert set(found.values()) == {1}


def test_what_waits_is_discarded_from_memory_and_from_behind_it(connector: ConnectorProcess) -> None:
    fill(connector.journal_path, waiting=5000)
    connector.start()
    done = run(connector.directory, "discard", "--waiting", "4999", "1", "--yes")
    assert (done.returncode, done.stdout) == (0, "2 messages discarded\n"), done.stderr
    done = run(connector.directory, "discard", "--waiting", "--all", "--yes")
    assert (done.returncode, done.stdout) == (0, "4998 messages discarded\n"), done.stderr
    wait_until(lambda: not numbers(connector.journal_path, "tobus"), 10, "the rows are deleted")
    assert counted(connector)["discarded"] == 5000
    connector.send(flow.lines(0, 3))
    connector.sync()
    assert connector.terminate() == 0
    assert len(run(connector.directory, "list", "--waiting").stdout.splitlines()) == 4


def test_held_messages_are_moved_and_discarded_while_their_exchange_stands_still(connector: ConnectorProcess) -> None:
    fill(connector.journal_path, held=1500)
    connector.start()
    done = run(connector.directory, "move", "--from", "event", "--to", "other")
    assert (done.returncode, done.stdout) == (0, "1500 messages moved\n"), done.stderr
    done = run(connector.directory, "discard", "--held", "--all", "--yes")
    assert (done.returncode, done.stdout) == (0, "1500 messages discarded\n"), done.stderr
    assert "held for other now" in connector.log_text()
    assert counted(connector) == {"retried": 0, "discarded": 1500, "moved": 1500, "imported": 0}
    assert numbers(connector.journal_path, "vigiloconn_held") == []


def test_what_was_exported_is_imported_into_a_running_connector(connector: ConnectorProcess) -> None:
    fill(connector.journal_path, waiting=3, parked=2)
    lines = run(connector.directory, "export").stdout
    file = connector.directory / "lines"
    file.write_text(lines)
    connector.start()
    done = run(connector.directory, "import", str(file))
    assert (done.returncode, done.stdout) == (0, "5 messages imported\n"), done.stderr
    assert counted(connector)["imported"] == 5
    assert sorted(numbers(connector.journal_path, "tobus")) == [1, 1, 2, 2, 3, 3]
    assert sorted(numbers(connector.journal_path, "vigiloconn_parked")) == [4, 4, 5, 5]
