"""Connections and confirms on a real broker, under gevent as in production: see `tests/scenarios/bus_connection.py`."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.patched import Scenario, run
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

MODULE = "bus_connection"


def account(node: RabbitNode, vhost: str = "/", **others: object) -> dict[str, object]:
    return {"hosts": node.address, "user": node.user, "password": node.password, "vhost": vhost, **others}


def assert_closed_in_order(node: RabbitNode, vhost: str) -> None:
    """Find the end of the one connection to `vhost` in the broker's log; a colon behind it begins a complaint."""

    def ends() -> list[str]:
        return re.findall(rf"closing AMQP connection .*vhost: '{vhost}', user: '[^']*'\)(:?)", node.log_tail(10_000))

    assert wait_until(ends, 10, "the broker logs the connection's end") == [""]


# --- connecting ----------------------------------------------------------------------------------------------------


def test_connection_lives_through_silence_and_closes_in_order(rabbit: RabbitNode, vhost: str) -> None:
    run(MODULE, "lives_and_closes", bus=account(rabbit, vhost, heartbeat=1))
    assert_closed_in_order(rabbit, vhost)


def test_close_before_anybody_reads_does_not_wait(rabbit: RabbitNode, vhost: str) -> None:
    run(MODULE, "close_without_reader", bus=account(rabbit, vhost))
    assert_closed_in_order(rabbit, vhost)


def test_name_and_product_are_seen_on_the_broker(rabbit: RabbitNode, vhost: str) -> None:
    with Scenario(MODULE, "is_seen", bus=account(rabbit, vhost)) as scenario:
        scenario.wait_said("connected")
        (said,) = rabbit.client_properties(vhost)
        scenario.tell("go")
    assert said["product"] == "vigiloconn"
    assert said["connection_name"] == "scenario"
    assert said["product_version"]


@pytest.mark.parametrize("auth", ["plain", "amqplain"])
def test_login_by_password_works(auth: str, rabbit: RabbitNode, vhost: str) -> None:
    run(MODULE, "works", bus=account(rabbit, vhost, auth=auth))


@pytest.mark.parametrize("auth", ["plain", "amqplain"])
def test_wrong_password_is_a_refusal_that_does_not_show_it(auth: str, rabbit: RabbitNode, vhost: str) -> None:
    bus = account(rabbit, vhost, password="wrong-secret", auth=auth)
    run(MODULE, "fails", bus=bus, error="BusRefused", code=403, text="ACCESS_REFUSED")


def test_unknown_virtual_host_is_a_refusal(rabbit: RabbitNode) -> None:
    run(MODULE, "fails", bus=account(rabbit, "no-such-host"), error="BusRefused", code=530, text="no-such-host")


def test_login_that_the_broker_does_not_offer_is_a_refusal(spare_node: RabbitNode) -> None:
    offered = spare_node.eval("{ok, Names} = application:get_env(rabbit, auth_mechanisms), Names")
    spare_node.eval("application:set_env(rabbit, auth_mechanisms, ['PLAIN'])")
    try:
        run(MODULE, "fails", bus=account(spare_node, auth="amqplain"), error="BusRefused", text="AMQPLAIN")
        run(MODULE, "works", bus=account(spare_node, auth="plain"))
    finally:
        spare_node.eval(f"application:set_env(rabbit, auth_mechanisms, {offered})")


def test_nobody_listening_is_down_at_once(rabbit: RabbitNode) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        run(MODULE, "fails", bus={"hosts": address}, error="BusDown", text="refused")


def test_peer_that_says_nothing_is_down_after_the_time_limit() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        bus = {"hosts": f"127.0.0.1:{listener.getsockname()[1]}", "connect_timeout": 1}
        run(MODULE, "fails", bus=bus, error="LeaveBroker", text="1 s")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"\x01\x00\x00\x00\x00\x00\x02xx\xce"]
)
def test_peer_that_speaks_no_amqp_is_down(answer: bytes, talker: Callable[[bytes], str]) -> None:
    bus = {"hosts": talker(answer), "connect_timeout": 3}
    run(MODULE, "fails", bus=bus, error="LeaveBroker" if answer else "BusDown")


