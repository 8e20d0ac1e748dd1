"""The UNIX socket, on a real one, with a sink in memory. Greenlets run in this process; nothing is patched."""

from __future__ import annotations

import errno
import grp
import json
import logging
import os
import socket as stdlib_socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from vigiloconn.errors import StartError
from vigiloconn.interfaces import Batch
from vigiloconn.kit import descriptors
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.socket import SocketListener
from vigiloconn.sources.lines import LineSplitter, Sync, TooLong
from vigiloconn.supervisor import Supervisor

DEADLINE_S = 5.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "condition did not come true in time"
        gevent.sleep(0.002)


def line(number: int, writer: str = "w") -> bytes:
    return b"event|%d|%s|Load|OK|fine\n" % (number, writer.encode())


class MemorySink:
    """Keeps batches. Takes none while `room` is clear; says that they are safe at once, or when told to."""

    def __init__(self) -> None:
        self.room = Event()
        self.room.set()
        self.accepts_at_once = True
        self.waiting = 0
        self.batches: list[Batch] = []

    def put(self, batch: Batch) -> None:
        self.waiting += 1
        self.room.wait()
        self.waiting -= 1
        self.batches.append(batch)
        if self.accepts_at_once and batch.on_accepted:
            batch.on_accepted()

    def messages(self) -> list[dict[str, str]]:
        return [json.loads(body) for batch in self.batches for _, body in batch.items]

    def numbers(self, writer: str = "w") -> list[int]:
        return [int(message["timestamp"]) for message in self.messages() if message["host"] == writer]


class Running:
    """A listener under a supervisor, and writers for it."""

    def __init__(self, path: str, sink: MemorySink, **options: object) -> None:
        self.path = path
        self.sink = sink
        self.supervisor = Supervisor(stop_timeout_s=2.0)
        self.listener = SocketListener(path, sink, **options)  # type: ignore[arg-type]
        self.supervisor.add(self.listener)
        self.life = gevent.spawn(self.supervisor.run)
        self._writers: list[socket.socket] = []
        wait_until(lambda: self.listener._inode or self.life.dead)

    def writer(self) -> socket.socket:
        writer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        writer.settimeout(DEADLINE_S)
        writer.connect(self.path)
        self._writers.append(writer)
        return writer

    def write(self, data: bytes) -> None:
        """Write `data` on a connection of its own and close it."""
        writer = self.writer()
        writer.sendall(data)
        writer.close()

    def ask(self, data: bytes) -> bytes:
        """Write `data`, half-close, and return all that is answered until the end of the stream."""
        writer = self.writer()
        writer.sendall(data)
        writer.shutdown(socket.SHUT_WR)
        return read_all(writer)

    def stat(self, name: str) -> float:
        return self.listener.stats()[name]

    def stop(self) -> int:
        self.supervisor.stop()
        self.life.join(timeout=DEADLINE_S)
        assert self.life.dead
        return self.life.value or 0

    def end(self) -> None:
        self.sink.room.set()
        self.stop()
        for writer in self._writers:
            writer.close()


def read_all(reader: socket.socket) -> bytes:
    answer = b""
    while data := reader.recv(65536):
        answer += data
    return answer


@contextmanager
def listening(path: Path, sink: MemorySink | None = None, **options: object) -> Iterator[Running]:
    running = Running(str(path / "send.sock"), sink or MemorySink(), **options)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with listening(tmp_path) as it:
        yield it


# --- lines ---------------------------------------------------------------------------------------------------------


def test_lines_arrive_as_messages_in_order(running: Running) -> None:
    running.write(b"".join(map(line, range(5000))))
    wait_until(lambda: len(running.sink.messages()) == 5000)
    assert running.sink.numbers() == list(range(5000))
    assert running.sink.messages()[0] == {
        "type": "event", "timestamp": "0", "host": "w", "service": "Load", "state": "OK", "message": "fine",
    }
    assert running.stat("received") == 5000
    assert all(batch.size_bytes == sum(len(body) for _, body in batch.items) for batch in running.sink.batches)


def test_a_chunk_of_lines_travels_as_one_batch(running: Running) -> None:
    running.write(b"".join(map(line, range(300))))
    wait_until(lambda: running.stat("received") == 300)
    assert [len(batch.items) for batch in running.sink.batches] == [300]


