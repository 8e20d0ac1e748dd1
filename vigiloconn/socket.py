"""The UNIX socket that monitoring writes its lines to. Knows writers and a sink, nothing of journals or buses."""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import deque
from typing import Any

import gevent
from gevent import Greenlet, monkey

# gevent's socket by name: it cooperates whether or not the entry has patched the stdlib's.
from gevent import socket as gsocket
from gevent.event import Event

from vigiloconn.errors import StartError
from vigiloconn.interfaces import Batch, Item, Level, Problem, Sink
from vigiloconn.kit import descriptors
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.serialize import MAX_LINE_BYTES, parse_chunk
from vigiloconn.sources import sockfile
from vigiloconn.sources.lines import LineSplitter, Part, Sync, TooLong
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: One `recv`: hundreds of lines of a busy writer.
_RECV_BYTES = 65536
#: Lines parsed and put at a time; about a millisecond of work.
_SLICE_LINES = 1000
#: How long one connection may keep the loop to itself, and how long it then stands back. The pause must be
#: positive: after `sleep(0)` timers may starve.
_TURN_S = 0.002
_PAUSE_S = 0.0001
#: A writer with more questions than this open waits until some are answered.
_MAX_OPEN_SYNCS = 100
_MAX_REASON_CHARACTERS = 200
#: `accept` fails with these while descriptors or memory are short; connections wait in the backlog meanwhile.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE_S = 0.2
#: How long a refused writer is told of in the state, and how often the socket's file is looked at.
_REFUSAL_SHOWN_S = 60.0
_FILE_CHECK_S = 10.0