def test_paused_broker_is_down_after_the_time_limit(spare_node: RabbitNode) -> None:
    spare_node.pause()
    run(MODULE, "fails", bus=account(spare_node, connect_timeout=1), error="LeaveBroker", text="1 s")


# --- TLS -----------------------------------------------------------------------------------------------------------


class Certificates:
    """An authority with the broker's and clients' certificates, and another one that nobody trusts."""

    def __init__(self, directory: Path) -> None:
        self.ca, self._other = trustme.CA(), trustme.CA()
        self._directory = directory
        self.ca.cert_pem.write_to_path(directory / "ca.pem")
        self._other.cert_pem.write_to_path(directory / "other-ca.pem")
        for name, authority in (("client", self.ca), ("stranger", self._other)):
            leaf = authority.issue_cert(name, common_name=name)
            leaf.private_key_and_cert_chain_pem.write_to_path(directory / f"{name}.pem")

    def files(self, client: str | None, ca: str = "ca") -> dict[str, object]:
        files: dict[str, object] = {"ca_file": self._directory / f"{ca}.pem"}
        if client:
            files["cert_file"] = files["key_file"] = self._directory / f"{client}.pem"
        return {key: str(path) for key, path in files.items()}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_node(authority: Certificates) -> Iterator[RabbitNode]:
    with RabbitNode(tls=authority.ca) as node:
        node.add_user("client", "client-secret")
        yield node


def over_tls(node: RabbitNode, files: dict[str, object], **others: object) -> dict[str, object]:
    return {
        "hosts": f"localhost:{node.tls_port}", "user": node.user, "password": node.password, "use_ssl": "yes",
        **files, **others,
    }


@pytest.mark.parametrize("auth", ["plain", "external"])
def test_login_over_tls_works(auth: str, tls_node: RabbitNode, authority: Certificates) -> None:
    run(MODULE, "works", bus=over_tls(tls_node, authority.files("client"), auth=auth))


def test_idle_tls_connection_lives_and_closes(tls_node: RabbitNode, authority: Certificates) -> None:
    run(MODULE, "lives_and_closes", bus=over_tls(tls_node, authority.files("client"), heartbeat=1, connect_timeout=1))


def test_abort_ends_a_stuck_tls_writer_at_once(tls_node: RabbitNode, authority: Certificates) -> None:
    try:
        with Scenario(MODULE, "abort_ends_stuck_writer", bus=over_tls(tls_node, authority.files("client"))) as scenario:
            scenario.wait_said("ready")
            tls_node.pause()
            scenario.tell("paused")
    finally:
        tls_node.resume()


def test_broker_with_another_name_is_refused(tls_node: RabbitNode, authority: Certificates) -> None:
    bus = over_tls(tls_node, authority.files("client"), server_name="bus.example.com")
    run(MODULE, "fails", bus=bus, error="BusRefused", text="bus.example.com")
    # The name that is asked for is the setting's, not the one that was dialled.
    bus = over_tls(tls_node, authority.files("client"), hosts=f"127.0.0.1:{tls_node.tls_port}", server_name="localhost")
    run(MODULE, "works", bus=bus)


def test_broker_of_another_authority_is_refused(tls_node: RabbitNode, authority: Certificates) -> None:
    bus = over_tls(tls_node, authority.files("client", ca="other-ca"))
    run(MODULE, "fails", bus=bus, error="BusRefused", text="CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("client", [None, "stranger"])
def test_client_without_a_certificate_that_the_broker_trusts_is_refused(
    client: str | None, tls_node: RabbitNode, authority: Certificates
) -> None:
    bus = over_tls(tls_node, authority.files(client))
    # The refusal comes after the client's own handshake is done, so its moment varies.
    run(MODULE, "fails_many_times", bus=bus, error="BusRefused", times=30, text="TLS")


def test_tls_to_a_port_without_it_is_refused(rabbit: RabbitNode, authority: Certificates) -> None:
    bus = {"hosts": f"localhost:{rabbit.port}", "use_ssl": "yes", **authority.files(None)}
    run(MODULE, "fails", bus=bus, error="BusRefused", text="TLS")


# --- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        "calls_from_many_greenlets",
        "missing_queue",
        "name_too_long",
        "closed_on_both_sides",
        "call_on_reader",
        "leaves_nothing_behind",
        "deliveries_at_once",
    ],
)
def test_synchronous_calls(scenario: str, rabbit: RabbitNode, vhost: str) -> None:
    run(MODULE, scenario, bus=account(rabbit, vhost))