def test_a_line_that_comes_in_pieces_is_one_line(running: Running) -> None:
    writer = running.writer()
    for piece in (b"event|1|w|Lo", b"ad|OK|fi", b"ne", b"\nevent|2|w|Load|OK|fine\n"):
        writer.sendall(piece)
        gevent.sleep(0.01)
    wait_until(lambda: running.sink.numbers() == [1, 2])


def test_a_last_line_without_newline_counts_at_the_end_of_the_stream(running: Running) -> None:
    running.write(line(1) + line(2).rstrip(b"\n"))
    wait_until(lambda: running.sink.numbers() == [1, 2])


def test_three_writers_each_arrive_whole_and_in_order(running: Running) -> None:
    def write(name: str) -> None:
        writer = running.writer()
        for start in range(0, 10_000, 100):
            writer.sendall(b"".join(line(number, name) for number in range(start, start + 100)))
        writer.close()

    gevent.joinall([gevent.spawn(write, name) for name in "abc"], timeout=DEADLINE_S)
    wait_until(lambda: running.stat("received") == 30_000)
    for name in "abc":
        assert running.sink.numbers(name) == list(range(10_000))


def test_a_malformed_line_is_counted_and_the_others_pass(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.write(line(1) + b"gar\x1bbage" + b"x" * 500 + b"\nsync|a|b\nsync|\n" + line(2))
    wait_until(lambda: running.sink.numbers() == [1, 2])
    assert running.stat("malformed") == 3
    [record] = [r for r in caplog.records if "malformed" in r.getMessage()]
    assert "gar\\x1bbage" in record.getMessage()
    assert "x" * 192 in record.getMessage()
    assert "x" * 193 not in record.getMessage()


def test_a_line_over_the_limit_is_skipped_and_the_connection_goes_on(running: Running) -> None:
    head = b"event|7|w|Load|OK|"
    longest = head + b"x" * (65536 - len(head))
    running.write(line(1) + longest + b"\n" + longest + b"x\n" + line(2) + b"y" * 300_000 + b"\n" + line(3))
    wait_until(lambda: running.sink.numbers() == [1, 7, 2, 3])
    assert running.stat("too_long") == 2
    assert running.stat("malformed") == 0
    assert running.stat("connections_total") == 1


def test_many_greedy_writers_that_wait_hold_little_of_what_they_write(running: Running) -> None:
    writers = [running.writer() for _ in range(50)]
    wait_until(lambda: running.stat("connections") == 50)
    running.sink.room.clear()
    for writer in writers:
        writer.sendall(line(1) * 2000)
    wait_until(lambda: running.sink.waiting == 50)
    running.sink.room.set()
    wait_until(lambda: len(running.sink.messages()) == 100_000)
    held = sum(len(batch.items) * len(line(1)) for batch in running.sink.batches[:50])
    assert held <= 1 << 20


def test_an_endless_line_takes_no_memory(tmp_path: Path) -> None:
    splitter = LineSplitter(1000)
    parts = [part for _ in range(1000) for part in splitter.feed(b"z" * 900)]
    assert parts == [TooLong(b"z" * 200)]
    assert splitter.unfinished_bytes == 0
    assert splitter.feed(b"z\nok\n") == [[b"ok"]]


@given(
    st.lists(st.sampled_from([b"", b"a", b"sync|t", b"sync|a|b", b"12345678", b"123456789", b"\xff\x00", b"b\r"])),
    st.booleans(),
    st.integers(1, 7),
)
def test_where_chunks_are_cut_makes_no_difference(lines: list[bytes], last_newline: bool, size: int) -> None:
    stream = b"\n".join(lines) + (b"\n" if last_newline and lines else b"")
    splitter = LineSplitter(8)
    found: list[object] = []
    for start in range(0, len(stream), size):
        for part in splitter.feed(stream[start:start + size]):
            found.extend(part if isinstance(part, list) else [part])
    for part in splitter.finish():
        found.extend(part if isinstance(part, list) else [part])
    special: dict[bytes, object] = {b"sync|t": Sync("t"), b"123456789": TooLong(b"123456789")}
    # Where an over-long line has been cut before its end, its start is all that is known of it.
    assert [TooLong(b"123456789") if isinstance(part, TooLong) else part for part in found if part != b""] == [
        special.get(text, text) for text in lines if text
    ]


# --- back-pressure and fairness ------------------------------------------------------------------------------------


def test_a_full_sink_holds_back_its_writer_and_loses_nothing(running: Running) -> None:
    running.sink.room.clear()
    writer = running.writer()
    sent = 0
    writer.setblocking(False)
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            writer.send(line(sent))
            sent += 1
        except BlockingIOError:
            if running.sink.waiting:
                break
            gevent.sleep(0.005)
    gevent.sleep(0.05)
    assert running.sink.waiting == 1
    assert running.sink.batches == []
    running.sink.room.set()
    writer.close()
    wait_until(lambda: len(running.sink.numbers()) >= sent)
    assert running.sink.numbers() == list(range(sent))


def test_greedy_writers_do_not_starve_the_loop(running: Running) -> None:
    ends = Event()

    def write() -> None:
        writer = running.writer()
        chunk = b"".join(map(line, range(2000)))
        while not ends.is_set():
            writer.sendall(chunk)

    writers = [gevent.spawn(write) for _ in range(3)]
    wait_until(lambda: running.stat("received") > 1000)
    ticks = 0
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        gevent.sleep(0.001)
        ticks += 1
    ends.set()
    gevent.joinall(writers, timeout=DEADLINE_S)
    # A loop that one connection keeps to itself lets a timer through a few times at most.
    assert ticks > 10


# --- sync ----------------------------------------------------------------------------------------------------------


def test_sync_is_answered_once_what_stands_before_it_is_safe(running: Running) -> None:
    running.sink.accepts_at_once = False
    writer = running.writer()
    writer.sendall(line(1) + line(2) + b"sync|abc\n" + line(3))
    wait_until(lambda: running.sink.numbers() == [1, 2, 3])
    asked = [index for index, batch in enumerate(running.sink.batches) if batch.on_accepted]
    assert len(asked) == 1
    before = [len(batch.items) for batch in running.sink.batches[: asked[0] + 1]]
    assert sum(before) == 2
    with pytest.raises(TimeoutError), gevent.Timeout(0.05, TimeoutError):
        writer.recv(100)
    on_accepted = running.sink.batches[asked[0]].on_accepted
    assert on_accepted is not None
    on_accepted()
    assert writer.recv(100) == b"synced|abc\n"
    assert running.stat("synced") == 1


def test_sync_is_answered_after_a_half_close_and_without_newline(running: Running) -> None:
    assert running.ask(line(1) + b"sync|abc") == b"synced|abc\n"
    assert running.sink.numbers() == [1]


def test_an_answer_is_awaited_after_a_half_close(running: Running) -> None:
    running.sink.accepts_at_once = False
    writer = running.writer()
    writer.sendall(b"sync|t\n")
    writer.shutdown(socket.SHUT_WR)
    wait_until(lambda: running.sink.batches)
    gevent.sleep(0.02)
    assert running.stat("connections") == 1
    on_accepted = running.sink.batches[0].on_accepted
    assert on_accepted is not None
    on_accepted()
    assert read_all(writer) == b"synced|t\n"
    wait_until(lambda: running.stat("connections") == 0)


def test_a_failure_is_told_once_and_to_the_sync_behind_it(running: Running) -> None:
    answers = running.ask(
        b"sync|1\n" + line(1) + b"bad\n" + b"x" * 70_000 + b"\nsync|2\n" + line(2) + b"sync|3\n" + b"bad|\nsync|4\n"
    ).split(b"\n")
    assert answers[0] == b"synced|1"
    assert answers[1] == b"failed|2|1 malformed, 1 too long"
    assert answers[2] == b"synced|3"
    assert answers[3] == b"failed|4|1 malformed"
    assert (running.stat("synced"), running.stat("failed")) == (2, 2)
    assert running.sink.numbers() == [1, 2]


def test_another_connection_does_not_hear_of_a_failure(running: Running) -> None:
    running.write(b"bad\n")
    assert running.ask(line(1) + b"sync|t\n") == b"synced|t\n"


def test_dropped_messages_fail_the_sync_that_stands_behind_them_and_no_other(running: Running) -> None:
    running.sink.accepts_at_once = False
    writer = running.writer()
    writer.sendall(line(1) + b"sync|1\n" + line(2) + b"sync|2\n" + line(3) + b"sync|3\n")
    wait_until(lambda: len(running.sink.batches) == 3)
    first, second, third = running.sink.batches
    assert second.writer is not None
    # Told before the first one is safe, as by a full policy that decides when it is given the batch.
    second.writer.dropped(1, "full|\njournal")
    for batch in (first, second, third):
        assert batch.on_accepted is not None
        batch.on_accepted()
    writer.shutdown(socket.SHUT_WR)
    assert read_all(writer) == b"synced|1\nfailed|2|1 dropped: full/ journal\nsynced|3\n"


def test_answers_keep_their_order_even_if_the_sink_does_not(running: Running) -> None:
    running.sink.accepts_at_once = False
    writer = running.writer()
    writer.sendall(b"sync|1\nsync|2\n")
    writer.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(running.sink.batches) == 2)
    for batch in reversed(running.sink.batches):
        assert batch.on_accepted is not None
        batch.on_accepted()
    assert read_all(writer) == b"synced|1\nsynced|2\n"


