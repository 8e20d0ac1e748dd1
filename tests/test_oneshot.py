"""One piece of work and its exit status, as a program of its own on the real broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import children
from tests.support.bus import Bus
from tests.support.connector import ROOT, render_settings
from tests.support.rabbit import RabbitNode, free_ports
from tests.support.wait import wait_until
from vigiloconn.errors import StartError
from vigiloconn.kit.lockfile import LockFile, LockHeld

_SCRIPT = ROOT / "tests" / "scenarios" / "oneshot_work.py"
#: Longer than anything but the thing that a test waits for.
_LONG_S = 60


class Script:
    """One run of the scenario script. Its log and what it prints are its `output`."""

    def __init__(self, directory: Path, number: int, settings: str, arguments: tuple[str, ...]) -> None:
        self._settings = directory / f"settings-{number}.ini"
        self._settings.write_text(settings, encoding="utf-8")
        self._log = directory / f"output-{number}"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with self._log.open("wb") as log:
            argv = [sys.executable, str(_SCRIPT), str(self._settings), *arguments]
            self.process = children.spawn(argv, env=env, cwd=directory, stdout=log)

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_output(self, text: str) -> None:
        wait_until(lambda: text in self.output, _LONG_S, f"{text!r} in the script's output")

    def status(self) -> int:
        try:
            return self.process.wait(_LONG_S)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"it runs on\n{self.output}") from exc

    def expect(self, status: int) -> None:
        assert self.status() == status, self.output


@pytest.fixture
def once(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def start(*arguments: str, hosts: str | None = None, **connector: object) -> Script:
        sections: dict[str, dict[str, object]] = {
            "bus": {"hosts": hosts or rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost},
            "connector": {"timeout": _LONG_S, **connector},
        }
        scripts.append(Script(tmp_path, len(scripts), render_settings(sections), arguments))
        return scripts[-1]

    yield start
    for script in scripts:
        children.end(script.process)


def test_work_that_returns_ends_with_0_and_its_message_is_on_the_bus(once: Callable[..., Script], bus: Bus) -> None:
    queue = bus.declare_queue("q", bus.declare_exchange("e"))
    script = once("confirm", "e", "hello")
    script.expect(0)
    assert "confirmed" in script.output
    [message] = bus.drain(queue, 1)
    assert message.json() == {"type": "event", "message": "hello"}
    assert message.routing_key == "key"


def test_work_can_use_the_connection_for_more_than_sending(once: Callable[..., Script], bus: Bus) -> None:
    once("declare", "made-by-work").expect(0)
    queue = bus.declare_queue("q", "made-by-work")
    bus.publish("made-by-work", "key", b"{}")
    assert bus.queue_depth(queue) == 1


def test_status_0_means_that_what_was_sent_and_not_waited_for_is_there_too(
    once: Callable[..., Script], bus: Bus
) -> None:
    queue = bus.declare_queue("q", bus.declare_exchange("e"))
    once("many", "e", "3000").expect(0)
    assert [message.json()["message"] for message in bus.drain_all(queue)] == [str(n) for n in range(3000)]


def test_a_refusal_that_nobody_looked_at_is_an_error(once: Callable[..., Script]) -> None:
    script = once("many", "missing", "1")
    script.expect(1)
    assert "many sent a message that was not taken" in script.output


def test_a_refusal_that_the_work_lives_with_is_none(once: Callable[..., Script]) -> None:
    script = once("look_at_refusal", "missing")
    script.expect(0)
    assert "refused 404" in script.output


def test_work_that_raises_ends_with_1_and_its_traceback(once: Callable[..., Script]) -> None:
    script = once("fail")
    script.expect(1)
    assert "RuntimeError: the work went wrong" in script.output


@pytest.mark.parametrize("name", ["GreenletExit", "Timeout", "CancelledError"])
def test_work_that_lets_out_what_is_no_exception_has_failed_and_is_not_called_again(
    once: Callable[..., Script], name: str
) -> None:
    script = once("let_out", name)
    script.expect(1)
    assert script.output.count("called\n") == 1
    assert "let_out failed" in script.output


@pytest.mark.parametrize(("asked", "status"), [("0", 0), ("7", 1)])
def test_an_exit_within_the_work_is_an_end_like_others(once: Callable[..., Script], asked: str, status: int) -> None:
    once("leave", asked).expect(status)


def test_a_client_without_work_says_so(once: Callable[..., Script]) -> None:
    script = once("nothing")
    script.expect(1)
    assert "call set_handler before run" in script.output


@pytest.mark.parametrize("work", ["wait", "spin", "spin_elsewhere"])
def test_work_beyond_its_time_is_ended_in_order(once: Callable[..., Script], work: str) -> None:
    script = once(work, timeout=2)
    script.expect(3)
    assert "working" in script.output
    assert "not done within 2 s: the work goes on" in script.output
    assert "the process is ended" not in script.output


@pytest.mark.parametrize("work", ["swallow", "hang_in_c"])
def test_work_that_nothing_can_interrupt_ends_with_its_process(once: Callable[..., Script], work: str) -> None:
    script = once(work, timeout=2, stop_timeout=0.5)
    script.expect(3)
    assert "working" in script.output
    assert "not to be interrupted: the process is ended" in script.output


def test_a_bus_that_does_not_come_within_the_limit_is_a_timeout(once: Callable[..., Script]) -> None:
    [port] = free_ports(1)
    script = once("wait", hosts=f"127.0.0.1:{port}", timeout=1)
    script.expect(3)
    assert "working" not in script.output
    assert "not done within 1 s: no connection to the bus" in script.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("work", ["wait", "spin"])
def test_a_signal_ends_it_with_1_whatever_the_work_does(
    once: Callable[..., Script], work: str, number: signal.Signals
) -> None:
    script = once(work)
    script.wait_output("working")
    script.process.send_signal(number)
    script.expect(1)
    assert f"stopped by {number.name}" in script.output


def test_a_second_one_ends_with_4_and_names_who_holds_the_lock(once: Callable[..., Script], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = once("wait", lock_file=lock)
    first.wait_output("working")
    second = once("wait", lock_file=lock)
    second.expect(4)
    assert f"lock_file {lock} is held by process {first.process.pid}" in second.output
    assert "working" not in second.output
    assert first.process.poll() is None


def test_the_file_of_a_killed_process_is_no_lock(once: Callable[..., Script], bus: Bus, tmp_path: Path) -> None:
    bus.declare_queue("q", bus.declare_exchange("e"))
    lock = tmp_path / "lock"
    first = once("wait", lock_file=lock)
    first.wait_output("working")
    children.end(first.process)
    assert lock.read_text() == f"{first.process.pid}\n"
    once("confirm", "e", "x", lock_file=lock).expect(0)
    once("confirm", "e", "x", lock_file=lock).expect(0)


def test_a_lock_file_that_can_not_be_made_is_an_error(once: Callable[..., Script], tmp_path: Path) -> None:
    script = once("wait", lock_file=tmp_path / "missing" / "lock")
    script.expect(1)
    assert "lock_file" in script.output
    assert "No such file or directory" in script.output


def test_a_lock_is_free_again_after_its_release(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first, second = LockFile(path), LockFile(path)
    first.acquire()
    with pytest.raises(LockHeld, match=f"held by process {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_link_is_not_followed_to_a_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="can't be opened"):
        LockFile(str(tmp_path / "lock")).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_socket_in_the_place_of_a_lock_is_an_error_not_a_wait(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lock"))
        with pytest.raises(StartError, match="can't be opened"):
            LockFile(str(tmp_path / "lock")).acquire()
