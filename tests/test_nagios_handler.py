"""Commands from the bus to Nagios: units on real FIFOs, and the connector's process on the real broker."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import amqp
import pytest

from tests.support.bus import Bus
from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.errors import BadMessage, PipeClosed
from vigiloconn.handlers.message import ItemFailed
from vigiloconn.handlers.nagios import NagiosCommandHandler
from vigiloconn.nagios.commandfiles import CommandFiles
from vigiloconn.nagios.pipe import CommandPipe

SERVICE = "PROCESS_SERVICE_CHECK_RESULT"
QUEUE = "to-nagios"


def message(number: int, **fields: Any) -> dict[str, Any]:
    return {"type": "nagios", "timestamp": "1", "cmdname": SERVICE, "value": f"h;s;0;{number}", **fields}


def line(number: int) -> bytes:
    return b"[1.0] PROCESS_SERVICE_CHECK_RESULT;h;s;0;%d\n" % number


class FifoReader:
    """Stands in for Nagios: reads the FIFO when asked."""

    def __init__(self, path: Path) -> None:
        self.data = b""
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """Take all that is there and return everything so far."""
        try:
            while part := os.read(self._fd, 65536):
                self.data += part
        except BlockingIOError:
            pass
        return self.data

    def lines(self) -> list[bytes]:
        return self.read().splitlines(keepends=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


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


# -- units ---------------------------------------------------------------------------------------------------


@pytest.fixture
def handler(fifo: Path) -> Iterator[NagiosCommandHandler]:
    made = NagiosCommandHandler(CommandPipe(fifo, timeout_s=0.2), [SERVICE])
    made.subscribe(QUEUE)
    yield made
    made.close()


def test_a_batch_is_written_in_order_and_counted(handler: NagiosCommandHandler, reader: FifoReader) -> None:
    batch = [message(1), {"type": "event"}, message(2), message(3, cmdname="SHUTDOWN_PROGRAM"), message(4)]
    handler.process_messages(batch)
    assert reader.lines() == [line(1), line(2), line(4)]
    figures = handler.stats()
    assert (figures["commands_written"], figures["other_type"], figures["not_accepted"]) == (3, 1, 1)


def test_what_stands_before_a_bad_message_is_written_once_and_the_bad_one_named(
    handler: NagiosCommandHandler, reader: FifoReader
) -> None:
    batch = [message(1), message(2), {"type": "nagios", "timestamp": "1"}, message(3)]
    with pytest.raises(ItemFailed) as failed:
        handler.process_messages(batch)
    assert failed.value.done == 2
    assert isinstance(failed.value.cause, BadMessage)
    handler.process_messages(batch[3:])
    assert reader.lines() == [line(1), line(2), line(3)]


def test_what_a_full_pipe_did_not_take_is_not_done(handler: NagiosCommandHandler, reader: FifoReader) -> None:
    batch = [message(number) for number in range(5000)]
    batch[1:1] = [{"type": "perf"}]
    batch.append({"type": "perf"})
    with pytest.raises(ItemFailed) as failed:
        handler.process_messages(batch)
    assert isinstance(failed.value.cause, PipeClosed)
    assert handler.stats()["other_type"] == 1, "what is behind is not passed over yet"
    taken = len(reader.lines())
    assert 0 < taken < 5000
    assert failed.value.done == taken + 1
    handler.process_messages(batch[failed.value.done:failed.value.done + 10])
    assert reader.lines() == [line(number) for number in range(taken + 10)]


def test_without_nagios_nothing_counts_as_done(handler: NagiosCommandHandler) -> None:
    with pytest.raises(ItemFailed) as failed:
        handler.process_messages([message(1), message(2)])
    assert failed.value.done == 0
    assert isinstance(failed.value.cause, PipeClosed)


def test_an_empty_list_of_accepted_commands_is_a_warning(fifo: Path) -> None:
    made = NagiosCommandHandler(CommandPipe(fifo), [])
    made.subscribe(QUEUE)
    assert any(level == 1 and "accepted_commands" in text for _, level, text, _ in made.problems())


def grouping(fifo: Path, directory: Path) -> NagiosCommandHandler:
    made = NagiosCommandHandler(CommandPipe(fifo, timeout_s=0.2), [SERVICE], None, CommandFiles(directory))
    made.subscribe(QUEUE)
    return made


def test_several_commands_go_as_one_file_of_nagios_group_and_a_single_one_directly(
    fifo: Path, reader: FifoReader, tmp_path: Path
) -> None:
    if os.geteuid() == 0:
        os.chown(fifo, -1, 12345)
    directory = tmp_path / "commands"
    made = grouping(fifo, directory)
    made.process_messages([message(1), message(2)])
    made.process_messages([message(3)])
    made.close()
    process, single = reader.lines()
    assert single == line(3)
    [path] = directory.iterdir()
    assert process.endswith(b"] PROCESS_FILE;%s;1\n" % os.fsencode(path))
    assert abs(int(process[1:process.index(b"]")]) - time.time()) < 600
    assert path.read_bytes() == line(1) + line(2)
    for shared in (directory, path):
        assert shared.stat().st_gid == fifo.stat().st_gid
        assert not shared.stat().st_mode & stat.S_IRWXO
    assert path.stat().st_mode & stat.S_IRGRP
    assert directory.stat().st_mode & stat.S_IRWXG == stat.S_IRWXG


def test_a_file_that_nagios_was_not_told_of_does_not_stay(fifo: Path, reader: FifoReader, tmp_path: Path) -> None:
    directory = tmp_path / "commands"
    made = grouping(fifo, directory)
    made.process_messages([message(1)])
    reader.close()
    with pytest.raises(ItemFailed):
        made.process_messages([message(2), message(3)])
    assert list(directory.iterdir()) == []
    made.close()


def test_where_no_file_can_be_written_commands_go_one_by_one_with_a_warning(
    fifo: Path, reader: FifoReader, tmp_path: Path
) -> None:
    (tmp_path / "commands").write_text("not a directory")
    made = grouping(fifo, tmp_path / "commands")
    made.process_messages([message(1), message(2)])
    assert reader.lines() == [line(1), line(2)]
    assert any("no file of commands" in text for _, _, text, _ in made.problems())
    (tmp_path / "commands").unlink()
    made.process_messages([message(3), message(4)])
    assert made.problems() == []
    made.close()


class HalfPipe(CommandPipe):
    """Writes no more than two commands a call."""

    def write(self, commands: Sequence[bytes]) -> int:
        return super().write(commands[:2])


def test_what_one_write_did_not_take_the_next_ones_do(fifo: Path, reader: FifoReader) -> None:
    made = NagiosCommandHandler(HalfPipe(fifo), [SERVICE])
    made.subscribe(QUEUE)
    made.process_messages([message(number) for number in range(5)])
    assert reader.lines() == [line(number) for number in range(5)]
    made.close()


# -- the connector on the broker -----------------------------------------------------------------------------


Start = Callable[..., ConnectorProcess]


@pytest.fixture
def start(connector: Callable[..., ConnectorProcess], vhost: str, fifo: Path) -> Start:
    def start(*, prefetch: int = 500, subscriptions: str = "", **nagios: object) -> ConnectorProcess:
        made = connector(
            vhost, bus={"queue": QUEUE, "subscriptions": subscriptions, "prefetch_count": prefetch, "heartbeat": 4},
            nagios={"nagios_pipe": fifo, "accepted_commands": [SERVICE, "ADD_HOST_COMMENT"], **nagios},
        )
        made.start()
        return made

    return start


def publish(bus: Bus, *messages: Any) -> None:
    for each in messages:
        bus.publish("", QUEUE, each if isinstance(each, (dict, bytes)) else json.dumps(each), confirm=False)


def wait_lines(reader: FifoReader, count: int) -> list[bytes]:
    wait_until(lambda: len(reader.lines()) >= count, 60, f"{count} commands in the pipe")
    return reader.lines()


def depth(bus: Bus) -> int:
    return bus.queue_depth(QUEUE)


def test_commands_reach_the_pipe_in_order_and_nothing_else_does(
    start: Start, bus: Bus, reader: FifoReader, fifo: Path
) -> None:
    bus.declare_queue(QUEUE)
    publish(
        bus, message(0), {"type": "event"}, message(1, cmdname="SHUTDOWN_PROGRAM"),
        message(2, value="h;s;0;x\n[1] SHUTDOWN_PROGRAM"),
        message(3, cmdname="ADD_HOST_COMMENT", value="h;1;me;x\n[1] SHUTDOWN_PROGRAM"),
        b"not JSON", [1], {"type": "nagios", "timestamp": "1"},
        {"messages": [message(4), {"type": "state", "timestamp": 2, "host": "h", "service": "s", "code": 1,
                                   "message": "é"}, message(5)]},
        message(6),
    )
    made = start()
    found = wait_lines(reader, 6)
    assert found == [
        line(0), b"[1.0] PROCESS_SERVICE_CHECK_RESULT;h;s;0;x\\n[1] SHUTDOWN_PROGRAM\n", line(4),
        "[2.0] PROCESS_SERVICE_CHECK_RESULT;h;s;1;é\n".encode(), line(5), line(6),
    ]
    dead = bus.drain(f"{QUEUE}.dead", 4)
    assert len(dead) == 4
    assert "not in accepted_commands" in made.log_text()
    assert made.terminate() == 0
    assert reader.lines() == found
    assert depth(bus) == 0


def test_while_nagios_is_away_nothing_is_taken_and_afterwards_all_of_it(start: Start, bus: Bus, fifo: Path) -> None:
    bus.declare_queue(QUEUE)
    made = start()
    made.wait_log("commands wait on the bus")
    publish(bus, *map(message, range(300)))
    wait_until(lambda: depth(bus) == 300, 30, "all are in the queue")
    used_s = made.cpu_s()
    time.sleep(1.0)  # the period over which its idleness is measured
    assert made.cpu_s() - used_s < 0.5
    reader = FifoReader(fifo)
    assert wait_lines(reader, 300) == [line(number) for number in range(300)]
    reader.close()
    made.wait_log("nobody reads it")
    publish(bus, *map(message, range(300, 310)))
    fifo.unlink()
    os.mkfifo(fifo)
    again = FifoReader(fifo)
    assert wait_lines(again, 10) == [line(number) for number in range(300, 310)]
    again.close()
    assert made.terminate() == 0
    assert depth(bus) == 0


def test_a_command_that_comes_while_nagios_is_away_finds_its_queue(start: Start, bus: Bus, fifo: Path) -> None:
    bus.declare_exchange("commands")
    made = start(subscriptions="commands")
    made.wait_log("commands wait on the bus")

    def kept() -> bool:
        bus.publish("commands", "", message(1), confirm=False)
        try:
            return depth(bus) > 0
        except amqp.NotFound:
            return False

    wait_until(kept, 30, "a command is kept though Nagios was never there")
    reader = FifoReader(fifo)
    assert wait_lines(reader, 1)[0] == line(1)
    reader.close()


def test_a_stop_while_the_pipe_is_full_leaves_in_the_queue_exactly_what_was_not_written(
    start: Start, bus: Bus, reader: FifoReader
) -> None:
    bus.declare_queue(QUEUE)
    padding = "x" * 1000
    publish(bus, *(message(number, value=f"h;s;0;{number};{padding}") for number in range(300)))
    made = start()
    wait_until(lambda: made.process.poll() is None and depth(bus) == 0, 30, "all are delivered")
    assert made.terminate() == 0
    written = [int(text.split(b";")[4]) for text in reader.lines()]
    left = [int(text.json()["value"].split(";")[3]) for text in bus.drain_all(QUEUE)]
    assert 0 < len(written) < 300
    assert written + left == list(range(300))


def test_messages_of_other_hosts_are_acknowledged_and_a_new_list_of_hosts_is_followed(
    start: Start, bus: Bus, reader: FifoReader, tmp_path: Path
) -> None:
    bus.declare_queue(QUEUE)
    hosts = tmp_path / "hosts.cfg"
    hosts.write_text("define host {\n  host_name  h\n}\n")
    made = start(nagios_config=hosts)
    other = {"value": "other;s;0;x"}
    publish(bus, message(1, host="other"), message(2, host="h"), message(0, **other), message(3))
    assert wait_lines(reader, 2) == [line(2), line(3)]
    hosts.write_text("host_name other\n")
    made.wait_log("hosts.cfg: read again")
    publish(bus, message(4), message(5, host="h"), message(6, host="other", **other), message(7, **other))
    assert wait_lines(reader, 4)[2:] == [b"[1.0] PROCESS_SERVICE_CHECK_RESULT;other;s;0;x\n"] * 2
    assert made.terminate() == 0
    assert depth(bus) == 0


def test_grouped_commands_are_gathered_and_acknowledged_once_their_file_is_announced(
    start: Start, bus: Bus, reader: FifoReader
) -> None:
    bus.declare_queue(QUEUE)
    made = start(group_nagios_commands=True)
    made.wait_log("subscribed")
    publish(bus, *map(message, range(20)))
    found: list[bytes] = []

    def all_found() -> bool:
        found.clear()
        for text in reader.lines():
            name, _, rest = text.partition(b";")
            found.extend(Path(os.fsdecode(rest.split(b";")[0])).read_bytes().splitlines(keepends=True)
                         if name.endswith(b"PROCESS_FILE") else [text])
        return len(found) >= 20

    wait_until(all_found, 30, "all commands are passed")
    assert found == [line(number) for number in range(20)]
    assert 1 <= len(reader.lines()) <= 3
    assert b"PROCESS_FILE" in reader.data
    assert made.terminate() == 0
    assert depth(bus) == 0


def test_a_new_nagios_is_told_of_the_files_that_the_former_one_has_not_worked_off(
    start: Start, bus: Bus, fifo: Path, reader: FifoReader
) -> None:
    bus.declare_queue(QUEUE)
    made = start(group_nagios_commands=True)
    made.wait_log("subscribed")
    publish(bus, message(1), message(2))
    [told] = wait_lines(reader, 1)
    assert b"PROCESS_FILE" in told
    reader.close()
    made.wait_log("commands wait on the bus")
    publish(bus, message(3))
    successor = FifoReader(fifo)
    try:
        again, newer = wait_lines(successor, 2)
    finally:
        successor.close()
    assert again.split(b";") == [again.split(b";")[0], *told.split(b";")[1:]]
    assert newer == line(3)
