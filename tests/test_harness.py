"""The test harness itself, on the real broker: what it says it did to the bus has happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import amqp
import psutil
import pytest
import trustme
from amqp.exceptions import MessageNacked

from tests.support import children
from tests.support.bus import Bus, connect
from tests.support.confirms import Confirms
from tests.support.connector import ROOT, render_settings
from tests.support.proxy import TcpProxy
from tests.support.rabbit import RabbitError, RabbitNode, find_programs
from tests.support.wait import wait_until


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# Waiting


def test_waiting_returns_the_value_and_names_what_did_not_come() -> None:
    assert wait_until(lambda: 7, 0, "seven") == 7
    with pytest.raises(AssertionError, match=r"the moon: not within 0\.05 s, last value ''"):
        wait_until(lambda: "", 0.05, "the moon")


# The node


def test_node_keeps_durable_messages_over_an_orderly_stop(spare_node: RabbitNode) -> None:
    with connect(spare_node) as bus:
        bus.declare_queue("kept")
        bus.publish("", "kept", b"one", delivery_mode=2)
    port = spare_node.port
    spare_node.stop()
    assert not spare_node.is_running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((spare_node.host, port), timeout=5)
    spare_node.start()
    assert spare_node.port == port
    with connect(spare_node) as bus:
        assert [message.body for message in bus.drain("kept", 1)] == [b"one"]


def test_killed_node_keeps_what_was_declared_and_confirmed_a_moment_before(spare_node: RabbitNode) -> None:
    killed = spare_node.pid
    with connect(spare_node) as bus:
        # The process that writes decisions is late, as it is now and then on a busy machine.
        spare_node.eval("sys:suspend(mnesia_recover), spawn(fun() -> timer:sleep(500), sys:resume(mnesia_recover) end)")
        bus.declare_queue("kept")
        bus.publish("", "kept", b"one", delivery_mode=2)
    spare_node.kill()
    assert not is_alive(killed)
    spare_node.restart()
    with connect(spare_node) as bus:
        assert [message.body for message in bus.drain("kept", 1)] == [b"one"]


def test_paused_node_takes_connections_and_answers_nothing_until_resumed(spare_node: RabbitNode) -> None:
    spare_node.pause()
    with socket.create_connection((spare_node.host, spare_node.port), timeout=5) as link:
        link.sendall(b"AMQP\x00\x00\x09\x01")
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            link.recv(1)
        spare_node.resume()
        link.settimeout(10)
        assert link.recv(1) == b"\x01"


def test_memory_alarm_blocks_a_publisher_and_its_end_unblocks_it(spare_node: RabbitNode) -> None:
    notices: list[str] = []
    with connect(
        spare_node, on_blocked=lambda _reason: notices.append("blocked"),
        on_unblocked=lambda: notices.append("unblocked"),
    ) as bus:
        queue = bus.declare_queue(exclusive=True)
        bus.publish("", queue, b"before")
        spare_node.memory_alarm(True)
        bus.publish("", queue, b"under the alarm", confirm=False)
        bus.wait_events(lambda: notices == ["blocked"], 10, "connection.blocked")
        spare_node.memory_alarm(False)
        bus.wait_events(lambda: notices == ["blocked", "unblocked"], 10, "connection.unblocked")


def test_suspended_listeners_refuse_new_connections_and_keep_old_ones(spare_node: RabbitNode) -> None:
    with connect(spare_node) as bus:
        spare_node.suspend_listeners()
        with pytest.raises(ConnectionRefusedError):
            connect(spare_node)
        assert bus.queue_depth(bus.declare_queue(exclusive=True)) == 0
        spare_node.resume_listeners()
        connect(spare_node).close()


def test_closing_all_connections_tells_the_client_that_it_was_forced(spare_node: RabbitNode) -> None:
    with connect(spare_node) as bus:
        spare_node.close_all_connections()
        with pytest.raises(amqp.ConnectionForced):
            bus.wait_events(lambda: False, 10, "the close")


def test_withdrawn_permission_refuses_a_publish_on_an_open_connection(spare_node: RabbitNode) -> None:
    spare_node.add_user("writer", "secret")
    with connect(spare_node, user="writer", password="secret") as bus:
        bus.declare_exchange("open")
        bus.publish("open", "", b"x")
        spare_node.set_permissions("writer", write="^$")
        # The broker remembers a permission it has checked for as long as the channel lives.
        bus.channel = bus.connection.channel()
        with pytest.raises(amqp.AccessRefused):
            bus.publish("open", "", b"x")


def test_reset_cures_every_fault_and_leaves_an_empty_broker(spare_node: RabbitNode) -> None:
    spare_node.add_user("someone", "secret")
    spare_node.add_vhost("somewhere")
    with connect(spare_node) as bus:
        bus.declare_queue("left over")
    spare_node.memory_alarm(True)
    spare_node.suspend_listeners()
    spare_node.pause()
    spare_node.reset()
    assert spare_node.eval("length(rabbit_vhost:list_names())") == "1"
    assert spare_node.eval("length(rabbit_auth_backend_internal:list_users())") == "1"
    with connect(spare_node) as bus:
        with pytest.raises(amqp.NotFound):
            bus.queue_depth("left over")
        queue = bus.declare_queue(exclusive=True)
        bus.publish("", queue, b"confirmed, hence not blocked")


def test_questions_at_the_same_time_are_all_answered(rabbit: RabbitNode) -> None:
    with ThreadPoolExecutor(2) as askers:
        assert list(askers.map(rabbit.eval, ["1 + 1"] * 40)) == ["2"] * 40


def test_queues_and_bindings_are_told_as_they_are(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    bus.declare_queue("é", bus.declare_exchange("all"), "key", arguments={"x-message-ttl": 60_000})
    for _ in range(3):
        bus.publish("", "é", b"x")
    bus.channel.basic_qos(0, 1, False)
    bus.channel.basic_consume("é")
    figures = {"messages_ready": 2, "messages_unacknowledged": 1, "consumers": 1}
    kind = {"type": "classic", "durable": True, "state": "running", "arguments": {"x-message-ttl": 60_000}}
    assert rabbit.queues(vhost) == [{"name": "é", **kind, **figures}]
    assert rabbit.bindings(vhost) == {("all", "é", "key")}


def test_failed_command_and_failed_expression_say_what_the_node_said(rabbit: RabbitNode) -> None:
    with pytest.raises(RabbitError, match=r"no_such_vhost|not_found|does not exist"):
        rabbit.ctl("delete_vhost", "nowhere")
    with pytest.raises(RabbitError, match=r"no_such_vhost"):
        rabbit.delete_vhost("nowhere")
    assert rabbit.eval("1 + 1") == "2"


def test_node_that_can_not_start_shows_its_log() -> None:
    node = RabbitNode(extra_config=["no_such_setting = 1"])
    directory = node.data_dir
    with pytest.raises(RabbitError, match="no_such_setting"), node:
        pass
    assert not directory.exists()


def test_missing_broker_is_said_with_the_way_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(RabbitError, match=r"install-rabbitmq\.sh"):
        find_programs(tmp_path)


def test_tls_node_takes_a_client_certificate_for_a_login(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("tls-client", common_name="tls-client")
    pem, ca = tmp_path / "client.pem", tmp_path / "ca.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca)
    with RabbitNode(tmp_path / "node", tls=authority) as node:
        node.add_user("tls-client", "unused")
        options = {"certfile": str(pem), "ca_certs": str(ca), "server_hostname": "localhost"}
        with connect(node, port=node.tls_port, ssl=options, login_method="EXTERNAL") as bus:
            assert bus.queue_depth(bus.declare_queue(exclusive=True)) == 0
        with pytest.raises(OSError):  # noqa: PT011 - a reset or an alert, as the kernel sees it first
            connect(node, port=node.tls_port)
        epmd = node._epmd
    assert epmd is not None
    assert epmd.returncode == -signal.SIGKILL
    assert (tmp_path / "node" / "rabbitmq.conf").exists()


# Virtual hosts and the client


def test_virtual_hosts_do_not_see_each_other(rabbit: RabbitNode, bus: Bus, vhost: str) -> None:
    other = f"{vhost}-é"
    rabbit.add_vhost(other)
    try:
        bus.declare_queue("same name")
        bus.publish("", "same name", b"here")
        with connect(rabbit, other) as elsewhere:
            elsewhere.declare_queue("same name")
            assert elsewhere.queue_depth("same name") == 0
        assert bus.queue_depth("same name") == 1
    finally:
        rabbit.delete_vhost(other)


def test_draining_takes_the_count_in_order_with_properties_and_leaves_the_rest(bus: Bus) -> None:
    bus.declare_exchange("events", "topic")
    bus.declare_queue("q", "events", "#")
    for number in range(2500):
        bus.publish(
            "events", "a.b", {"n": number}, confirm=number == 2499, content_type="application/json", delivery_mode=2,
            message_id=str(number), expiration="600000",
        )
    first = bus.drain("q", 2400)
    assert [message.json()["n"] for message in first] == list(range(2400))
    assert first[7].routing_key == "a.b"
    assert first[7].exchange == "events"
    assert first[7].properties == {
        "content_type": "application/json", "delivery_mode": 2, "message_id": "7", "expiration": "600000",
    }
    assert [message.json()["n"] for message in bus.drain_all("q")] == list(range(2400, 2500))
    assert bus.drain_all("q") == []


def test_draining_too_few_messages_says_how_many_came(bus: Bus) -> None:
    bus.declare_queue("q")
    bus.publish("", "q", b"only one")
    with pytest.raises(AssertionError, match=r"q: 1 of 2 messages in 0\.2 s, the last b'only one'"):
        bus.drain("q", 2, timeout_s=0.2)


class ScriptedChannel:
    """A channel whose broker answers what a test says."""

    def __init__(self) -> None:
        self.events: defaultdict[str, set[Callable[[int, bool], object]]] = defaultdict(set)
        self.in_confirm_mode = False

    def confirm_select(self) -> None:
        self.in_confirm_mode = True

    def answer(self, event: str, tag: int, multiple: bool = False) -> None:
        for callback in self.events[f"basic_{event}"]:
            callback(tag, multiple)


def test_confirms_belong_to_their_own_publish() -> None:
    channel = ScriptedChannel()
    confirms = Confirms(channel)
    assert channel.in_confirm_mode
    left = []
    for _ in range(5):
        confirms.note_publish()
    for tag, multiple in ((2, False), (1, False), (4, True), (5, False)):
        channel.answer("ack", tag, multiple)
        left.append(confirms.unanswered)
    assert left == [4, 3, 1, 0]
    confirms.check()


def test_refused_publishes_are_named_once() -> None:
    channel = ScriptedChannel()
    confirms = Confirms(channel)
    for _ in range(3):
        confirms.note_publish()
    channel.answer("ack", 1)
    channel.answer("nack", 3, multiple=True)
    with pytest.raises(MessageNacked, match=r"publishes \[2, 3\]"):
        confirms.check()
    assert confirms.unanswered == 0
    confirms.check()


def test_publishing_with_confirm_tells_the_answer_to_that_very_message(bus: Bus) -> None:
    bus.declare_queue("roomy")
    bus.declare_queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    bus.publish("", "full", b"takes the room")
    bus.publish("", "roomy", b"answered before the next", confirm=False)
    with pytest.raises(MessageNacked, match=r"publishes \[3\]"):
        bus.publish("", "full", b"refused")


def test_client_works_under_gevents_patches(rabbit: RabbitNode, vhost: str) -> None:
    program = f"""
        from gevent import monkey; monkey.patch_all()
        from types import SimpleNamespace
        from tests.support.bus import connect
        from tests.support.proxy import TcpProxy
        node = SimpleNamespace(host={rabbit.host!r}, port={rabbit.port}, user="guest", password="guest")
        with TcpProxy(node.port) as proxy, connect(node, {vhost!r}, port=proxy.port) as bus:
            bus.declare_queue("q")
            bus.publish("", "q", b"x")
            try:
                bus.drain("q", 2, timeout_s=0.2)
            except AssertionError:
                print(bus.queue_depth("q"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=30,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr


# The proxy


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets, in a process of its own."""
    program = """
        import socketserver, sys
        class Echo(socketserver.BaseRequestHandler):
            def handle(self):
                while data := self.request.recv(65536):
                    self.request.sendall(data)
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    """
    process = children.spawn([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        yield int(process.stdout.readline())
        children.end(process)


def dial(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=5)


def test_paused_proxy_holds_bytes_back_and_loses_none(echo_port: int) -> None:
    with TcpProxy(echo_port) as proxy, dial(proxy) as link:
        link.sendall(b"a")
        assert link.recv(10) == b"a"
        proxy.pause()
        link.sendall(b"b")
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            link.recv(10)
        proxy.resume()
        link.settimeout(5)
        assert link.recv(10) == b"b"


def test_cut_resets_or_ends_every_connection_and_takes_new_ones(echo_port: int) -> None:
    with TcpProxy(echo_port) as proxy:
        with dial(proxy) as link:
            link.sendall(b"a")
            assert link.recv(10) == b"a"
            proxy.cut("rst")
            with pytest.raises(ConnectionResetError):
                link.recv(10)
        with dial(proxy) as link:
            link.sendall(b"a")
            assert link.recv(10) == b"a"
            proxy.cut("fin")
            assert link.recv(10) == b""
        assert proxy.connections_ever() == 2
        wait_until(lambda: proxy.connections() == 0, 5, "both connections are gone")


def test_refusing_proxy_keeps_open_connections_and_refuses_new_ones_until_told(echo_port: int) -> None:
    with TcpProxy(echo_port) as proxy, dial(proxy) as link:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        link.sendall(b"a")
        assert link.recv(10) == b"a"
        proxy.accept()
        dial(proxy).close()


def test_delay_holds_back_each_direction_and_keeps_the_rate(echo_port: int) -> None:
    data = os.urandom(2_000_000)
    with TcpProxy(echo_port) as proxy, dial(proxy) as link:
        proxy.delay(100)
        start = time.monotonic()
        link.sendall(b"a")
        assert link.recv(10) == b"a"
        assert time.monotonic() - start >= 0.2
        link.sendall(data)
        received = b""
        while len(received) < len(data):
            received += link.recv(65536)
        assert received == data


def test_proxy_before_the_broker_cuts_a_client_off(rabbit: RabbitNode, vhost: str, proxy: TcpProxy) -> None:
    with connect(rabbit, vhost, port=proxy.port) as bus:
        assert bus.queue_depth(bus.declare_queue(exclusive=True)) == 0
        proxy.cut("rst")
        with pytest.raises(ConnectionError):
            bus.wait_events(lambda: False, 5, "the cut")


def test_proxy_before_a_dead_port_closes_what_it_took() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with TcpProxy(unused.getsockname()[1]) as proxy, dial(proxy) as link:
            assert link.recv(10) == b""


# Processes


def test_children_end_when_their_parent_is_killed() -> None:
    program = """
        import sys, time
        from tests.support import children
        print(children.spawn([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait(5)
    wait_until(lambda: not is_alive(child), 5, "the child is gone")


def test_ending_a_child_gives_it_its_grace_and_then_no_more() -> None:
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(9)"
    process = children.spawn([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        assert children.end(process, 0.2) == -signal.SIGKILL
    assert children.end(process) == -signal.SIGKILL
    willing = children.spawn([sys.executable, "-c", "import time; time.sleep(99)"])
    assert children.end(willing, 10) == -signal.SIGTERM


def test_settings_are_rendered_by_section() -> None:
    text = render_settings({"bus": {"hosts": ["a:1", "b:2"], "use_ssl": False}, "publications": {"event": "ev:60"}})
    assert text == "[bus]\nhosts = a:1, b:2\nuse_ssl = False\n\n[publications]\nevent = ev:60\n"
