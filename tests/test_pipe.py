"""The command pipe on real FIFOs, full ones and broken ones included."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vigiloconn.errors import PipeClosed
from vigiloconn.nagios.pipe import ATOMIC_BYTES, CommandPipe, _next_chunk

LINE = b"[1165939739.0] PROCESS_SERVICE_CHECK_RESULT;host1;Load;0;OK\n"


class Reader:
    """Reads a FIFO when it is told to, as Nagios' worker does when it is not stopped."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.data = b""

    def read(self, max_bytes: int = 1 << 20) -> bytes:
        """Take what is there, up to `max_bytes`."""
        found = b""
        while len(found) < max_bytes:
            try:
                part = os.read(self.fd, max_bytes - len(found))
            except BlockingIOError:
                break
            if not part:
                break
            found += part
        self.data += found
        return found

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "nagios.cmd"
    os.mkfifo(path, 0o660)
    return path


@pytest.fixture
def reader(fifo: Path) -> Iterator[Reader]:
    opened = Reader(fifo)
    yield opened
    opened.close()


@pytest.fixture
def pipe(fifo: Path) -> Iterator[CommandPipe]:
    made = CommandPipe(fifo, timeout_s=0.3)
    yield made
    made.close()


def fill(pipe: CommandPipe) -> int:
    """Write whole blocks until nothing goes any more; returns how many bytes went."""
    block = b"x" * (ATOMIC_BYTES - 1) + b"\n"
    return pipe.write([block] * 1000) * len(block)


def test_commands_arrive_whole_and_in_order(pipe: CommandPipe, reader: Reader) -> None:
    lines = [b"[1.0] A;%d\n" % number for number in range(1000)]
    assert pipe.write(lines) == 1000
    assert reader.read() == b"".join(lines)
    assert pipe.stats()["commands_written"] == 1000


