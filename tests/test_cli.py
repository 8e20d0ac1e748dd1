"""The program as an operator calls it: exit statuses, one clear line each, and what it must not do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connector import ROOT, ConnectorProcess
from tests.support.rabbit import free_ports
from vigiloconn import __version__


def call(*arguments: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "vigiloconn", *arguments]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, env=env, cwd=cwd, check=False)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ConnectorProcess]:
    """A connector without a bus."""
    [port] = free_ports(1)
    made = ConnectorProcess(tmp_path, bus={"hosts": f"127.0.0.1:{port}"})
    yield made
    made.close()


def test_version_and_help_end_with_status_0() -> None:
    version, usage = call("--version"), call("--help")
    assert (version.returncode, usage.returncode) == (0, 0)
    assert __version__ in version.stdout
    assert "vigilo-connector run CONNECTOR" in usage.stdout


def test_the_bus_is_configured_from_the_same_program() -> None:
    usage, wrong = call("bus", "--help"), call("bus", "read-config", "/nonexistent/bus.ini")
    assert (usage.returncode, wrong.returncode) == (0, 2)
    assert "read-config" in usage.stdout
    assert wrong.stderr.count("\n") == 1
    assert "/nonexistent/bus.ini" in wrong.stderr


def test_check_tells_each_error_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "settings.ini"
    path.write_text("[bus]\nwindow = many\n[connector]\ndurability = never\n")
    argv = [sys.executable, "-m", "vigiloconn", "check", "nagios", "--config", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "[bus] window" in first
    assert "[connector] durability" in second


def test_pipe_without_a_queue_is_a_setting_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "settings.ini"
    path.write_text("[connector-nagios]\nnagios_pipe = /nonexistent/nagios.cmd\n")
    done = call("check", "nagios", "--config", str(path))
    assert done.returncode == 2
    assert "[connector-nagios] nagios_pipe" in done.stderr
    assert "[bus] queue" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("run",), ("fly", "nagios"), ("run", "nagios", "--no-such-option")])
def test_wrong_usage_ends_with_status_2_and_shows_the_usage(arguments: tuple[str, ...]) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "nagois"), "'nagois'"),
        (("run", "no.such.module:build"), "no module 'no'"),
        (("run", "json:build"), "no function 'build'"),
        (("run", "nagios", "--id", "-1"), "--id"),
        (("check", "nagios", "--config", "/nonexistent/settings.ini"), "/nonexistent/settings.ini"),
        (("run", "nagios", "--config", "/nonexistent/settings.ini"), "/nonexistent/settings.ini"),
    ],
)
def test_what_can_not_be_found_ends_with_status_2_and_one_line(arguments: tuple[str, ...], expected: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    [text] = done.stderr.splitlines()
    assert expected in text


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("[bus]\nprefetch_count = ten\n", ["[bus]", "prefetch_count", "'ten'", "expected"]),
        ("[bus]\nprefech_count = 10\n", ["[bus]", "prefech_count", "prefetch_count"]),
        ("[bus]\nuse_ssl = True\nca_file = /nonexistent/ca.pem\n", ["ca_file", "/nonexistent/ca.pem"]),
        ("[publications]\nevent = event:0\n", ["[publications]", "event", "expected"]),
        ("[connector-nagios]\nlisten_unix = " + "x" * 200 + "\n", ["listen_unix"]),
    ],
)
def test_bad_setting_ends_with_status_2_and_one_line_that_names_it(
    command: str, settings: str, expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "settings.ini"
    path.write_text(settings)
    done = call(command, "nagios", "--config", str(path))
    assert done.returncode == 2, done.stderr
    [text] = done.stderr.splitlines()
    for part in expected:
        assert part in text


def test_check_connects_to_nothing_and_makes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(0)
        path = tmp_path / "settings.ini"
        path.write_text(
            f"[bus]\nhosts = 127.0.0.1:{broker.getsockname()[1]}\n[connector]\nbackup_file = {tmp_path}/j\n"
            f"[connector-nagios]\nlisten_unix = {tmp_path}/s\n"
        )
        done = call("check", "nagios", "--config", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert str(path) in done.stdout
        with pytest.raises(BlockingIOError):
            broker.accept()
    assert os.listdir(tmp_path) == ["settings.ini"]


def test_name_in_an_error_can_not_move_the_terminals_cursor() -> None:
    done = call("check", "nagios", "--config", "/nonexistent/\x1b[2Jfile")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert r"/nonexistent/\x1b[2Jfile" in done.stderr


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_password_that_all_users_can_read_is_said_and_no_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "mine.py").write_text("def make(settings, supervisor):\n    supervisor.stop(0)\n")
    path = tmp_path / "settings.ini"
    path.write_text("[bus]\npassword = hunter2\n")
    path.chmod(0o644)
    done = call(command, "mine:make", "--config", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{path} holds a password and can be read by all users" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_custom_connector_is_run_by_module_and_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(settings, supervisor):\n    supervisor.stop(0)\n    print('made')\n")
    (tmp_path / "settings.ini").write_text("")
    done = call("run", "mine:make", "--config", str(tmp_path / "settings.ini"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_in_order_with_status_0_and_removes_the_socket(
    number: signal.Signals, process: ConnectorProcess
) -> None:
    process.start()
    process.process.send_signal(number)
    assert process.wait() == 0
    assert not process.socket_path.exists()
    assert "stopped, status 0" in process.log_text()


def test_second_process_on_the_same_journal_ends_with_status_1(process: ConnectorProcess, tmp_path: Path) -> None:
    process.start()
    other = ConnectorProcess(
        tmp_path / "other", bus={}, connector={"backup_file": process.journal_path},
    )  # fmt: skip
    other.launch()
    try:
        assert other.wait() == 1
        assert f"is held by process {process.process.pid}" in other.log_text()
        assert "Traceback" not in other.log_text()
        process.send("event|1|h|s|OK|still works")
        process.sync()
    finally:
        other.close()


def test_second_process_on_the_same_socket_ends_with_status_1_and_lets_go_of_its_journal(
    process: ConnectorProcess, tmp_path: Path
) -> None:
    process.start()
    other = ConnectorProcess(tmp_path / "other", bus={}, nagios={"listen_unix": process.socket_path})
    other.launch()
    try:
        assert other.wait() == 1
        assert str(process.socket_path) in other.log_text()
        assert "Traceback" not in other.log_text()
        process.send("event|1|h|s|OK|still works")
        process.sync()
    finally:
        other.close()


def test_directory_that_is_missing_ends_with_status_1(tmp_path: Path) -> None:
    process = ConnectorProcess(tmp_path, bus={}, connector={"backup_file": tmp_path / "missing" / "j"})
    process.launch()
    try:
        assert process.wait() == 1
        assert f"directory {tmp_path / 'missing'} does not exist" in process.log_text()
        assert "Traceback" not in process.log_text()
    finally:
        process.close()


def test_handler_that_crashes_again_and_again_ends_with_status_1(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(
        "from vigiloconn.handlers.base import Handler\n"
        "class Crashing(Handler):\n"
        "    def run(self):\n"
        "        raise ValueError('again')\n"
        "def build(settings, supervisor):\n"
        "    supervisor._crash_period_s = 60\n"
        "    supervisor._wait = lambda event, seconds: event.wait(0.001)\n"
        "    supervisor.add(Crashing())\n"
    )
    (tmp_path / "settings.ini").write_text("")
    done = call("run", "crashing:build", "--config", str(tmp_path / "settings.ini"), cwd=tmp_path)
    assert done.returncode == 1
    assert "crashed 6 times" in done.stderr + done.stdout


def test_send_with_sync_says_whether_the_lines_are_safe(process: ConnectorProcess) -> None:
    socket_path = str(process.socket_path)
    assert call("send", "--sync", "--socket", socket_path, text="event|1|h|s|OK|m\n").returncode == 1
    process.start()
    assert call("send", "--sync", "--socket", socket_path, text="event|1|h|s|OK|m\n").returncode == 0
    refused = call("send", "--sync", "--socket", socket_path, text="nonsense\n")
    assert refused.returncode == 1
    assert "malformed" in refused.stderr
    assert call("send", "--timeout", "0", text="").returncode == 2


@pytest.mark.parametrize("arguments", [["nosuch"], ["run", "nagios", "secret"], ["journal", "nosuch"], ["run"]])
def test_arguments_that_do_not_fit_are_said_in_words_of_ours_and_not_quoted(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "vigiloconn", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "see --help" in done.stderr.splitlines()[0]
    assert "unmatched" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("program", [
    ["vigiloconn"], ["vigiloconn", "journal"], ["vigiloconn", "bus"], ["vigiloconn.configure"]
])  # fmt: skip
def test_a_reader_that_has_seen_enough_is_no_traceback(program: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *program, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
