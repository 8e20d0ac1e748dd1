"""The `send` command's work: in-process against a scripted peer, and as a program against the real listener."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests.test_socket import MemorySink, Running, line, listening, wait_until
from vigiloconn.cli.sender import send

Answer = Callable[[bytes], bytes | None]
"""What the peer says to all that it was sent up to the half-close; None: nothing, and it keeps the connection."""


class Peer:
    """A UNIX socket whose one client is read to the end of its stream, then answered."""

    def __init__(self, path: str, answer: Answer) -> None:
        self.path = path
        self.received = b""
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        with client:
            while data := client.recv(65536):
                self.received += data
            answer = self._answer(self.received)
            if answer is None:
                self._done.wait(10)
                return
            for byte in answer:
                client.send(bytes([byte]))

    def end(self) -> None:
        self._done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


def token_of(received: bytes) -> bytes:
    return received.rstrip(b"\n").rpartition(b"sync|")[2]


@pytest.fixture
def peer_of(tmp_path: Path) -> Iterator[Callable[[Answer], Peer]]:
    peers: list[Peer] = []

    def make(answer: Answer) -> Peer:
        peers.append(Peer(str(tmp_path / "s"), answer))
        return peers[-1]

    yield make
    for peer in peers:
        peer.end()


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def test_the_input_is_copied_and_a_missing_newline_added(peer_of: Callable[[Answer], Peer]) -> None:
    peer = peer_of(lambda received: b"")
    assert send(peer.path, io.BytesIO(b"a\nb"), sync=False, timeout_s=5) == 0
    peer._thread.join(5)
    assert peer.received == b"a\nb\n"


def test_nothing_is_added_to_an_input_that_is_complete_or_empty(peer_of: Callable[[Answer], Peer]) -> None:
    peer = peer_of(lambda received: b"synced|" + token_of(received) + b"\n")
    assert send(peer.path, io.BytesIO(b""), sync=True, timeout_s=5) == 0
    assert peer.received == b"sync|" + token_of(peer.received) + b"\n"
    assert len(token_of(peer.received)) >= 16


def test_sync_ends_well_only_with_the_answer_to_its_own_token(peer_of: Callable[[Answer], Peer]) -> None:
    peer = peer_of(lambda received: b"synced|other\nfailed|older|x\nsynced|" + token_of(received) + b"\n")
    assert send(peer.path, io.BytesIO(b"sync|other\na\n"), sync=True, timeout_s=5) == 0


def test_an_answer_to_another_token_is_no_answer(peer_of: Callable[[Answer], Peer]) -> None:
    peer = peer_of(lambda received: b"synced|other\nsynced|" + token_of(received) + b"x\n")
    assert send(peer.path, io.BytesIO(b"sync|other\na\n"), sync=True, timeout_s=5) == 1


def test_a_failed_sync_shows_the_reason(
    peer_of: Callable[[Answer], Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    peer = peer_of(lambda received: b"failed|" + token_of(received) + b"|2 malformed\n")
    assert send(peer.path, io.BytesIO(b"a\n"), sync=True, timeout_s=5) == 1
    assert one_line(capsys.readouterr().err).endswith(f"{peer.path}: not everything is safe: 2 malformed\n")


def test_an_end_of_stream_instead_of_an_answer_is_a_failure(
    peer_of: Callable[[Answer], Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    peer = peer_of(lambda received: b"synced|" + token_of(received))  # its newline never comes
    assert send(peer.path, io.BytesIO(b"a\n"), sync=True, timeout_s=5) == 1
    assert "closed the connection before its answer" in one_line(capsys.readouterr().err)


def test_an_answer_that_does_not_come_ends_with_the_timeout(
    peer_of: Callable[[Answer], Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    peer = peer_of(lambda received: None)
    began_s = time.monotonic()
    assert send(peer.path, io.BytesIO(b"a\n"), sync=True, timeout_s=0.3) == 1
    assert 0.25 < time.monotonic() - began_s < 2
    assert "not done within 0.3 s" in one_line(capsys.readouterr().err)


def test_a_connector_that_does_not_read_ends_with_the_timeout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        assert send(str(tmp_path / "s"), io.BytesIO(b"a\n" * 500_000), sync=False, timeout_s=0.3) == 1
    assert "not done within 0.3 s" in one_line(capsys.readouterr().err)


def test_an_input_that_does_not_end_ends_with_the_timeout(
    peer_of: Callable[[Answer], Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    peer = peer_of(lambda received: b"")
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb", buffering=0) as sink:
        sink.write(b"a\n")
        began_s = time.monotonic()
        assert send(peer.path, source, sync=True, timeout_s=0.3) == 1
        assert time.monotonic() - began_s < 2
    assert "not done within 0.3 s" in one_line(capsys.readouterr().err)
    peer._thread.join(5)
    assert peer.received == b"a\n", "what was there by then was sent at once"


def test_a_file_is_copied_whole(peer_of: Callable[[Answer], Peer], tmp_path: Path) -> None:
    peer = peer_of(lambda received: b"synced|" + token_of(received) + b"\n")
    content = b"".join(map(line, range(20_000)))
    (tmp_path / "lines").write_bytes(content)
    with open(tmp_path / "lines", "rb") as source:
        assert send(peer.path, source, sync=True, timeout_s=5) == 0
    assert peer.received.startswith(content + b"sync|")


def test_a_timeout_beyond_all_measure_is_taken(peer_of: Callable[[Answer], Peer], tmp_path: Path) -> None:
    peer = peer_of(lambda received: b"synced|" + token_of(received) + b"\n")
    (tmp_path / "lines").write_bytes(b"a\n")
    with open(tmp_path / "lines", "rb") as source:
        assert send(peer.path, source, sync=True, timeout_s=1e300) == 0


@pytest.mark.parametrize("stale", [False, True])
def test_no_connector_is_told_with_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], stale: bool) -> None:
    path = str(tmp_path / "s")
    if stale:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
    assert send(path, io.BytesIO(b"a\n"), sync=False, timeout_s=5) == 1
    error = one_line(capsys.readouterr().err)
    assert error.startswith(f"vigilo-connector send: {path}: ")
    assert "is the connector running?" in error


def test_a_path_that_can_not_be_a_socket_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert send("/tmp/" + "x" * 200, io.BytesIO(b"a\n"), sync=False, timeout_s=5) == 1
    assert "too long" in one_line(capsys.readouterr().err)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_lack_of_permission_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o011)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o660)
        listener.listen(1)
        child = os.fork()
        if child == 0:
            status = 9
            try:
                error = open(os.open(tmp_path.parent, os.O_TMPFILE | os.O_RDWR), "w+")  # noqa: SIM115
                sys.stderr = error
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                status = send(path, io.BytesIO(b"a\n"), sync=False, timeout_s=5)
                error.seek(0)
                status += 10 * ("socket's group" in error.read())
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


def test_a_connection_that_breaks_while_writing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)

        def close_soon() -> None:
            client, _ = listener.accept()
            client.recv(10)
            client.close()

        thread = threading.Thread(target=close_soon)
        thread.start()
        assert send(str(tmp_path / "s"), io.BytesIO(b"a\n" * 500_000), sync=False, timeout_s=5) == 1
        thread.join(5)
    assert "closed the connection" in one_line(capsys.readouterr().err)


# --- against the real listener -------------------------------------------------------------------------------------


def run_send(running: Running, content: bytes, sync: bool = True, timeout_s: float = 10) -> tuple[int, str]:
    """Run the program beside the listener, whose greenlets go on meanwhile."""
    program = (
        "import sys; from vigiloconn.cli.sender import send; "
        f"sys.exit(send({running.path!r}, sys.stdin.buffer, sync={sync}, timeout_s={timeout_s}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stderr
        # One write, below the pipe's room: it does not wait for the program.
        process.stdin.write(content)
        process.stdin.close()
        wait_until(lambda: process.poll() is not None)
        return process.returncode, process.stderr.read().decode()


def test_the_listener_and_the_sender_agree(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        assert run_send(running, b"".join(map(line, range(1000))) + line(1000).rstrip()) == (0, "")
        assert sink.numbers() == list(range(1001))
        status, error = run_send(running, line(1) + b"bad\n")
        assert status == 1
        assert "not everything is safe: 1 malformed" in one_line(error)


def test_without_sync_the_lines_arrive_too(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        assert run_send(running, line(7), sync=False) == (0, "")
        wait_until(lambda: sink.numbers() == [7])


def test_a_sink_that_hangs_fails_the_sync_in_time(tmp_path: Path) -> None:
    sink = MemorySink()
    with listening(tmp_path, sink) as running:
        sink.room.clear()
        status, error = run_send(running, line(7), timeout_s=0.5)
        assert status == 1
        assert "not done within 0.5 s" in one_line(error)
        gevent.sleep(0)


def test_the_sender_starts_with_next_to_nothing() -> None:
    program = "import sys; before = set(sys.modules); import vigiloconn.cli.sender; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert set(done.stdout.split()) & {"socket", "typing", "enum", "re", "gevent", "msgspec", "docopt"} == set()