def test_no_write_but_that_of_a_long_line_is_above_the_atomic_size(
    pipe: CommandPipe, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    long = b"[1.0] A;" + b"x" * 6000 + b"\n"
    assert pipe.write([*[LINE] * 300, long, LINE]) == 302
    assert sizes.count(len(long)) == 1
    assert max(size for size in sizes if size != len(long)) <= ATOMIC_BYTES
    assert len(sizes) < 10


def test_without_a_reader_it_is_closed_and_without_a_file_nothing_is_made(tmp_path: Path, pipe: CommandPipe) -> None:
    with pytest.raises(PipeClosed, match="expected Nagios to read it"):
        pipe.write([LINE])
    missing = tmp_path / "missing"
    with pytest.raises(PipeClosed, match="No such file"):
        CommandPipe(missing).write([LINE])
    assert not missing.exists()


def test_a_regular_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    with pytest.raises(PipeClosed, match="expected a FIFO"):
        CommandPipe(path).write([LINE])
    assert path.read_text() == "content"


def test_a_full_pipe_gives_the_number_of_whole_commands_and_then_says_closed(pipe: CommandPipe, reader: Reader) -> None:
    count = pipe.write([LINE] * 5000)
    assert 0 < count < 5000
    with pytest.raises(PipeClosed, match="took nothing"):
        pipe.write([LINE])
    with pytest.raises(PipeClosed, match="full"):
        pipe.check()
    assert reader.read() == LINE * count
    pipe.check()


def test_a_full_pipe_is_waited_for_without_spinning(fifo: Path, reader: Reader) -> None:
    pipe = CommandPipe(fifo, timeout_s=30)
    waited: list[float] = []

    def wait(fd: int, timeout_s: float) -> None:
        waited.append(timeout_s)
        reader.read(3 * ATOMIC_BYTES)

    pipe._wait = wait
    assert pipe.write([LINE] * 5000) == 5000
    reader.read()
    assert reader.data == LINE * 5000
    assert 0 < len(waited) < 60
    assert pipe.stats()["pipe_waits"] > 0
    pipe.close()


def test_other_greenlets_run_while_it_waits_and_room_wakes_it(fifo: Path, reader: Reader) -> None:
    pipe = CommandPipe(fifo, timeout_s=30)
    total = len(LINE) * 20_000
    thread = threading.Thread(target=lambda: wait_until(
        lambda: (reader.read(), len(reader.data) >= total)[1], 30, "all is read", interval_s=0.001))
    thread.start()
    try:
        assert pipe.write([LINE] * 20_000) == 20_000
    finally:
        thread.join(30)
        pipe.close()
    assert reader.data == LINE * 20_000


def test_a_torn_line_is_finished_before_anything_else(fifo: Path, reader: Reader) -> None:
    pipe = CommandPipe(fifo, timeout_s=30)
    pipe._wait = lambda fd, timeout_s: (reader.read(2 * ATOMIC_BYTES), None)[1]
    long = b"[1.0] A;" + b"y" * 20_000 + b"\n"
    lines = [long, LINE] * 20
    assert pipe.write(lines) == 40
    reader.read()
    assert reader.data == b"".join(lines)
    pipe.close()


def test_nothing_is_put_behind_a_long_line_that_is_whole(pipe: CommandPipe, reader: Reader) -> None:
    long = b"[1.0] A;" + b"y" * 20_000 + b"\n"
    pipe.write([long])
    pipe.write([LINE])
    assert reader.read() == long + LINE


def test_a_torn_line_that_can_not_be_finished_is_ended_and_the_command_given_again_is_whole(
    pipe: CommandPipe, reader: Reader
) -> None:
    filled = fill(pipe)
    reader.read(2 * ATOMIC_BYTES)
    long = b"[1.0] A;" + b"y" * 20_000 + b"\n"
    with pytest.raises(PipeClosed):
        pipe.write([long, LINE])
    reader.read(filled + 100)
    assert pipe.write([long, LINE]) == 2
    reader.read()
    part, *rest = reader.data[filled:].splitlines(keepends=True)
    assert long.startswith(part.rstrip(b"\n"))
    assert len(part) < len(long)
    assert rest == [long, LINE]


def test_a_torn_line_does_not_outlive_its_fifo(fifo: Path, pipe: CommandPipe, reader: Reader) -> None:
    fill(pipe)
    reader.read(2 * ATOMIC_BYTES)
    with pytest.raises(PipeClosed):
        pipe.write([b"[1.0] A;" + b"y" * 20_000 + b"\n"])
    fifo.unlink()
    os.mkfifo(fifo)
    new = Reader(fifo)
    assert pipe.write([LINE]) == 1
    assert new.read() == LINE
    new.close()


def test_a_new_fifo_under_the_same_path_is_noticed_though_the_old_one_is_still_read(
    fifo: Path, pipe: CommandPipe, reader: Reader
) -> None:
    pipe.write([LINE])
    fifo.unlink()
    os.mkfifo(fifo)
    with pytest.raises(PipeClosed):
        pipe.write([LINE])
    new = Reader(fifo)
    assert pipe.write([LINE]) == 1
    assert new.read() == LINE
    assert reader.read() == LINE
    new.close()


def replace_while_waiting(fifo: Path, pipe: CommandPipe) -> list[Reader]:
    """Let another FIFO, with a reader, take the place of this one when the pipe waits for room first."""
    readers: list[Reader] = []

    def wait(fd: int, timeout_s: float) -> None:
        if not readers:
            fifo.unlink()
            os.mkfifo(fifo)
            readers.append(Reader(fifo))

    pipe._wait = wait
    return readers


def test_the_rest_of_a_line_is_never_written_into_another_fifo(fifo: Path, pipe: CommandPipe, reader: Reader) -> None:
    fill(pipe)
    reader.read(2 * ATOMIC_BYTES)
    readers = replace_while_waiting(fifo, pipe)
    long = b"[1.0] A;" + b"y" * 20_000 + b"\n"
    with pytest.raises(PipeClosed, match="replaced while it was written to"):
        pipe.write([long])
    [new] = readers
    assert new.read() == b""
    assert pipe.write([long, LINE]) == 2
    assert new.read() == long + LINE
    new.close()


def test_what_waits_for_room_when_its_fifo_is_replaced_is_said_to_be_not_written(
    fifo: Path, pipe: CommandPipe, reader: Reader
) -> None:
    filled = fill(pipe)
    readers = replace_while_waiting(fifo, pipe)
    with pytest.raises(PipeClosed, match="replaced"):
        pipe.write([LINE, LINE])
    assert readers[0].read() == b""
    reader.read()
    assert len(reader.data) == filled
    assert pipe.stats()["commands_written"] == filled // ATOMIC_BYTES
    readers[0].close()


def test_a_reader_that_takes_a_little_now_and_then_is_waited_for_anew(fifo: Path, reader: Reader) -> None:
    now = [0.0]
    pipe = CommandPipe(fifo, timeout_s=10, clock=lambda: now[0])

    def wait(fd: int, timeout_s: float) -> None:
        now[0] += 6
        reader.read(ATOMIC_BYTES)

    pipe._wait = wait
    assert pipe.write([b"[1.0] A;" + b"y" * 150_000 + b"\n"]) == 1
    assert now[0] > 20
    pipe.close()


def test_a_reader_that_takes_nothing_is_given_up_at_the_limit_and_not_before(fifo: Path, reader: Reader) -> None:
    now = [0.0]
    waits: list[float] = []
    pipe = CommandPipe(fifo, timeout_s=1, clock=lambda: now[0])

    def wait(fd: int, timeout_s: float) -> None:
        waits.append(timeout_s)
        now[0] += timeout_s

    pipe._wait = wait
    fill(pipe)
    waits.clear()
    now[0] = 100.0
    with pytest.raises(PipeClosed, match="took nothing for 1 s"):
        pipe.write([LINE])
    assert now[0] == 101.0
    assert waits == [0.25] * 4
    pipe.close()


def test_an_interrupted_pipe_still_takes_what_there_is_room_for(fifo: Path, pipe: CommandPipe, reader: Reader) -> None:
    pipe.interrupt()
    assert pipe.write([LINE]) == 1
    assert reader.read() == LINE


def test_a_torn_line_is_ended_once(fifo: Path, pipe: CommandPipe, reader: Reader) -> None:
    fill(pipe)
    reader.read(2 * ATOMIC_BYTES)
    with pytest.raises(PipeClosed):
        pipe.write([b"[1.0] A;" + b"y" * 20_000 + b"\n"])
    reader.read()
    assert pipe.write([LINE]) == 1
    assert pipe.write([LINE]) == 1
    assert reader.read() == b"\n" + LINE + LINE


@pytest.mark.parametrize(("sizes", "chunks"), [
    ([ATOMIC_BYTES], [(1, ATOMIC_BYTES)]),
    ([ATOMIC_BYTES + 1, 10], [(1, ATOMIC_BYTES + 1), (1, 10)]),
    ([ATOMIC_BYTES - 10, 10, 1], [(2, ATOMIC_BYTES), (1, 1)]),
    ([ATOMIC_BYTES - 10, 11], [(1, ATOMIC_BYTES - 10), (1, 11)]),
    ([10, ATOMIC_BYTES + 1, 10, 10], [(1, 10), (1, ATOMIC_BYTES + 1), (2, 20)]),
])
def test_commands_go_together_as_far_as_one_write_is_whole(sizes: list[int], chunks: list[tuple[int, int]]) -> None:
    commands = [b"x" * (size - 1) + b"\n" for size in sizes]
    found: list[tuple[int, int]] = []
    done = 0
    while done < len(commands):
        count, chunk = _next_chunk(commands, done)
        assert chunk == b"".join(commands[done:done + count])
        found.append((count, len(chunk)))
        done += count
    assert found == chunks


def test_a_pipe_knows_its_readers_and_its_group(fifo: Path, pipe: CommandPipe) -> None:
    assert not pipe.is_open
    assert not pipe.has_reader
    assert pipe.unread_bytes() == 0
    reader = Reader(fifo)
    pipe.check()
    assert pipe.is_open
    assert pipe.has_reader
    assert pipe.group_id() == fifo.stat().st_gid
    fill(pipe)
    assert pipe.has_reader, "a full pipe has one too"
    reader.close()
    assert not pipe.has_reader
    pipe.close()
    assert not pipe.is_open
    pipe.close()


def test_closing_says_nothing_where_nothing_is_lost(
    fifo: Path, pipe: CommandPipe, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vigiloconn.nagios.pipe"):
        pipe.write([LINE])
        pipe.close()
        pipe.check()
        reader.read()
        reader.close()
        pipe.close()
    assert caplog.text == ""


def test_what_a_killed_reader_left_is_read_by_the_next_one(fifo: Path, pipe: CommandPipe, reader: Reader) -> None:
    pipe.write([LINE] * 10)
    reader.read(3 * len(LINE))
    reader.close()
    with pytest.raises(PipeClosed, match="nobody reads it"):
        pipe.write([LINE])
    with pytest.raises(PipeClosed, match="nobody reads it"):
        pipe.check()
    new = Reader(fifo)
    pipe.check()
    assert pipe.write([b"[2.0] B;\n"]) == 1
    assert new.read() == LINE * 7 + b"[2.0] B;\n"
    new.close()


def test_a_reader_that_goes_in_the_middle_leaves_the_exact_number(pipe: CommandPipe, reader: Reader) -> None:
    def wait(fd: int, timeout_s: float) -> None:
        reader.close()

    pipe._wait = wait
    count = pipe.write([LINE] * 5000)
    assert 0 < count < 5000
    assert pipe.unread_bytes() == count * len(LINE)


def test_an_interrupt_ends_the_wait_for_room(fifo: Path, reader: Reader) -> None:
    pipe = CommandPipe(fifo, timeout_s=3600)
    pipe._wait = lambda fd, timeout_s: pipe.interrupt()
    assert 0 < pipe.write([LINE] * 5000) < 5000
    pipe.close()


def test_closing_with_unread_commands_and_no_reader_is_logged(
    pipe: CommandPipe, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.write([LINE])
    reader.close()
    with caplog.at_level(logging.WARNING, "vigiloconn.nagios.pipe"):
        pipe.close()
    assert f"{len(LINE)} bytes" in caplog.text