def test_a_peer_that_does_not_read_its_answers_is_disconnected_and_others_go_on(running: Running) -> None:
    deaf = running.writer()

    def write() -> None:
        try:
            while True:
                deaf.sendall(b"".join(b"sync|%0100d\n" % number for number in range(100)))
        except OSError:
            pass

    greenlet = gevent.spawn(write)
    wait_until(lambda: greenlet.dead)
    assert running.ask(line(1) + b"sync|t\n") == b"synced|t\n"
    wait_until(lambda: running.stat("connections") == 0)


def test_open_questions_of_one_writer_are_bounded(running: Running) -> None:
    running.sink.accepts_at_once = False
    writer = running.writer()
    writer.sendall(b"".join(b"sync|%d\n" % number for number in range(300)))
    wait_until(lambda: len(running.sink.batches) == 100)
    gevent.sleep(0.02)
    assert len(running.sink.batches) == 100
    answers = b""
    for number in range(300):
        wait_until(lambda number=number: len(running.sink.batches) > number)  # type: ignore[misc]
        on_accepted = running.sink.batches[number].on_accepted
        assert on_accepted is not None
        on_accepted()
        answers += writer.recv(1000)
    assert answers == b"".join(b"synced|%d\n" % number for number in range(300))


def test_a_peer_that_goes_without_reading_its_answer_loses_no_line(running: Running) -> None:
    running.sink.room.clear()
    writer = running.writer()
    writer.sendall(line(1) + b"sync|t\n")
    wait_until(lambda: running.sink.waiting)
    writer.sendall(b"".join(map(line, range(2, 1000))) + b"sync|u\n" + line(1000).rstrip())
    # Our answer lies unread in its buffer when it closes: a reset on our side.
    running.sink.room.set()
    wait_until(lambda: running.stat("synced") >= 1)
    writer.close()
    wait_until(lambda: running.stat("connections") == 0)
    assert running.sink.numbers() == list(range(1, 1001))
    assert not running.life.dead
    assert running.supervisor.crashes == 0


