"""`check --connect` on a real broker: what is missing there is named, and nothing is changed."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import trustme

from tests.support.bus import Bus
from tests.support.connector import ROOT, render_settings
from tests.support.rabbit import RabbitNode, free_ports
from vigiloconn.cli.brokers import certificate_words


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


def test_a_certificate_that_ends_soon_is_warned_of() -> None:
    end = datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC).timestamp()
    assert certificate_words(end, end - 40 * 86400).endswith(" good for 40 days more, until 2027-03-01")
    assert certificate_words(end, end - 29.5 * 86400).endswith(" good for only 29 days more, until 2027-03-01")


def test_the_days_that_a_certificate_has_left_are_told(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem, ca = tmp_path / "client.pem", tmp_path / "ca.pem"
    authority.issue_cert("client", common_name="client").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca)
    with RabbitNode(tmp_path / "node", tls=authority) as node:
        hosts = f"localhost:{node.tls_port}"
        done = check(tmp_path, hosts, "/", use_ssl=True, ca_file=ca, cert_file=pem, key_file=pem)
    assert f"{hosts}: the broker's certificate is good for " in done.stdout, done.stderr
    assert "exchange event: NOT_FOUND" in done.stderr
