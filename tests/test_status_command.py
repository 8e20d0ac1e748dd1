"""`vigilo-connector status`: with a connector that runs, with none, and with one that does not answer."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connector import ROOT, ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.kit.lockfile import LockFile, holder_of

_NO_BROKER = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorProcess]:
    with ConnectorProcess(tmp_path / "c", bus=_NO_BROKER) as running:
        wait_until((running.directory / "control.sock").exists, 10.0, "the control socket")
        yield running


def argv(connector: ConnectorProcess, *options: str) -> list[str]:
    return [sys.executable, "-m", "vigiloconn", "status", "--config", str(connector.settings_path), *options]


def show(connector: ConnectorProcess, *options: str) -> tuple[int, str]:
    done = subprocess.run(argv(connector, *options), cwd=ROOT, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def test_in_an_outage_one_command_says_what_waits_where_and_what_to_do(connector: ConnectorProcess) -> None:
    connector.send(f"event|1|host|Load|OK|{number}" for number in range(1200))
    connector.sync()
    status, text = show(connector)
    assert status == 1
    assert re.search(r"journal +in .*; 1,200 messages wait \(.* KiB\), the oldest for [\d.]+ s; not drained", text)
    assert re.search(r"socket +1 writers, 1,200 lines taken, 0 malformed", text)
    assert re.search(r"client \(publish\) +away; tries 127.0.0.1:1 (in|now)", text)
    assert re.search(r"WARNING bus-away for .*: no connection to the bus: .*\n  what to do: start the broker", text)


def test_as_a_plugin_it_is_one_line_with_performance_data(connector: ConnectorProcess) -> None:
    connector.send("event|1|host|Load|OK|x")
    connector.sync()
    status, text = show(connector, "--nagios")
    assert status == 1
    assert re.fullmatch(
        r"VIGILO WARNING: [^|\n]*; 1 messages wait, the oldest for [^|\n]* \| waiting=1;;;0 waiting_bytes=\d+B;;;0 "
        r"oldest=[\d.]+s;;;0 parked=0;;;0 in_flight=0;;;0 in_per_s=[\d.]+;;;0 out_per_s=0.00;;;0\n", text,
    ), text  # fmt: skip


def test_as_json_it_is_what_the_connector_tells(connector: ConnectorProcess) -> None:
    status, text = show(connector, "--json")
    document = json.loads(text)
    assert (status, document["connector"]) == (1, "vigilo-connector-nagios-1")


def test_without_a_connector_it_is_critical_and_says_what_the_file_holds(connector: ConnectorProcess) -> None:
    connector.send(f"event|1|host|Load|OK|{number}" for number in range(7))
    connector.sync()
    connector.kill()
    status, text = show(connector)
    assert status == 2
    assert text.startswith("no connector runs: nobody has the journal")
    assert "backup.sqlite: 7 messages wait, the oldest for" in text
    status, text = show(connector, "--nagios")
    assert status == 2
    assert text.startswith("VIGILO CRITICAL: no connector runs")
    assert text.count("\n") == 1


def test_a_process_that_has_the_journal_and_does_not_answer_is_unknown(connector: ConnectorProcess) -> None:
    connector.terminate()
    lock = LockFile(f"{connector.journal_path}.lock")
    lock.acquire()
    try:
        status, text = show(connector)
    finally:
        lock.release()
    assert (status, f"process {os.getpid()} has the journal" in text) == (3, True)


def test_one_that_takes_the_question_and_never_answers_is_unknown(connector: ConnectorProcess) -> None:
    connector.terminate()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(connector.directory / "control.sock"))
        deaf.listen()
        status, text = show(connector, "--timeout", "0.2", "--nagios")
    assert (status, "VIGILO UNKNOWN: control socket" in text, "no answer within 0.2 s" in text) == (3, True, True)
    assert "; nobody has the journal" in text


def test_a_process_that_hangs_is_named(connector: ConnectorProcess) -> None:
    os.kill(connector.process.pid, signal.SIGSTOP)
    try:
        status, text = show(connector, "--timeout", "0.2")
    finally:
        os.kill(connector.process.pid, signal.SIGCONT)
    assert (status, "no answer within 0.2 s" in text) == (3, True)
    assert f"; process {connector.process.pid} has the journal" in text


@pytest.mark.parametrize("options", [("--nonsense",), ("--timeout", "never"), ("--watch", "--json")])
def test_a_wrong_command_line_is_not_taken_for_a_critical_state(
    connector: ConnectorProcess, options: tuple[str, ...]
) -> None:
    assert show(connector, *options)[0] == 3


def test_on_a_terminal_watching_redraws_in_place_until_it_is_ended(connector: ConnectorProcess) -> None:
    ours, theirs = pty.openpty()
    # A shell starts what runs in the background with this signal ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(argv(connector, "--watch"), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        os.close(theirs)
        seen = read_until(ours, b"bus-away", 2)
        assert seen.startswith(b"\x1b[2J\x1b[H")
        assert seen.count(b"\x1b[H") == 2
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        os.close(ours)


def read_until(descriptor: int, word: bytes, times: int) -> bytes:
    seen, deadline_s = b"", time.monotonic() + 20
    while seen.count(word + b" for") < times:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
        assert ready, seen
        seen += os.read(descriptor, 65536)
    return seen


def test_it_starts_without_gevent() -> None:
    script = (
        "import sys\nfrom vigiloconn.__main__ import main\n"
        "try:\n main(['status', '--help'])\nexcept SystemExit:\n pass\n"
        "print([m for m in ('gevent', 'amqp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- who holds a lock -----------------------------------------------------------------------------------------------


def test_the_holder_of_a_lock_is_known_and_nobody_is_kept_from_taking_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert holder_of(path) is None
    lock = LockFile(path)
    lock.acquire()
    assert holder_of(path) == os.getpid()
    lock.release()
    assert holder_of(path) is None


def test_a_number_that_a_dead_process_left_in_a_lock_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(f"{os.getpid()}\n")
    assert holder_of(str(path)) is None
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder_of(str(path)) == os.getpid()


def test_a_custom_connector_without_a_journal_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "pager.py").write_text(
        "from vigiloconn.connectors.parts import add_consumer\n"
        "from vigiloconn.handlers.message import MessageHandler\n\n"
        "class Pager(MessageHandler):\n    def process_message(self, message):\n        pass\n\n"
        "def build(settings, supervisor):\n    add_consumer(settings, supervisor, Pager())\n"
    )
    bus = {**_NO_BROKER, "queue": "pager"}
    control = tmp_path / "control.sock"
    running = ConnectorProcess(tmp_path, bus=bus, connector={"control": control}, name="pager:build")
    running.launch()
    try:
        wait_until(control.exists, 15.0, "the control socket")
        argv = [sys.executable, "-m", "vigiloconn", "status", "pager:build", "--config", str(running.settings_path)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)
    finally:
        running.close()
    assert done.returncode == 1, done.stderr
    assert "vigilo-connector-pager-1" in done.stdout
    assert re.search(r"client \(consume\) +away; tries 127.0.0.1:1", done.stdout)
    assert re.search(r"messages +in 0.0/s .* 0 wait, 0 dead letters", done.stdout)
    assert "journal" not in done.stdout


def test_all_errors_of_the_settings_are_told_at_once_and_to_nagios_where_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "settings.ini"
    path.write_text("[bus]\nwindow = many\n[connector]\nhtttp = 1\n")
    argv = [sys.executable, "-m", "vigiloconn", "status", "--config", str(path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (3, "")
    assert "[bus] window: " in done.stderr
    assert "[connector] htttp: unknown key" in done.stderr
    done = subprocess.run([*argv, "--nagios"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert re.fullmatch(r"VIGILO UNKNOWN: .*\[bus\] window: .*\n", done.stdout)


def test_a_lock_of_another_process_on_a_file_of_the_same_number_is_not_taken_for_ours(tmp_path: Path) -> None:
    # Inodes are told apart by their filesystem, which the kernel's list does not name as stat does.
    path = tmp_path / "lock"
    path.write_text("1\n")
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder_of(str(path)) is None
