"""Nagios comes and goes: what is consumed, written and told then. Real FIFOs, a scripted bus."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.support.scripted import ScriptedChannel, ScriptedClient
from tests.test_nagios_handler import SERVICE, FifoReader, line, message
from vigiloconn.errors import SettingsError
from vigiloconn.handlers.nagios import NagiosCommandHandler, nagioscommand_factory
from vigiloconn.nagios.commandfiles import CommandFiles
from vigiloconn.nagios.pipe import CommandPipe
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Supervisor


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


class Running:
    """A handler that runs, connected to a scripted bus."""

    def __init__(self, fifo: Path, files: CommandFiles | None = None, **options: Any) -> None:
        self.handler = NagiosCommandHandler(CommandPipe(fifo, timeout_s=0.2), [SERVICE], None, files)
        self.client = ScriptedClient()
        self.handler.subscribe("q", **options)
        self.client.add_handler(self.handler)
        self.supervisor = Supervisor(stop_timeout_s=5)
        self.supervisor.add(self.handler)
        self._running = gevent.spawn(self.supervisor.run)
        self.client.connect()

    @property
    def consuming(self) -> list[ScriptedChannel]:
        assert self.client.connection is not None
        return [each for each in self.client.connection.channels.values() if each.consumers]

    def look(self) -> None:
        """Let it look at the pipe now."""
        self.handler.reload()

    def deliver(self, *messages: dict[str, Any]) -> ScriptedChannel:
        wait_for(lambda: self.consuming)
        [channel] = self.consuming
        for each in messages:
            channel.deliver(json.dumps(each).encode())
        return channel

    def reads(self) -> bool:
        return self.handler.stats()["nagios_reads"] == 1.0

    def problems(self) -> list[str]:
        return [problem.name for problem in self.handler.problems()]

    def close(self) -> None:
        self.supervisor.stop()
        self._running.join(10)
        assert self._running.dead


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "nagios.cmd"
    os.mkfifo(path, 0o660)
    return path


@pytest.fixture
def reader(fifo: Path) -> Iterator[FifoReader]:
    opened = FifoReader(fifo)
    yield opened
    opened.close()


@pytest.fixture
def running(fifo: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(*args: Any, **options: Any) -> Running:
        made.append(Running(fifo, *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_nothing_is_consumed_until_nagios_reads_and_the_queue_is_there_all_the_same(
    running: Callable[..., Running], fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = running()
        connection = made.client.connection
        assert connection is not None
        wait_for(lambda: any(channel.asked for channel in connection.opened))
        wait_for(lambda: "commands wait on the bus" in caplog.text)
    assert [name for channel in connection.opened for name, _, _ in channel.asked] == ["queue_declare"]
    assert not made.reads()
    assert made.problems() == ["queue-paused"]
    reader = FifoReader(fifo)
    with caplog.at_level(logging.INFO):
        made.look()
        channel = made.deliver(message(1))
        wait_for(lambda: not channel.unsettled)
        for _ in range(3):
            made.look()
            gevent.sleep(0.01)
    assert caplog.text.count("Nagios reads") == 1
    assert reader.lines() == [line(1)]
    assert made.reads()
    assert made.problems() == []
    reader.close()


def test_when_nagios_goes_consumption_ends_and_the_reason_is_told_once(
    running: Callable[..., Running], reader: FifoReader, caplog: pytest.LogCaptureFixture
) -> None:
    made = running()
    channel = made.deliver(message(1))
    wait_for(lambda: not channel.unsettled)
    reader.close()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            made.look()
            gevent.sleep(0.01)
        wait_for(lambda: not channel.is_open)
    assert caplog.text.count("nobody reads it") == 1
    assert made.problems() == ["queue-paused"]


def test_what_could_not_be_written_goes_back_and_is_written_once_when_nagios_is_back(
    running: Callable[..., Running], fifo: Path, reader: FifoReader
) -> None:
    made = running()
    channel = made.deliver(message(1))
    wait_for(lambda: not channel.unsettled)
    assert reader.lines() == [line(1)]
    reader.close()
    made.deliver(message(2), message(3))
    wait_for(lambda: not channel.is_open)
    assert channel.unsettled == [2, 3]
    successor = FifoReader(fifo)
    made.look()
    again = made.deliver(message(2), message(3))
    wait_for(lambda: not again.unsettled)
    assert successor.lines() == [line(2), line(3)]
    successor.close()


def test_a_full_pipe_is_a_pause_too(running: Callable[..., Running], reader: FifoReader) -> None:
    made = running()
    channel = made.deliver(*(message(number, value="h;s;0;" + "x" * 5000) for number in range(20)))
    wait_for(lambda: not channel.is_open)
    wait_for(lambda: made.problems() == ["queue-paused"])
    written = sum(each.endswith(b"\n") for each in reader.lines())
    assert 0 < written < 20
    assert channel.unsettled == list(range(written + 1, 21))


def test_a_stop_waits_for_no_room_in_the_pipe(running: Callable[..., Running], reader: FifoReader) -> None:
    made = running()
    made.handler._pipe._timeout_s = 3600.0
    channel = made.deliver(*(message(number, value="h;s;0;" + "x" * 5000) for number in range(20)))
    wait_for(lambda: made.handler.stats()["pipe_waits"])
    made.close()
    assert not channel.is_open, "it ended in order"
    written = sum(each.endswith(b"\n") for each in reader.lines())
    assert channel.unsettled == list(range(written + 1, 21))


def test_a_look_does_not_disturb_a_write_that_waits_for_room(
    running: Callable[..., Running], reader: FifoReader
) -> None:
    made = running()
    made.handler._pipe._timeout_s = 3600.0
    channel = made.deliver(*(message(number, value="h;s;0;" + "x" * 5000) for number in range(20)))
    wait_for(lambda: made.handler.stats()["pipe_waits"])
    made.look()
    gevent.sleep(0.01)
    assert made.problems() == []

    def read_all() -> bool:
        reader.read()
        return not channel.unsettled

    wait_for(read_all)
    assert channel.is_open


def test_commands_that_come_together_go_as_one_file(
    running: Callable[..., Running], reader: FifoReader, tmp_path: Path
) -> None:
    made = running(CommandFiles(tmp_path / "commands"), prefetch_messages=3)
    channel = made.deliver(message(1))
    wait_for(lambda: not made.handler.stats()["ready"])
    made.deliver(message(2), message(3))
    wait_for(lambda: not channel.unsettled)
    [told] = reader.lines()
    path = Path(os.fsdecode(told.split(b";")[1]))
    assert path.read_bytes() == line(1) + line(2) + line(3)
    assert made.handler.stats()["command_files"] == 1
    assert made.problems() == []


def test_a_nagios_that_comes_is_told_of_our_files_first_and_of_no_others(
    running: Callable[..., Running], fifo: Path, tmp_path: Path
) -> None:
    files = CommandFiles(tmp_path / "commands")
    left = [files.write([line(number)], os.getegid()) for number in (1, 2)]
    (files.directory / "x;1\n[0] SHUTDOWN_PROGRAM;y.commands").touch()
    made = running(files, prefetch_messages=1)
    reader = FifoReader(fifo)
    made.look()
    channel = made.deliver(message(3))
    wait_for(lambda: not channel.unsettled)
    found = reader.lines()
    assert [Path(os.fsdecode(each.split(b";")[1])) for each in found[:2]] == left
    assert found[2:] == [line(3)]
    made.look()
    gevent.sleep(0.01)
    assert len(reader.lines()) == 3, "once is enough while it is there"
    reader.close()
    made.look()
    wait_for(lambda: not made.reads())
    successor = FifoReader(fifo)
    made.look()
    wait_for(made.reads)
    assert [each.split(b";")[1] for each in successor.lines()] == [os.fsencode(path) for path in left]
    successor.close()


def test_files_that_nagios_does_not_read_are_a_problem(
    running: Callable[..., Running], reader: FifoReader, tmp_path: Path
) -> None:
    files = CommandFiles(tmp_path / "commands")
    path = files.write([line(1)], os.getegid())
    os.utime(path, (path.stat().st_mtime - 120,) * 2)
    made = running(files)
    wait_for(lambda: made.problems() == ["command-files-unread"])


def settings(text: str = "", nagios: str = "") -> Any:
    return parse_settings(f"[bus]\nqueue = q\n{text}\n[connector-nagios]\n{nagios}\n", Path("x.ini"))


def test_a_handler_is_made_from_the_settings(fifo: Path, tmp_path: Path) -> None:
    made = nagioscommand_factory(
        settings(nagios=f"nagios_pipe = {fifo}\naccepted_commands = {SERVICE},"), None, client=ScriptedClient()
    )
    assert made.problems() == []
    with pytest.raises(SettingsError, match="nagios_pipe"):
        nagioscommand_factory(settings(), None, client=ScriptedClient())
    unfit = settings(
        "[connector]\nbackup_file = :memory:", f"nagios_pipe = {tmp_path}/a;b/p\ngroup_nagios_commands = on"
    )
    with pytest.raises(SettingsError, match="without ';'"):
        nagioscommand_factory(unfit, None, client=ScriptedClient())


def test_process_file_among_the_accepted_commands_is_a_warning(
    fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        NagiosCommandHandler(CommandPipe(fifo), [SERVICE]).start_service()
        assert caplog.text == ""
        NagiosCommandHandler(CommandPipe(fifo), ["PROCESS_FILE"]).start_service()
    assert "with PROCESS_FILE any command passes" in caplog.text
