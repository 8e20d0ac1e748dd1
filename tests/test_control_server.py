"""The control socket, on a real one: who is answered, who may change something, and what costs others nothing."""

from __future__ import annotations

import os
import socket as stdlib_socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from vigiloconn.control import server as server_module
from vigiloconn.control.exchange import Peer, Refused, Reply, Request, as_json, as_text
from vigiloconn.control.health import Health
from vigiloconn.control.place import control_path
from vigiloconn.control.server import MAX_BODY_BYTES, MAX_CONNECTIONS, READ_S, ControlServer
from vigiloconn.errors import StartError
from vigiloconn.kit.endpoint import Endpoint
from vigiloconn.supervisor import Supervisor

DEADLINE_S = 5.0


class Asked:
    """A server with some functions, and connections to it."""

    def __init__(self, server: ControlServer) -> None:
        self.server = server
        self.seen: list[Request] = []
        self.hold = Event()
        server.get("/status", lambda request: as_json({"state": "OK"}))
        server.get("/slow", self._slow)
        server.get("/broken", self._broken)
        server.get("/long", lambda request: Reply(b"%d\n" % number for number in range(3)))
        server.post("/retry", self._retry)
        self.supervisor = Supervisor(stop_timeout_s=2.0)
        self.supervisor.add(server)
        self.life = gevent.spawn(self.supervisor.run)
        wait_until(lambda: server in self.supervisor._lives or self.life.dead)

    def _slow(self, request: Request) -> Reply:
        self.hold.wait()
        return as_text("done")

    def _broken(self, request: Request) -> Reply:
        raise KeyError("a bug")

    def _retry(self, request: Request) -> Reply:
        self.seen.append(request)
        if request.query.get("id") == "0":
            raise Refused("expected an id, got 0", 409)
        return as_text("retried")

    def connect(self, address: str | tuple[str, int] = "") -> socket.socket:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        link = socket.socket(family, socket.SOCK_STREAM)
        link.settimeout(DEADLINE_S)
        link.connect(address or self.server.path)
        return link

    def ask(self, request: str, address: str | tuple[str, int] = "", body: bytes = b"") -> tuple[int, str, str]:
        """Return status, headers and body of the answer to a request line with further header lines."""
        with self.connect(address) as link:
            link.sendall(request.replace("\n", "\r\n").encode() + b"\r\nHost: x\r\n\r\n" + body)
            return parse(read_all(link))

    def stop(self) -> None:
        self.hold.set()
        self.supervisor.stop()
        self.life.join(DEADLINE_S)
        assert self.life.dead


def read_all(link: socket.socket) -> bytes:
    data = b""
    while part := link.recv(65536):
        data += part
    return data


def parse(answer: bytes) -> tuple[int, str, str]:
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), head, body


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


@contextmanager
def running(server: ControlServer) -> Iterator[Asked]:
    asked = Asked(server)
    try:
        yield asked
    finally:
        asked.stop()


@pytest.fixture
def asked(path: str) -> Iterator[Asked]:
    with running(ControlServer(path)) as found:
        yield found


def test_what_stands_in_the_table_is_answered_and_the_connection_ends(asked: Asked) -> None:
    status, head, body = asked.ask("GET /status?x=1 HTTP/1.1")
    assert status == 200
    assert "application/json" in head
    assert '"state": "OK"' in body
    assert asked.server.stats() == {"control_requests": 1}


def test_head_tells_what_get_would_without_its_body(asked: Asked) -> None:
    status, head, body = asked.ask("HEAD /status HTTP/1.1")
    assert (status, body) == (200, "")
    assert "Content-Length: 20" in head


def test_a_reply_in_pieces_arrives_whole(asked: Asked) -> None:
    assert "0\n" in asked.ask("GET /long HTTP/1.1")[2]
    assert asked.ask("GET /long HTTP/1.0")[2] == "0\n1\n2\n"