def test_time_limit_of_the_caller_passes_through(spare_node: RabbitNode) -> None:
    with Scenario(MODULE, "outer_timeout", bus=account(spare_node)) as scenario:
        scenario.wait_said("ready")
        spare_node.pause()
        scenario.tell("paused")


# --- loss ----------------------------------------------------------------------------------------------------------


LOSSES: dict[str, tuple[Callable[[RabbitNode], None], dict[str, Any]]] = {
    "stopped in order": (RabbitNode.stop, {"errors": ["GoingDown", "BusDown"]}),
    "killed": (RabbitNode.kill, {"errors": ["BusDown"]}),
    "closed by force": (
        RabbitNode.close_all_connections,
        {"errors": ["GoingDown"], "text": "closed by a test"},
    ),
    "paused": (RabbitNode.pause, {"errors": ["BusDown"], "text": "nothing heard"}),
}


@pytest.mark.parametrize("how", LOSSES)
def test_connection_to_a_broker_that_goes_is_lost(how: str, spare_node: RabbitNode) -> None:
    hurt, expected = LOSSES[how]
    with Scenario(MODULE, "is_lost", bus=account(spare_node, heartbeat=1), **expected) as scenario:
        scenario.wait_said("ready")
        hurt(spare_node)
        scenario.tell("hurt")


@pytest.mark.parametrize("scenario", ["abort_ends_stuck_writer", "interrupted_write_ends_connection"])
def test_writer_that_is_stuck_ends(scenario: str, spare_node: RabbitNode) -> None:
    with Scenario(MODULE, scenario, bus=account(spare_node)) as running:
        running.wait_said("ready")
        spare_node.pause()
        running.tell("paused")


def test_writer_that_is_stuck_does_not_hide_that_the_broker_goes(spare_node: RabbitNode) -> None:
    spare_node.memory_alarm(True)
    with Scenario(MODULE, "stuck_writer_does_not_hide_the_end", bus=account(spare_node)) as scenario:
        scenario.wait_said("stuck")
        spare_node.eval(
            "[rabbit_networking:close_connection(P, \"closed by a test\") || P <- rabbit_networking:connections()]"
        )
        scenario.tell("closed")


def test_alarm_on_the_broker_is_seen_and_outlived(spare_node: RabbitNode) -> None:
    spare_node.memory_alarm(True)
    with Scenario(MODULE, "blocked", bus=account(spare_node, heartbeat=1)) as scenario:
        scenario.wait_said("blocked")
        spare_node.memory_alarm(False)


# --- confirms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    ["thousand_in_one_buffer", "returned_before_ack", "missing_exchange", "nack_from_full_queue"],
)
def test_confirms(scenario: str, rabbit: RabbitNode, vhost: str) -> None:
    run(MODULE, scenario, bus=account(rabbit, vhost))


def test_what_was_not_confirmed_before_a_loss_is_told(spare_node: RabbitNode) -> None:
    with Scenario(MODULE, "loss_leaves_unanswered", bus=account(spare_node, heartbeat=1)) as scenario:
        scenario.wait_said("ready")
        spare_node.pause()
        scenario.tell("paused")


# --- peers that are no brokers -------------------------------------------------------------------------------------


@pytest.fixture
def talker() -> Iterator[Callable[[bytes], str]]:
    """A function that makes a peer which sends the given bytes to each client, and hangs up."""
    listeners: list[socket.socket] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        try:
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(answer)
        except OSError:
            pass

    def make(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
