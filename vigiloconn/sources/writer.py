"""One writer at a UNIX socket: lines in, messages on, answers back. Knows a stream and a sink, not who listens."""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import deque

from gevent import monkey

# gevent's socket by name: it cooperates whether or not the entry has patched the stdlib's.
from gevent import socket as gsocket
from gevent.event import Event

from vigiloconn.interfaces import Batch, Item, Sink
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.kit.turns import Turns
from vigiloconn.serialize import parse_chunk
from vigiloconn.sources.lines import LineSplitter, Part, Sync, TooLong
from vigiloconn.sources.moderation import Moderation
from vigiloconn.sources.readiness import Readiness, Seat

log = logging.getLogger(__name__)

#: One `recv`: hundreds of lines of a busy writer. While it has to wait it keeps them, four times as large as they came;
#: so all writers share a budget, down to what is still worth a call.
_RECV_BYTES = 65536
_LEAST_RECV_BYTES = 16384
_SHARED_RECV_BYTES = 1 << 20
#: Lines parsed and put at a time; about a millisecond of work.
_SLICE_LINES = 1000
#: A writer with more questions than this open waits until some are answered.
_MAX_OPEN_SYNCS = 100
_MAX_REASON_CHARACTERS = 200
#: Reads are this much further apart than commits, so that what is read finds its commit due.
_BEHIND_COMMIT = 1.2


class Reception:
    """What all writers of one socket share: where their messages go, and what is counted of them."""

    def __init__(self, path: str, sink: Sink, max_line_bytes: int, gather_s: float = 0.0) -> None:
        self.path = path
        self.readiness = Readiness(Moderation(gather_s * _BEHIND_COMMIT))
        """Lines that come one by one may gather for `gather_s` before they are read."""
        self.sink = sink
        self.max_line_bytes = max_line_bytes
        self.writers = 0
        """Connections that are read."""
        self.received = 0
        """Lines that the sink has taken."""
        self.malformed = 0
        self.too_long = 0
        self.synced = 0
        self.failed = 0
        self.malformed_log = RateLimitedLog(log)
        self.too_long_log = RateLimitedLog(log)
        self.unread_log = RateLimitedLog(log)

    @property
    def recv_bytes(self) -> int:
        """How much is read of one writer at a time."""
        return max(_LEAST_RECV_BYTES, min(_RECV_BYTES, _SHARED_RECV_BYTES // max(1, self.writers)))

    def stats(self) -> dict[str, float]:
        """Return the counts, name -> number."""
        return {name: getattr(self, name) for name in ("received", "malformed", "too_long", "synced", "failed")}


class _Span:
    """What one connection brought between two of its sync lines. The writer that the journal knows."""

    def __init__(self, connection: WriterConnection) -> None:
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


class WriterConnection:
    """One writer's connection, read by a greenlet of its own."""

    def __init__(self, shared: Reception, sock: gsocket.socket) -> None:
        self._shared = shared
        self._sock = sock
        self._splitter = LineSplitter(shared.max_line_bytes)
        self._span = _Span(self)
        self._asked: deque[_Span] = deque()
        self._answered = Event()
        self._items: list[Item] = []
        self._size_bytes = 0
        self._turns = Turns()
        self._seat: Seat | None = None
        self._is_drained = True
        self._has_asked = False
        self._stopping = Event()
        self._cut_off = False
        self._broken = False

    def run(self) -> None:
        """Read to the end of the stream, then wait until every sync line has its answer."""
        self._seat = self._shared.readiness.seat(self._sock.fileno())
        self._shared.writers += 1
        try:
            self._read_all()
        finally:
            self._shared.writers -= 1
        while self._asked and not self._broken:
            self._answered.clear()
            self._answered.wait()

    def _read_all(self) -> None:
        while not self._broken and (data := self._receive()):
            self._take_all(self._splitter.feed(data))
        if self._cut_off and self._splitter.unfinished_bytes:
            log.warning("%s: %d bytes of a line that the stop cut off are not taken",
                        self._shared.path, self._splitter.unfinished_bytes)
        elif not self._broken:
            self._take_all(self._splitter.finish())

    def stop_reading(self) -> None:
        """Let the writer add no more. What it has written already is still read."""
        self._stopping.set()
        # After the shutdown it can't be told any more whether the writer had come to its end by itself, and with it
        # whether an unfinished last line is one.
        self._cut_off = not _is_at_end(self._sock)
        self._shutdown(gsocket.SHUT_RD)
        self._shared.readiness.resume()

    def answer(self) -> None:
        """Answer the sync lines that are due, in their order. Neither blocks nor raises."""
        while self._asked and self._asked[0].accepted:
            span = self._asked.popleft()
            if self._send(span.answer()):
                if span.is_failed:
                    self._shared.failed += 1
                else:
                    self._shared.synced += 1
        self._answered.set()

    def close(self) -> None:
        if self._seat is not None:
            self._seat.close()
        self._sock.close()

    def _receive(self) -> bytes:
        """Return what has come, nothing at the end of the stream."""
        while True:
            self._turns.stand_back()
            asked_s = time.monotonic()
            try:
                self._wait_for_data()
                recv_bytes = self._shared.recv_bytes
                data: bytes = self._sock.recv(recv_bytes)
                self._turns.waited_since(asked_s)
                self._shared.readiness.took(len(data))
                self._is_drained = len(data) < recv_bytes
                return data
            except ConnectionError:
                # The peer closed without reading our answers. All that it wrote was read before: an end like any other.
                return b""
            except OSError as exc:
                # EBADF: woken by our own shutdown; what is in the buffer still wants reading.
                if not (exc.errno == errno.EBADF and self._stopping.is_set() and self._sock.fileno() >= 0):
                    raise

    def _wait_for_data(self) -> None:
        # Who has asked for acceptance will again, and waits for the answer: such a one waits with nobody.
        if self._is_drained and not self._has_asked and self._seat is not None:
            self._seat.wait()

    def _take_all(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part, Sync):
                self._ask(part.token)
            elif isinstance(part, TooLong):
                self._shared.too_long += 1
                self._span.fail("too long")
                self._shared.too_long_log(
                    "%s: line over %d bytes skipped, it begins with %r",
                    self._shared.path, self._shared.max_line_bytes, part.start,
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
            self._shared.malformed_log(
                "%s: malformed line skipped: %s: %r", self._shared.path, why, line[:200]
            )
        if rejected:
            self._shared.malformed += len(rejected)
            self._span.fail("malformed", len(rejected))
        if len(self._items) >= _SLICE_LINES:
            self._put(self._span)
        if len(lines) >= _SLICE_LINES:
            self._turns.stand_back()

    def _ask(self, token: str) -> None:
        while len(self._asked) >= _MAX_OPEN_SYNCS and not self._broken:
            self._answered.clear()
            self._answered.wait()
        self._has_asked = True
        span, self._span = self._span, _Span(self)
        span.token = token
        self._asked.append(span)
        self._put(span, is_asked=True)

    def _put(self, span: _Span, is_asked: bool = False) -> None:
        items, self._items = self._items, []
        batch = Batch(items, self._size_bytes, span, span.accept if is_asked else None)
        self._size_bytes = 0
        self._shared.sink.put(batch)
        self._shared.received += len(items)

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
        self._shared.unread_log("%s: writer does not read its answers: disconnected", self._shared.path)
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
