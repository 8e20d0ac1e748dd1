"""What systemd is told, through a socket as it has one."""

from __future__ import annotations

import os
import signal
import socket as stdlib_socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.control.notify import Notifier
from vigiloconn.supervisor import Handler, Supervisor

DEADLINE_S = 10.0


class Systemd:
    """A socket for notes, and those that came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def next(self, timeout_s: float = DEADLINE_S) -> str:
        self._socket.settimeout(timeout_s)
        return self._socket.recv(65536).decode()

    def next_with(self, word: str) -> str:
        while word not in (note := self.next()):
            pass
        return note

    def is_silent(self, for_s: float) -> bool:
        try:
            self.next(for_s)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(str(tmp_path / "notify"))
    yield found
    found.close()


class SlowStart(Handler):
    """A part that takes its time before it is prepared."""

    def __init__(self) -> None:
        self.prepared = Event()
        self.over = Event()

    def start_service(self) -> None:
        self.prepared.wait()

    def run(self) -> None:
        self.over.wait()

    def stop_service(self) -> None:
        self.over.set()


def started(notifier: Notifier, *others: Handler) -> tuple[Supervisor, Callable[[], None]]:
    supervisor = Supervisor(stop_timeout_s=1.0)
    for part in (notifier, *others):
        supervisor.add(part)
    life = gevent.spawn(supervisor.run)

    def stop() -> None:
        supervisor.stop()
        life.get(timeout=DEADLINE_S)

    return supervisor, stop


def test_a_start_that_takes_long_asks_for_time_and_is_ready_only_when_all_are_prepared(systemd: Systemd) -> None:
    slow = SlowStart()
    _, stop = started(Notifier({"NOTIFY_SOCKET": systemd.address}, extend_every_s=0.01), slow)
    for _ in range(3):
        assert systemd.next().startswith("EXTEND_TIMEOUT_USEC=30000000\nSTATUS=opening the journal")
    slow.prepared.set()
    assert systemd.next_with("READY") == "READY=1"
    assert systemd.is_silent(0.1)
    stop()


def test_a_sign_of_life_comes_only_while_the_connector_is_alive(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())})
    alive = [True]
    notifier.is_alive = lambda: alive[0]
    _, stop = started(notifier)
    assert [systemd.next() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    alive[0] = False
    while not systemd.is_silent(0.2):
        pass
    alive[0] = True
    assert systemd.next() == "WATCHDOG=1"
    stop()


def test_a_watchdog_for_another_process_is_not_ours(systemd: Systemd) -> None:
    _, stop = started(Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}))
    assert systemd.next() == "READY=1"
    assert systemd.is_silent(0.1)
    stop()


def test_an_abstract_address_is_one_too(tmp_path: Path) -> None:
    systemd = Systemd(f"@vigiloconn-test-{os.getpid()}")
    _, stop = started(Notifier({"NOTIFY_SOCKET": systemd.address}))
    assert systemd.next() == "READY=1"
    stop()
    systemd.close()


def test_nobody_who_listens_and_no_systemd_at_all_are_no_trouble(tmp_path: Path) -> None:
    for environment in ({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, {}):
        notifier = Notifier(environment)
        _, stop = started(notifier)
        notifier.tell_status("OK: running")
        gevent.sleep(0)
        stop()


def test_a_new_level_is_told_at_once_and_new_words_for_the_same_one_later(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    for text in ("WARNING: not yet tried", "WARNING: refused", "OK: running"):
        notifier.tell_status(text)
    assert [systemd.next() for _ in range(2)] == ["STATUS=WARNING: not yet tried", "STATUS=OK: running"]
    assert systemd.is_silent(0.1)


def test_a_connector_tells_systemd_its_life_from_ready_to_stopping(tmp_path: Path) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as notes:
        notes.bind(str(tmp_path / "notify"))
        notes.settimeout(DEADLINE_S)

        def note_with(word: str) -> str:
            while word not in (note := notes.recv(65536).decode()):
                pass
            return note

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        bus = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}
        with ConnectorProcess(tmp_path / "c", bus=bus, environment=environment) as connector:
            assert note_with("READY") == "READY=1"
            # Ready means that a writer comes in.
            connector.writer().close()
            assert note_with("STATUS").startswith("STATUS=WARNING: no connection to the bus")
            note_with("WATCHDOG=1")
            connector.process.send_signal(signal.SIGHUP)
            assert note_with("RELOADING").startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert note_with("READY") == "READY=1"
            connector.process.send_signal(signal.SIGTERM)
            assert note_with("STOPPING") == "STOPPING=1\nSTATUS=stopping"
            assert connector.wait() == 0


def test_on_sigusr1_the_log_has_what_every_greenlet_does_and_all_figures(tmp_path: Path) -> None:
    bus = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}
    with ConnectorProcess(tmp_path / "c", bus=bus) as connector:
        wait_until((connector.directory / "control.sock").exists, DEADLINE_S, "the control socket")
        connector.process.send_signal(signal.SIGUSR1)
        connector.wait_log('figures: {"connector": "vigilo-connector-nagios-1"')
        text = connector.log_text()
        assert "asked for stacks and figures" in text
        assert "handlers/backup.py" in text
        assert connector.is_running
        assert connector.terminate() == 0
