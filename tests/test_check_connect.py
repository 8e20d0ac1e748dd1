"""`check --connect` on a real broker: what is missing there is named, and nothing is changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.bus import Bus
from tests.support.connector import ROOT, render_settings
from tests.support.rabbit import RabbitNode, free_ports


def check(directory: Path, hosts: str, vhost: str, **bus: object) -> subprocess.CompletedProcess[str]:
    path = directory / "settings.ini"
    path.write_text(render_settings({"bus": {"hosts": hosts, "vhost": vhost, **bus}}))
    argv = [sys.executable, "-m", "vigiloconn", "check", "nagios", "--connect", "--config", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_missing_exchanges_and_queues_are_named_and_not_made(
    tmp_path: Path, rabbit: RabbitNode, vhost: str, bus: Bus
) -> None:
    for name in ("event", "perf", "state"):
        bus.declare_exchange(name)
    done = check(tmp_path, rabbit.address, vhost, queue="commands")
    assert done.returncode == 1
    assert "exchange nagios: NOT_FOUND" in done.stderr
    assert "queue commands: missing" in done.stderr
    assert "exchange event" not in done.stderr
    bus.declare_exchange("nagios")
    bus.declare_queue("commands", arguments={"x-message-ttl": 5000})
    assert "queue commands: differs" in check(tmp_path, rabbit.address, vhost, queue="commands").stderr
    done = check(tmp_path, rabbit.address, vhost, queue="commands", queue_messages_ttl=5)
    assert (done.returncode, "all that the settings name is there" in done.stdout) == (0, True), done.stderr


def test_each_broker_that_can_not_be_used_is_named(tmp_path: Path, rabbit: RabbitNode, vhost: str) -> None:
    away = f"127.0.0.1:{free_ports(1)[0]}"
    done = check(tmp_path, f"{away}, {rabbit.address}", "no-such-vhost")
    assert done.returncode == 1
    assert away in done.stderr
    assert "no-such-vhost" in done.stderr
