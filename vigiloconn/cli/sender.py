"""The `send` command: copies lines to a connector's UNIX socket. Imports as little as it can."""

from __future__ import annotations

# Nagios starts this program for every result. `socket` and `typing` would more than double what it takes to start
# (20 ms in place of 9): `_socket` is what the former wraps, and the latter only serves the type checker.
import _socket
import os
import select
import time

from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, fail, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_PROGRAM = "vigilo-connector send"
_CHUNK_BYTES = 65536
#: A wait that lasts for longer is told, with its reason.
_TOLD_AFTER_S = 2.0
#: The longest single wait: poll() takes milliseconds in 31 bits.
_MAX_WAIT_S = 1_000_000.0


class _Failure(Exception):
    """Raised with the one line that the user is shown."""


class _Patience:
    """Waits for the connector until the deadline, and says why it has to; again when the reason is another one."""

    def __init__(self, socket_path: str, deadline_s: float) -> None:
        self._socket_path = socket_path
        self._deadline_s = deadline_s
        self._told = ""

    def wait(self, connection: _socket.socket, event: int) -> None:
        """Return when the connection is ready for `event`. Raises `TimeoutError`."""
        poll = select.poll()
        poll.register(connection.fileno(), event)
        while not poll.poll(min(_TOLD_AFTER_S, _remaining_s(self._deadline_s)) * 1000):
            _remaining_s(self._deadline_s)
            self._tell()

    def _tell(self) -> None:
        from vigiloconn.cli.reason import reason_to_wait

        reason = reason_to_wait(self._socket_path)
        if reason != self._told:
            self._told = reason
            say(f"{self._socket_path}: waiting: {reason}", _PROGRAM)


def send(socket_path: str, source: BinaryIO, *, sync: bool, timeout_s: float) -> int:
    """Copy `source` to the connector at `socket_path` and return the exit status, 0 or 1.

    A missing last newline is added. With `sync`, 0 means that the connector has said that every line is safe; without
    it, only that the socket took them. All of it, reading `source` included, ends after `timeout_s` seconds. What went
    wrong is one line on stderr, and so is why it has to wait. A `source` with a file descriptor is read from there,
    past its buffer.
    """
    deadline_s = time.monotonic() + timeout_s
    patience = _Patience(socket_path, deadline_s)
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            _connect(connection, socket_path, deadline_s)
            _copy(connection, source, deadline_s, patience)
            if sync:
                _ask(connection, patience)
        finally:
            connection.close()
    except _Failure as exc:
        return fail(f"{socket_path}: {exc}", EXIT_FAILED, _PROGRAM)
    except TimeoutError:
        return fail(f"{socket_path}: not done within {timeout_s:g} s", EXIT_FAILED, _PROGRAM)
    return EXIT_DONE


def _connect(connection: _socket.socket, path: str, deadline_s: float) -> None:
    connection.settimeout(_remaining_s(deadline_s))
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise _Failure(f"{exc.strerror}: is the connector running?") from exc
    except PermissionError as exc:
        raise _Failure(f"{exc.strerror}: is this user in the socket's group?") from exc
    except TimeoutError:
        raise
    except OSError as exc:
        raise _Failure(exc.strerror or str(exc)) from exc


def _copy(connection: _socket.socket, source: BinaryIO, deadline_s: float, patience: _Patience) -> None:
    last = b"\n"
    connection.setblocking(False)
    while chunk := _read(source, deadline_s):
        _write(connection, chunk, patience)
        last = chunk[-1:]
    if last != b"\n":
        _write(connection, b"\n", patience)


def _read(source: BinaryIO, deadline_s: float) -> bytes:
    try:
        descriptor = source.fileno()
    except OSError:  # in memory: never waits
        return source.read(_CHUNK_BYTES)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(_remaining_s(deadline_s) * 1000):
            raise TimeoutError
        return os.read(descriptor, _CHUNK_BYTES)
    except TimeoutError:
        raise
    except OSError as exc:
        raise _Failure(f"the input can't be read: {exc.strerror}") from exc


def _write(connection: _socket.socket, data: bytes, patience: _Patience) -> None:
    left = memoryview(data)
    try:
        while left:
            patience.wait(connection, select.POLLOUT)
            left = left[_sent(connection, left):]
    except TimeoutError:
        raise
    except OSError as exc:
        raise _Failure(f"the connector closed the connection: {exc.strerror}: the input was not taken whole") from exc


def _sent(connection: _socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data)
    except BlockingIOError:
        # Room, but not for a first piece of this size.
        return 0


def _ask(connection: _socket.socket, patience: _Patience) -> None:
    """Wait until the connector says that all lines are safe."""
    token = os.urandom(8).hex()
    _write(connection, f"sync|{token}\n".encode(), patience)
    connection.shutdown(_socket.SHUT_WR)
    synced = f"synced|{token}"
    failed = f"failed|{token}|"
    rest = b""
    while True:
        *lines, rest = (rest + _receive(connection, patience)).split(b"\n")
        # Lines of the input may have been `sync` lines too: their answers come first.
        for line in lines:
            answer = line.decode(errors="replace")
            if answer == synced:
                return
            if answer.startswith(failed):
                raise _Failure(f"not everything is safe: {answer[len(failed):]}")


def _receive(connection: _socket.socket, patience: _Patience) -> bytes:
    try:
        patience.wait(connection, select.POLLIN)
        data = connection.recv(_CHUNK_BYTES)
    except TimeoutError:
        raise
    except OSError as exc:
        raise _Failure(f"the connection was lost before the answer: {exc.strerror}") from exc
    if not data:
        raise _Failure("the connector closed the connection before its answer")
    return data


def _remaining_s(deadline_s: float) -> float:
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return min(remaining_s, _MAX_WAIT_S)