@pytest.mark.parametrize(("request_line", "status"), [
    ("GET /nothing HTTP/1.1", 404), ("POST /status HTTP/1.1", 405), ("GET /retry HTTP/1.1", 405),
    ("DELETE /retry HTTP/1.1", 405), ("nonsense", 400), ("GET /status HTTP/7.1", 400),
    ("GET /broken HTTP/1.1", 500),
    (f"POST /retry HTTP/1.1\nContent-Length: {MAX_BODY_BYTES + 1}", 413),
    ("POST /retry HTTP/1.1\nContent-Length: -1", 400),
    ("POST /retry HTTP/1.1\nContent-Length: ten", 400),
    ("POST /retry HTTP/1.1\nTransfer-Encoding: chunked", 411),
    ("GET /" + "x" * 10_000 + " HTTP/1.1", 414),
])  # fmt: skip
def test_what_can_not_be_answered_is_refused_and_the_next_one_is_answered(
    asked: Asked, request_line: str, status: int
) -> None:
    assert asked.ask(request_line)[0] == status
    assert asked.ask("GET /status HTTP/1.1")[0] == 200
    assert asked.seen == []


def test_a_change_reaches_its_function_with_body_parameters_and_the_one_who_asks(asked: Asked) -> None:
    status, _, body = asked.ask("POST /retry?id=7 HTTP/1.1\nContent-Length: 3", body=b"abc")
    assert (status, body) == (200, "retried\n")
    [request] = asked.seen
    assert (request.query, request.body) == ({"id": "7"}, b"abc")
    assert request.peer == Peer(os.getpid(), os.geteuid(), os.getegid())


def test_a_function_refuses_with_its_own_words(asked: Asked) -> None:
    assert asked.ask("POST /retry?id=0 HTTP/1.1")[::2] == (409, "expected an id, got 0\n")


def test_changes_are_for_root_and_the_connectors_own_user_only(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = iter([Peer(1, 4711, 0), Peer(1, 0, 9), Peer(1, os.geteuid(), 9)])
    monkeypatch.setattr(server_module, "_peer_of", lambda sock: next(peers))
    status, _, body = asked.ask("POST /retry HTTP/1.1")
    assert status == 403
    assert "not for user 4711" in body
    assert asked.seen == []
    assert asked.ask("POST /retry HTTP/1.1")[0] == 200
    assert asked.ask("POST /retry HTTP/1.1")[0] == 200


def test_over_tcp_everybody_reads_and_nobody_changes(path: str) -> None:
    with stdlib_socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running(ControlServer(path, http=Endpoint("127.0.0.1", port))) as asked:
        assert asked.ask("GET /status HTTP/1.1", ("127.0.0.1", port))[0] == 200
        status, _, body = asked.ask("POST /retry HTTP/1.1", ("127.0.0.1", port))
        assert (status, body) == (403, "changes are made on the UNIX socket only\n")
        assert asked.seen == []
        with pytest.raises(StartError, match=rf"http 127.0.0.1:{port}: can't listen there"):
            supervised(ControlServer(None, http=Endpoint("127.0.0.1", port))).run()


def test_one_more_than_the_most_waits_until_another_has_gone(asked: Asked) -> None:
    slow = []
    for _ in range(MAX_CONNECTIONS):
        link = asked.connect()
        link.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.append(link)
    wait_until(lambda: asked.server.requests == MAX_CONNECTIONS)
    late = gevent.spawn(asked.ask, "GET /status HTTP/1.1")
    gevent.sleep(0)
    assert asked.server.requests == MAX_CONNECTIONS
    asked.hold.set()
    assert late.get(timeout=DEADLINE_S)[0] == 200
    for link in slow:
        assert parse(read_all(link))[0] == 200
        link.close()


def test_a_newcomer_does_not_wait_for_those_that_ask_nothing(asked: Asked) -> None:
    """Whose place it gets: that of the one that has been silent for longest, and of no other."""
    idle = [asked.connect() for _ in range(MAX_CONNECTIONS)]
    for _ in range(3):
        with gevent.Timeout(READ_S / 2):
            assert asked.ask("GET /status HTTP/1.1")[0] == 200
    assert read_all(idle[0]) == b""
    idle[-1].sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert parse(read_all(idle[-1]))[0] == 200
    for link in idle:
        link.close()


def test_who_is_being_answered_keeps_its_place(asked: Asked) -> None:
    slow = asked.connect()
    slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: asked.server.requests == 1)
    idle = [asked.connect() for _ in range(2 * MAX_CONNECTIONS)]
    with gevent.Timeout(READ_S / 2):
        assert asked.ask("GET /status HTTP/1.1")[0] == 200
    asked.hold.set()
    assert parse(read_all(slow))[0] == 200
    for link in [slow, *idle]:
        link.close()