# --- start ---------------------------------------------------------------------------------------------------------


def started(path: str, group: str | None = None) -> SocketListener:
    listener = SocketListener(path, MemorySink(), group=group)
    listener.start_service()
    return listener


def test_the_socket_is_open_to_owner_and_group_only(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    mask = os.umask(0)
    try:
        listener = started(path)
    finally:
        assert os.umask(mask) == 0
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    listener.close()
    assert not os.path.exists(path)


def test_the_socket_is_the_owners_alone_until_its_group_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    chmod = os.chmod

    def see(path: str, mode: int) -> None:
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr("vigiloconn.sources.sockfile.os.chmod", see)
    started(str(tmp_path / "s")).close()
    assert modes == [0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to any group")
def test_the_socket_belongs_to_the_group_of_the_settings(tmp_path: Path) -> None:
    group = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, os.getegid()))
    listener = started(str(tmp_path / "s"), group=group.gr_name)
    assert os.stat(tmp_path / "s").st_gid == group.gr_gid
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o660
    listener.close()


def test_an_unknown_group_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"socket_group.*no-such-group"):
        started(str(tmp_path / "s"), group="no-such-group")
    assert not (tmp_path / "s").exists()


def test_a_live_socket_is_refused_and_left_alone(running: Running) -> None:
    with pytest.raises(StartError, match="another process is listening"):
        started(running.path)
    assert running.ask(line(1) + b"sync|t\n") == b"synced|t\n"


def test_a_live_socket_with_a_full_backlog_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    waiting = []
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        while True:
            client = stdlib_socket.socket(stdlib_socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(StartError, match="another process is listening"):
            started(path)
    for client in waiting:
        client.close()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "send.sock")
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as old:
        old.bind(path)
    assert os.path.exists(path)
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        assert running.ask(line(1) + b"sync|t\n") == b"synced|t\n"


def test_what_is_not_a_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError, match="expected nothing or a socket"):
        started(str(path))
    assert path.read_text() == "precious"


def test_a_missing_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"expected a directory .*/missing"):
        started(str(tmp_path / "missing" / "s"))