class SocketListener(Handler):
    """Takes lines from any number of writers and puts them, as messages, into the sink.

    `group` names the group that may write (mode 0660); None leaves the process's own. Writers that would take the last
    descriptors below `max_descriptors` (the process's limit) are refused: brokers and journal need theirs. Gauge:
    `connections`.
    """

    def __init__(
        self,
        path: str,
        sink: Sink,
        *,
        group: str | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_descriptors: int | None = None,
        name: str = "socket",
    ) -> None:
        self.name = name
        self.path = path
        self.sink = sink
        self.max_line_bytes = max_line_bytes
        self.received = 0
        self.malformed = 0
        self.too_long = 0
        self.synced = 0
        self.failed = 0
        self.connections_total = 0
        self.refused = 0
        self.malformed_log = RateLimitedLog(log)
        self.too_long_log = RateLimitedLog(log)
        self.unread_log = RateLimitedLog(log)
        self._no_room_log = RateLimitedLog(log, logging.ERROR)
        self._refused_log = RateLimitedLog(log, logging.ERROR)
        self._max_descriptors = max_descriptors
        self._refused_at_s: float | None = None
        self._file_trouble = ""
        self._over = Event()
        self._group = group
        self._listener: gsocket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._stopping = False
        self._connections: dict[_Connection, Greenlet[..., Any]] = {}

    def start_service(self) -> None:
        """Bind. Raises `StartError` when the directory, the group or what stands at the path is in the way."""
        sockfile.check_path(self.path)
        group_id = sockfile.group_id_of(self._group)
        sockfile.remove_stale(self.path)
        self._listener = sockfile.bind(self.path, group_id)
        self._inode = sockfile.inode(self.path)
        if self._listener.fileno() >= self._usable_descriptors() - 1:
            self.close()
            raise StartError(f"socket {self.path}: the limit on open files leaves none for writers:"
                             f" expected well above {descriptors.RESERVE}: raise it (LimitNOFILE, ulimit -n)")
        log.info("%s: listening on %s", self.name, self.path)

    def run(self) -> None:
        """Accept writers until told to stop; then take what has been written already, and return."""
        self.supervisor.spawn(self._watch_file, name=f"{self.name}: file", owner=self)
        while (connection := self._accept()) is not None:
            if not self._is_one_too_many(connection):
                self._begin(connection)
        self._wait_for_connections()

    def stop_service(self) -> None:
        """Refuse new writers and further bytes. What is in the kernel's buffers is still read."""
        if self._stopping or self._listener is None:
            return
        self._stopping = True
        self._over.set()
        # A listening socket that is shut down refuses new writers and still gives out those in its backlog. From then
        # on it counts as readable, so accept() must not wait for that: it would spin.
        self._listener.shutdown(gsocket.SHUT_RDWR)
        self._listener.settimeout(0.0)
        for connection in self._connections:
            connection.stop_reading()

    def close(self) -> None:
        """Remove the socket's file, unless another one stands in its place."""
        if self._listener is not None:
            self._listener.close()
        if self._inode is not None and sockfile.inode(self.path) == self._inode:
            os.unlink(self.path)
        self._inode = None

    def stats(self) -> dict[str, float]:
        """`received` are lines that the sink has taken; `synced` and `failed` are answers, `refused` writers.
        Gauge: `connections`."""
        return {
            "received": self.received,
            "malformed": self.malformed,
            "too_long": self.too_long,
            "connections": len(self._connections),
            "connections_total": self.connections_total,
            "refused": self.refused,
            "synced": self.synced,
            "failed": self.failed,
        }

    def problems(self) -> list[Problem]:
        found = []
        if self._file_trouble:
            found.append(Problem("socket-file", Level.CRITICAL, self._file_trouble))
        if self._refused_at_s is not None and time.monotonic() - self._refused_at_s < _REFUSAL_SHOWN_S:
            text = f"{self.path}: writers are refused, the limit on open files allows {len(self._connections)}"
            found.append(Problem("writers-refused", Level.CRITICAL, text))
        return found

    def _watch_file(self) -> None:
        while not self._over.wait(_FILE_CHECK_S):
            self.check_file()

    def check_file(self) -> None:
        """Notice when the socket's file is not ours any more, and say so."""
        trouble = sockfile.trouble(self.path, self._inode)
        if trouble and trouble != self._file_trouble:
            log.critical("%s", trouble)
        self._file_trouble = trouble

    def _is_one_too_many(self, sock: gsocket.socket) -> bool:
        """Refuse a writer that has one of the last descriptors. The kernel gives the lowest number that is free, so its
        own tells how many are in use."""
        usable = self._usable_descriptors()
        if sock.fileno() < usable:
            return False
        sock.close()
        self.refused += 1
        self._refused_at_s = time.monotonic()
        self._refused_log("%s: writer refused, of %d open files %d are kept for others: raise the limit",
                          self.path, usable + descriptors.RESERVE, descriptors.RESERVE)
        return True

    def _usable_descriptors(self) -> int:
        limit = self._max_descriptors if self._max_descriptors is not None else descriptors.limit()
        return limit - descriptors.RESERVE

    def _accept(self) -> gsocket.socket | None:
        """Return the next writer's connection, None once the listening socket was shut down."""
        assert self._listener is not None
        while True:
            try:
                return self._listener.accept()[0]
            except OSError as exc:
                if exc.errno in _NO_ROOM:
                    self._no_room_log("%s: no new writer can be accepted for now: %s", self.path, exc.strerror)
                    gevent.sleep(_NO_ROOM_PAUSE_S)
                elif self._stopping and exc.errno in (errno.EAGAIN, errno.EINVAL):
                    return None
                # EBADF: gevent's way of waking the one that waits on a socket which is shut down.
                elif not (exc.errno == errno.ECONNABORTED or (self._stopping and exc.errno == errno.EBADF)):
                    raise

    def _begin(self, sock: gsocket.socket) -> None:
        self.connections_total += 1
        connection = _Connection(self, sock)
        if self._stopping:
            connection.stop_reading()
        greenlet = self.supervisor.spawn(connection.run, name=f"{self.name}-writer", owner=self)
        self._connections[connection] = greenlet
        # A link and not a `finally` in run(): a greenlet that is killed before it began never gets there.
        greenlet.link(lambda _: self._end(connection))

    def _end(self, connection: _Connection) -> None:
        connection.close()
        self._connections.pop(connection, None)

    def _wait_for_connections(self) -> None:
        # Half of what is left: a sink that hangs must not cost the others their time to stop.
        gevent.joinall(list(self._connections.values()), timeout=self.supervisor.remaining_s() / 2)
        left = [greenlet for greenlet in self._connections.values() if not greenlet.dead]
        if left:
            log.warning("%s: %d writers cut off at the stop, their lines are not all taken", self.path, len(left))
            gevent.killall(left)


class _Span:
    """What one connection brought between two of its sync lines. The writer that the journal knows."""

    def __init__(self, connection: _Connection) -> None:
        self.token = ""
        self.accepted = False
        self._connection = connection
        self._failures: dict[str, int] = {}

    def fail(self, reason: str, count: int = 1) -> None:
        """The answer to this span's sync line will be `failed`."""
        self._failures[reason] = self._failures.get(reason, 0) + count

    def dropped(self, count: int, reason: str) -> None:
        """See `Writer`."""
        self.fail(f"dropped: {reason}", count)

    def accept(self) -> None:
        """Everything of this span is safe. Sends the answer."""
        self.accepted = True
        self._connection.answer()

    @property
    def is_failed(self) -> bool:
        """True when a line of it was malformed, too long or dropped."""
        return bool(self._failures)

    def answer(self) -> bytes:
        """Return the line for the writer."""
        if not self._failures:
            return f"synced|{self.token}\n".encode()
        text = ", ".join(f"{count} {reason}" for reason, count in self._failures.items())
        text = " ".join(text.replace("|", "/").split())[:_MAX_REASON_CHARACTERS]
        return f"failed|{self.token}|{text}\n".encode(errors="replace")