def test_one_that_does_not_finish_its_request_is_cut_off(path: str) -> None:
    with running(ControlServer(path, read_s=0.05)) as asked, asked.connect() as silent, asked.connect() as slow:
        slow.sendall(b"POST /retry HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
        assert read_all(silent) == b""
        assert parse(read_all(slow))[0] == 408
        assert asked.seen == []


def test_a_reply_may_take_longer_than_a_request(path: str) -> None:
    with running(ControlServer(path, read_s=0.05)) as asked:
        late = gevent.spawn(asked.ask, "GET /slow HTTP/1.1")
        gevent.sleep(0.2)
        asked.hold.set()
        assert late.get(timeout=DEADLINE_S)[::2] == (200, "done\n")


# -- the socket's file -------------------------------------------------------------------------------------------


def supervised(server: ControlServer) -> Supervisor:
    supervisor = Supervisor(stop_timeout_s=1.0)
    supervisor.add(server)
    return supervisor


def test_the_socket_is_there_for_owner_and_group_and_gone_after_the_stop(path: str) -> None:
    with running(ControlServer(path)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert not os.path.exists(path)


def test_a_socket_that_a_dead_process_left_is_replaced(path: str) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as dead:
        dead.bind(path)
    with running(ControlServer(path)) as asked:
        assert asked.ask("GET /status HTTP/1.1")[0] == 200


def test_a_second_instance_at_a_named_place_does_not_start_and_leaves_the_first_its_socket(asked: Asked) -> None:
    second = ControlServer(asked.server.path)
    with pytest.raises(StartError, match=r"\[connector\] control: socket .* another process is listening there"):
        supervised(second).run()
    assert asked.ask("GET /status HTTP/1.1")[0] == 200


def test_a_second_instance_at_the_default_place_runs_and_says_that_it_can_not_be_asked(asked: Asked) -> None:
    second = ControlServer(asked.server.path, is_named=False)
    supervisor = supervised(second)
    life = gevent.spawn(supervisor.run)
    gevent.sleep(0)
    [problem] = second.problems()
    assert problem.name == "control-unusable"
    assert "another process is listening there" in problem.text
    supervisor.stop()
    assert life.get(timeout=DEADLINE_S) == 0
    assert asked.ask("GET /status HTTP/1.1")[0] == 200


def test_a_socket_file_that_was_removed_is_noticed_within_ten_seconds_however_often_it_is_asked(path: str) -> None:
    now_s = [1000.0]
    server = ControlServer(path, clock=lambda: now_s[0])
    with running(server):
        assert server.problems() == []
        os.unlink(path)
        now_s[0] += 1.0
        assert server.problems() == []
        now_s[0] += 9.5
        assert [problem.name for problem in server.problems()] == ["control-unusable"]


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"UNIX sockets take 107: shorten it"):
        supervised(ControlServer(tmp_path / ("x" * 108))).run()


@pytest.mark.parametrize(("named", "journal", "listener", "expected"), [
    (None, "/v/backup.sqlite", "/run/send.sock", "/v/control.sock"),
    (None, ":memory:", "/srv/send.sock", "/srv/control.sock"),
    (None, ":memory:", None, None),
    ("/x/c.sock", "/v/backup.sqlite", None, "/x/c.sock"),
    ("", "/v/backup.sqlite", None, None),
])  # fmt: skip
def test_the_socket_stands_beside_the_journal_unless_the_settings_say_otherwise(
    named: str | None, journal: str, listener: str | None, expected: str | None
) -> None:
    assert control_path(named, journal, listener) == (Path(expected) if expected else None)


# -- health --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_alive", "refusal", "healthz", "readyz"), [
    (True, "", 200, 200), (True, "the journal is full", 200, 503), (False, "", 503, 200),
])  # fmt: skip
def test_a_full_journal_is_alive_and_a_hanging_one_is_not(
    is_alive: bool, refusal: str, healthz: int, readyz: int
) -> None:
    health = Health(lambda timeout_s: is_alive, lambda: refusal)
    request = Request("GET", "/", {}, b"", None)
    assert health.healthz(request).status == healthz
    assert health.readyz(request).status == readyz
    assert refusal.encode() in health.readyz(request).body  # type: ignore[operator]


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(DEADLINE_S):
        while not condition():
            gevent.sleep(0.002)