def test_a_path_that_is_too_long_is_refused_with_the_limit(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="107"):
        started("/tmp/" + "x" * 103)
    # The longest path that UNIX sockets take passes the check, so the limit is theirs and not ours.
    with pytest.raises(StartError, match="expected a directory"):
        started("/no-such-directory/".ljust(107, "x"))


def test_a_socket_that_took_our_place_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = started(path)
    os.unlink(path)
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as other:
        other.bind(path)
        listener.close()
        assert os.path.exists(path)


# --- stop and trouble ----------------------------------------------------------------------------------------------


def test_the_stop_takes_what_was_written_before_it_and_refuses_the_rest(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        sink.room.clear()
        writers = [running.writer() for _ in range(3)]
        for number, writer in enumerate(writers):
            writer.sendall(b"".join(line(n, f"w{number}") for n in range(1000)))
        wait_until(lambda: sink.waiting == 3)
        for number, writer in enumerate(writers):
            writer.sendall(b"".join(line(n, f"w{number}") for n in range(1000, 1500)) + b"event|1|w0|Load|OK|cut of")
        running.supervisor.stop()
        sink.room.set()
        assert running.stop() == 0
        for number, writer in enumerate(writers):
            assert sink.numbers(f"w{number}") == list(range(1500)), "the cut line must not be there either"
            with pytest.raises(OSError, match="Broken pipe"):
                writer.sendall(line(1))
        assert not os.path.exists(running.path)


def test_the_stop_takes_writers_that_were_not_accepted_yet(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as writer:
            # The stdlib's socket does not switch: nothing is accepted before the stop.
            writer.connect(running.path)
            writer.sendall(line(1) + line(2).rstrip(b"\n"))
        running.supervisor.stop()
        running.stop()
        assert running.stat("connections_total") == 1
        assert sink.numbers() == [1, 2], "it had come to its end by itself, so its last line is whole"


def test_the_stop_does_not_wait_for_a_writer_that_it_accepts_last(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running, stdlib_socket.socket(stdlib_socket.AF_UNIX) as writer:
        writer.connect(running.path)
        writer.sendall(line(1))
        began_s = time.monotonic()
        running.stop()
        assert time.monotonic() - began_s < 0.5
        assert sink.numbers() == [1]


def test_the_stop_with_idle_writers_is_quick(running: Running) -> None:
    for _ in range(3):
        running.writer()
    wait_until(lambda: running.stat("connections") == 3)
    began_s = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began_s < 0.5
    assert running.stat("connections") == 0


def test_the_stop_ends_although_the_sink_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        sink.room.clear()
        running.write(line(1))
        wait_until(lambda: sink.waiting)
        began_s = time.monotonic()
        running.stop()
        assert 0.5 < time.monotonic() - began_s < 1.8, "half of the stop's time is for the others"
        assert "1 writers cut off" in caplog.text


def test_a_pending_answer_is_sent_during_the_stop(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        sink.accepts_at_once = False
        writer = running.writer()
        writer.sendall(line(1) + b"sync|t\n")
        wait_until(lambda: sink.batches)
        running.supervisor.stop()
        gevent.sleep(0.02)
        on_accepted = sink.batches[0].on_accepted
        assert on_accepted is not None
        on_accepted()
        assert read_all(writer) == b"synced|t\n"
        assert running.stop() == 0


class ShortOfDescriptors:
    """A listening socket that fails with EMFILE a few times before it goes on."""

    def __init__(self, listener: socket.socket, times: int) -> None:
        self._listener = listener
        self.times = times

    def accept(self) -> object:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()

    def shutdown(self, how: int) -> None:
        self._listener.shutdown(how)

    def settimeout(self, value: float) -> None:
        self._listener.settimeout(value)

    def close(self) -> None:
        self._listener.close()


def test_a_lack_of_descriptors_delays_new_writers_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vigiloconn.socket._NO_ROOM_PAUSE_S", 0.05)
    supervisor = Supervisor()
    sink = MemorySink()
    listener = SocketListener(str(tmp_path / "s"), sink)
    supervisor.add(listener)
    listener.start_service()
    assert listener._listener is not None
    short = ShortOfDescriptors(listener._listener, times=3)
    listener._listener = short  # type: ignore[assignment]
    began_s = time.monotonic()
    life = gevent.spawn(listener.run)
    with socket.socket(socket.AF_UNIX) as writer:
        writer.connect(listener.path)
        writer.sendall(line(1))
    wait_until(lambda: sink.numbers() == [1])
    assert time.monotonic() - began_s >= 0.15, "it must wait between its attempts"
    assert caplog.text.count("Too many open files") == 1
    listener.stop_service()
    listener.stop_service()
    life.join(timeout=DEADLINE_S)
    assert life.successful()
    listener.close()


@contextmanager
def _few_descriptors(tmp_path: Path, writers: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A listener that may have so many writers."""
    used = os.dup(0)
    os.close(used)
    # The test's end of each connection needs one as well; the listener itself takes one, and one is for an odd chance.
    monkeypatch.setattr("vigiloconn.kit.descriptors.RESERVE", 0)
    with listening(tmp_path, MemorySink(), max_descriptors=used + 1 + 2 * writers) as running:
        yield running


def test_writers_that_would_take_the_last_descriptors_are_refused_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with _few_descriptors(tmp_path, 5, monkeypatch) as running:
        writers = []
        for count in range(1, 21):
            # One after the other, or the test's own ends take all the low numbers.
            writers.append(running.writer())
            wait_until(lambda count=count: running.stat("connections") + running.stat("refused") == count)
        served = int(running.stat("connections"))
        assert 1 <= served <= 5
        (problem,) = running.listener.problems()
        assert (problem.name, problem.level) == ("writers-refused", 2)
        assert caplog.text.count("writer refused") == 1
        for writer in writers[served:]:
            assert read_all(writer) == b""
        writers[0].sendall(line(1) + b"sync|t\n")
        writers[0].shutdown(socket.SHUT_WR)
        assert read_all(writers[0]) == b"synced|t\n"
        # A writer that comes when there is room again is served.
        for writer in writers:
            writer.close()
        wait_until(lambda: running.stat("connections") == 0)
        assert running.ask(line(2) + b"sync|t\n") == b"synced|t\n"
        assert running.sink.numbers() == [1, 2]


def test_a_limit_on_open_files_that_leaves_none_for_writers_is_refused_by_name(tmp_path: Path) -> None:
    listener = SocketListener(str(tmp_path / "s"), MemorySink(), max_descriptors=descriptors.RESERVE + 3)
    with pytest.raises(StartError, match="limit on open files leaves none for writers"):
        listener.start_service()
    assert not (tmp_path / "s").exists()


def test_the_soft_limit_on_open_files_is_raised_to_the_hard_one() -> None:
    script = (
        "import resource\n"
        "from vigiloconn.kit import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(descriptors.limit(), descriptors.raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "100 300 (300, 300)"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_socket_file_that_is_not_ours_any_more_is_noticed_and_said_once(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vigiloconn.socket._FILE_CHECK_S", 0.01)
    with listening(tmp_path, MemorySink()) as running, socket.socket(socket.AF_UNIX) as other:
        assert running.listener.problems() == []
        os.rename(running.path, f"{running.path}.old")
        if how == "replaced":
            other.bind(running.path)
        wait_until(running.listener.problems)
        (problem,) = running.listener.problems()
        assert (problem.name, problem.level) == ("socket-file", 2)
        assert ("removed" if how == "removed" else "another file") in problem.text
        running.listener.check_file()
        assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1
        os.rename(f"{running.path}.old", running.path)
        wait_until(lambda: not running.listener.problems())


def test_a_crash_of_a_connection_restarts_the_listener_on_the_same_socket(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        put = sink.put

        def fail(batch: Batch) -> None:
            sink.put = put  # type: ignore[method-assign]
            raise RuntimeError("the sink is broken")

        sink.put = fail  # type: ignore[method-assign]
        running.write(line(1))
        wait_until(lambda: running.supervisor.crashes == 1)
        assert running.ask(line(2) + b"sync|t\n") == b"synced|t\n"
        assert sink.numbers() == [2]
        assert running.stat("connections") == 0 or running.stat("connections") == 1


# --- the limited log -----------------------------------------------------------------------------------------------


def test_the_limited_log_shows_the_first_then_one_a_period_with_the_number_kept_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 0.0
    limited = RateLimitedLog(logging.getLogger("test"), period_s=10.0, clock=lambda: now_s)
    for second in (0, 1, 9.9, 10, 11, 25, 40):
        now_s = second
        limited("bad: %s", second)
    assert [record.getMessage() for record in caplog.records] == [
        "bad: 0",
        "bad: 10 (and 2 more since the last such line)",
        "bad: 25 (and 1 more since the last such line)",
        "bad: 40",
    ]
