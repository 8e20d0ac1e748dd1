"""`check --connect` on a real broker: what is missing there is named, and nothing is changed."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.support.bus import Bus
from tests.support.connector import ROOT, render_settings
from tests.support.rabbit import RabbitNode, free_ports
from vigiloconn.cli.brokers import certificate_words, uses
from vigiloconn.client import vigiloclient_factory
from vigiloconn.kit.certificate import ends_at
from vigiloconn.options import parse_settings


def check(directory: Path, hosts: str, vhost: str, **bus: object) -> subprocess.CompletedProcess[str]:
    path = directory / "settings.ini"
    path.write_text(render_settings({"bus": {"hosts": hosts, "vhost": vhost, **bus}}))
    return run_check(path)


def run_check(path: Path) -> subprocess.CompletedProcess[str]:
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


def test_rights_that_lack_are_named_and_asking_delivers_and_changes_nothing(
    tmp_path: Path, rabbit: RabbitNode, vhost: str, bus: Bus
) -> None:
    for name in ("event", "perf", "state", "nagios", "orders"):
        bus.declare_exchange(name)
        bus.declare_queue(f"all-{name}")
        bus.bind(f"all-{name}", name)
    bus.declare_queue("commands", arguments={"x-queue-type": "quorum"})
    bus.publish("", "commands", b"{}")
    rabbit.add_user("narrow", "secret", vhost)
    before = (rabbit.bindings(vhost), counts(rabbit, vhost))
    account = {"user": "narrow", "password": "secret", "queue": "commands", "queue_type": "quorum",
               "subscriptions": "orders"}  # fmt: skip
    try:
        rabbit.set_permissions("narrow", configure="^commands$", write="^(event|state|nagios)$", read="^$", vhost=vhost)
        done = check(tmp_path, rabbit.address, vhost, **account)
        assert done.returncode == 1
        said = [line.partition(f"{rabbit.address}: ")[2] for line in done.stderr.splitlines() if "REFUSED" in line]
        assert [line.partition(": ACCESS_REFUSED")[0] for line in said] == [
            "exchange perf: no right to write, so nothing can be sent to it",
            "queue commands: no right to read, so nothing can be consumed",
            "subscriptions: commands can't be bound to orders",
            "queue commands.dead: no right to configure, so what can't be handled can't go there",
            "queue commands.dead: no right to write by the default exchange (amq.default)",
        ]
        rabbit.set_permissions("narrow", vhost=vhost)
        done = check(tmp_path, rabbit.address, vhost, **account)
        assert done.returncode == 0, done.stderr
    finally:
        rabbit.delete_user("narrow")
    assert (rabbit.bindings(vhost), counts(rabbit, vhost)) == before
    # A quorum queue counts each delivery, be it given back.
    [message] = bus.drain("commands", 1)
    assert not message.properties.get("application_headers", {}).get("x-delivery-count")


def test_a_broker_under_an_alarm_is_named_as_that(tmp_path: Path, rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    for name in ("event", "perf", "state", "nagios"):
        bus.declare_exchange(name)
    rabbit.memory_alarm(True)
    try:
        done = check(tmp_path, rabbit.address, vhost)
    finally:
        rabbit.memory_alarm(False)
    assert done.returncode == 1
    assert f"[bus] {rabbit.address}: it takes no messages: a memory or disk alarm" in done.stderr


def test_each_section_of_brokers_is_checked_and_named(tmp_path: Path, rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    for name in ("event", "perf", "state", "nagios"):
        bus.declare_exchange(name)
    away = f"127.0.0.1:{free_ports(1)[0]}"
    login = {"user": rabbit.user, "password": rabbit.password, "vhost": vhost}
    path = tmp_path / "settings.ini"
    there = {**login, "hosts": rabbit.address}
    path.write_text(render_settings({"bus": there, "bus:far": {**login, "hosts": away}, "bus:near": there}))
    done = run_check(path)
    assert done.returncode == 1
    assert f"[bus:far] {away}: " in done.stderr
    assert f"[bus] {rabbit.address}: logged in" in done.stdout
    assert f"[bus:near] {rabbit.address}: logged in" in done.stdout


def test_bus_is_not_looked_at_where_all_that_is_built_uses_another_section(tmp_path: Path) -> None:
    text = "[bus]\nhosts = a\n[bus:x]\nhosts = b\nuser = u\npassword = p\n"
    settings = parse_settings(text, tmp_path / "f", connector="bridge")
    client = vigiloclient_factory(settings.on_bus("x"))
    assert [use.section for use in uses(settings, [client])] == ["bus:x"]
    assert [use.section for use in uses(settings, [client, vigiloclient_factory(settings)])] == ["bus", "bus:x"]
    assert [use.section for use in uses(settings, [])] == ["bus", "bus:x"]


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
        old = tmp_path / "old.pem"
        past = datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC)
        begin = datetime.datetime(2019, 1, 1, tzinfo=datetime.UTC)
        leaf = authority.issue_cert("client", common_name="client", not_before=begin, not_after=past)
        leaf.private_key_and_cert_chain_pem.write_to_path(old)
        expired = check(tmp_path, hosts, "/", use_ssl=True, ca_file=ca, cert_file=old, key_file=old)
    assert f"{hosts}: the broker's certificate is good for " in done.stdout, done.stderr
    assert f"[bus] cert_file {pem}: our own certificate is good for " in done.stdout
    assert f"[bus] cert_file {old}: our own certificate was good until 2020-02-29" in expired.stderr
    assert "exchange event: NOT_FOUND" in done.stderr


def test_the_end_of_a_certificate_is_read_from_its_file() -> None:
    for year in (2031, 2075):
        end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.UTC)
        pem = trustme.CA().issue_cert("a", not_after=end).private_key_and_cert_chain_pem.bytes().decode()
        assert ends_at(pem) == end.timestamp()
    with pytest.raises(ValueError, match="found none"):
        ends_at("-----BEGIN PRIVATE KEY-----")
    with pytest.raises(ValueError, match="cut short"):
        ends_at("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----")


def counts(rabbit: RabbitNode, vhost: str) -> dict[str, int]:
    return {queue["name"]: queue["messages_ready"] for queue in rabbit.queues(vhost)}