class _Connection:
    """One writer's connection, read by a greenlet of its own."""

    def __init__(self, listener: SocketListener, sock: gsocket.socket) -> None:
        self._listener = listener
        self._sock = sock
        self._splitter = LineSplitter(listener.max_line_bytes)
        self._span = _Span(self)
        self._asked: deque[_Span] = deque()
        self._answered = Event()
        self._items: list[Item] = []
        self._size_bytes = 0
        self._turn_began_s = 0.0
        self._stopped = False
        self._cut_off = False
        self._broken = False

    def run(self) -> None:
        """Read to the end of the stream, then wait until every sync line has its answer."""
        while not self._broken and (data := self._receive()):
            self._take_all(self._splitter.feed(data))
        if self._cut_off and self._splitter.unfinished_bytes:
            log.warning("%s: %d bytes of a line that the stop cut off are not taken",
                        self._listener.path, self._splitter.unfinished_bytes)
        elif not self._broken:
            self._take_all(self._splitter.finish())
        while self._asked and not self._broken:
            self._answered.clear()
            self._answered.wait()

    def stop_reading(self) -> None:
        """Let the writer add no more. What it has written already is still read."""
        self._stopped = True
        # After the shutdown it can't be told any more whether the writer had come to its end by itself, and with it
        # whether an unfinished last line is one.
        self._cut_off = not _is_at_end(self._sock)
        self._shutdown(gsocket.SHUT_RD)

    def answer(self) -> None:
        """Answer the sync lines that are due, in their order. Neither blocks nor raises."""
        while self._asked and self._asked[0].accepted:
            span = self._asked.popleft()
            if self._send(span.answer()):
                if span.is_failed:
                    self._listener.failed += 1
                else:
                    self._listener.synced += 1
        self._answered.set()

    def close(self) -> None:
        self._sock.close()

    def _receive(self) -> bytes:
        """Return what has come, nothing at the end of the stream."""
        while True:
            self._stand_back()
            try:
                return self._sock.recv(_RECV_BYTES)
            except ConnectionError:
                # The peer closed without reading our answers. All that it wrote was read before: an end like any other.
                return b""
            except OSError as exc:
                # EBADF: woken by our own shutdown; what is in the buffer still wants reading.
                if not (exc.errno == errno.EBADF and self._stopped and self._sock.fileno() >= 0):
                    raise

    def _stand_back(self) -> None:
        """Let the others run when this writer never lets the loop wait."""
        now_s = time.monotonic()
        if now_s - self._turn_began_s > _TURN_S:
            gevent.sleep(_PAUSE_S)
            self._turn_began_s = time.monotonic()

    def _take_all(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part, Sync):
                self._ask(part.token)
            elif isinstance(part, TooLong):
                self._listener.too_long += 1
                self._span.fail("too long")
                self._listener.too_long_log(
                    "%s: line over %d bytes skipped, it begins with %r",
                    self._listener.path, self._listener.max_line_bytes, part.start,
                )
            else:
                for start in range(0, len(part), _SLICE_LINES):
                    self._take_lines(part[start:start + _SLICE_LINES])
        if self._items:
            self._put(self._span)

    def _take_lines(self, lines: list[bytes]) -> None:
        items, size_bytes, rejected = parse_chunk(lines)
        self._items += items
        self._size_bytes += size_bytes
        for line, why in rejected:
            self._listener.malformed_log(
                "%s: malformed line skipped: %s: %r", self._listener.path, why, line[:200]
            )
        if rejected:
            self._listener.malformed += len(rejected)
            self._span.fail("malformed", len(rejected))
        if len(self._items) >= _SLICE_LINES:
            self._put(self._span)
        if len(lines) >= _SLICE_LINES:
            self._stand_back()

    def _ask(self, token: str) -> None:
        while len(self._asked) >= _MAX_OPEN_SYNCS and not self._broken:
            self._answered.clear()
            self._answered.wait()
        span, self._span = self._span, _Span(self)
        span.token = token
        self._asked.append(span)
        self._put(span, is_asked=True)

    def _put(self, span: _Span, is_asked: bool = False) -> None:
        items, self._items = self._items, []
        batch = Batch(items, self._size_bytes, span, span.accept if is_asked else None)
        self._size_bytes = 0
        self._listener.sink.put(batch)
        self._listener.received += len(items)

    def _send(self, answer: bytes) -> bool:
        if self._broken:
            return False
        try:
            # Not the socket's own send(), which waits: gevent keeps the descriptor in non-blocking mode.
            sent = os.write(self._sock.fileno(), answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The peer has gone without waiting for its answer.
            self._broken = True
            return False
        if sent == len(answer):
            return True
        self._listener.unread_log("%s: writer does not read its answers: disconnected", self._listener.path)
        self._broken = True
        self._shutdown(gsocket.SHUT_RDWR)
        return False

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            # Already gone; the reader finds out by itself.
            pass


def _is_at_end(sock: gsocket.socket) -> bool:
    """Tell whether the peer has closed or half-closed, whatever is still unread."""
    # The original: gevent's poll() switches greenlets, and this runs where nothing may block.
    poll = monkey.get_original("select", "poll")()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
