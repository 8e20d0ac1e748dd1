"""The Nagios command pipe. Knows FIFOs, not buses."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import struct
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from select import POLLERR, POLLOUT

from gevent import monkey
from gevent.socket import wait_write

from vigiloconn.errors import PipeClosed

log = logging.getLogger(__name__)

#: Up to here a write is whole or refused, and never mixed with another program's (pipe(7), PIPE_BUF on Linux).
ATOMIC_BYTES = 4096
#: A reader that takes nothing for this time is as good as away: what waits is better kept by the broker.
WRITE_TIMEOUT_S = 10.0
#: How often a wait for room looks whether it is still wanted and whether the FIFO is still the same.
_LOOK_S = 0.25

#: gevent's own does not tell an error from room.
_poll = monkey.get_original("select", "poll")

WaitWritable = Callable[[int, float], None]


def wait_writable(fd: int, timeout_s: float) -> None:
    """Let other greenlets run until `fd` has room, its last reader has gone, or `timeout_s` have passed."""
    try:
        wait_write(fd, timeout_s)
    except TimeoutError:
        pass  # It is the caller who asks what has become of the descriptor.


class CommandPipe:
    """Writes whole lines to the FIFO that Nagios reads, and never creates or changes the file.

    The descriptor is kept while Nagios is away, until the path names another FIFO: what Nagios had not read when it
    was killed stays in the FIFO as long as one side is open, and is read by the next Nagios.

    Counters in `stats()`: commands_written, pipe_waits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = WRITE_TIMEOUT_S,
        wait: WaitWritable = wait_writable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._timeout_s = timeout_s
        self._wait = wait
        self._clock = clock
        self._fd = -1
        self._identity = (0, 0)
        self._torn = False
        """The FIFO ends with a part of a line."""
        self._interrupted = False
        self._written = 0
        self._waits = 0

    @property
    def is_open(self) -> bool:
        """True while it holds a descriptor; says nothing about a reader."""
        return self._fd >= 0

    @property
    def has_reader(self) -> bool:
        """True while it is open and somebody reads it, be it full or not."""
        return self._fd >= 0 and not self._events() & POLLERR

    def check(self) -> None:
        """Open the FIFO where that is not done. Raises `PipeClosed` unless there is a reader and room to write."""
        self._open()
        events = self._events()
        if events & POLLERR:
            raise self._no_reader()
        if not events & POLLOUT:
            raise PipeClosed(f"{self.path}: full, its reader takes nothing")

    def write(self, commands: Sequence[bytes]) -> int:
        """Write commands, each with its newline, in order. Returns how many are written; waits for room.

        Less than all are written when the reader goes, takes nothing for a while, or `interrupt()` is called; only
        those that are not written may be given again. Raises `PipeClosed` when that happens before the first.
        """
        # Once a call: a FIFO that was replaced can be full of room and have a reader, so nothing else tells.
        self._open()
        done = 0
        try:
            if self._torn:
                # The reader may be another one by now. For it the rest alone would be a line of somebody's choice; a
                # newline makes of the part a line of its own, and the command is given again as a whole.
                self._put(b"\n")
                self._torn = False
            while done < len(commands):
                count, chunk = _next_chunk(commands, done)
                if len(chunk) <= ATOMIC_BYTES:
                    self._put(chunk)
                else:
                    self._put_long(chunk)
                done += count
        except PipeClosed:
            if not done:
                raise
        finally:
            self._written += done
        return done

    def interrupt(self) -> None:
        """Let `write` wait no more, now and from now on: the process stops."""
        self._interrupted = True

    def unread_bytes(self) -> int:
        """Return how many bytes in the FIFO nobody has read yet."""
        if self._fd < 0:
            return 0
        buffer = fcntl.ioctl(self._fd, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", buffer)[0])

    def group_id(self) -> int:
        """Return the FIFO's group, which Nagios is in. Raises `PipeClosed`."""
        self._open()
        return os.fstat(self._fd).st_gid

    def close(self) -> None:
        """Close the descriptor. What nobody has read is lost if there is no reader: that is logged."""
        if self._fd < 0:
            return
        unread_bytes = self.unread_bytes()
        if unread_bytes and self._events() & POLLERR:
            log.warning("%s: closed with %d bytes that no Nagios has read: they are lost", self.path, unread_bytes)
        os.close(self._fd)
        self._fd = -1
        self._torn = False

    def stats(self) -> dict[str, float]:
        return {"commands_written": self._written, "pipe_waits": self._waits}

    # -- opening -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Have the FIFO open that the path names now."""
        try:
            found = os.stat(self.path)
        except OSError as exc:
            raise PipeClosed(f"{self.path}: {exc.strerror}: expected Nagios' command pipe") from exc
        if self._fd >= 0:
            if (found.st_dev, found.st_ino) == self._identity:
                return
            log.info("%s: another FIFO now", self.path)
            self.close()
        if not stat.S_ISFIFO(found.st_mode):
            raise self._no_fifo()
        try:
            # Never O_CREAT: with a regular file in its place Nagios runs on without a pipe for good.
            # O_NONBLOCK: opening must fail, not hang, while Nagios is down.
            fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as exc:
            raise PipeClosed(f"{self.path}: {exc.strerror}: expected Nagios to read it") from exc
        opened = os.fstat(fd)
        if not stat.S_ISFIFO(opened.st_mode):
            os.close(fd)
            raise self._no_fifo()
        self._fd = fd
        self._identity = (opened.st_dev, opened.st_ino)

    def _events(self) -> int:
        poll = _poll()
        poll.register(self._fd, POLLOUT)
        events: list[tuple[int, int]] = poll.poll(0)
        return events[0][1] if events else 0

    def _no_fifo(self) -> PipeClosed:
        return PipeClosed(f"{self.path}: expected a FIFO, found another kind of file: remove it and restart Nagios")

    def _no_reader(self) -> PipeClosed:
        return PipeClosed(f"{self.path}: nobody reads it: expected a running Nagios")

    # -- writing -----------------------------------------------------------------------------------------------

    def _put(self, chunk: bytes) -> None:
        """Write a chunk that goes whole or not at all."""
        deadline_s: float | None = None
        while True:
            if self._try(chunk):
                return
            deadline_s = self._wait_for_room(deadline_s)

    def _put_long(self, line: bytes) -> None:
        """Write a line that may go in parts: all of them before anything else."""
        written = 0
        deadline_s: float | None = None
        while written < len(line):
            count = self._try(line[written:])
            if count:
                written += count
                deadline_s = None
                self._torn = written < len(line)
            else:
                deadline_s = self._wait_for_room(deadline_s)

    def _try(self, data: bytes) -> int:
        """Write and return how much went; 0 when there is no room."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError as exc:
            raise self._no_reader() from exc

    def _wait_for_room(self, deadline_s: float | None) -> float:
        """Wait a little while. Returns the deadline; raises `PipeClosed` once it has passed."""
        now_s = self._clock()
        if deadline_s is None:
            deadline_s = now_s + self._timeout_s
            self._waits += 1
        if self._interrupted:
            raise PipeClosed(f"{self.path}: interrupted while it is full")
        if now_s >= deadline_s:
            raise PipeClosed(f"{self.path}: full, its reader took nothing for {self._timeout_s:g} s")
        self._wait(self._fd, min(_LOOK_S, deadline_s - now_s))
        identity = self._identity
        self._open()
        if self._identity != identity:
            raise PipeClosed(f"{self.path}: replaced while it was written to")
        return deadline_s


def _next_chunk(commands: Sequence[bytes], start: int) -> tuple[int, bytes]:
    """Return (how many, their bytes) of the commands from `start` on that fit one atomic write; at least one."""
    size_bytes = len(commands[start])
    end = start + 1
    while end < len(commands):
        size_bytes += len(commands[end])
        if size_bytes > ATOMIC_BYTES:
            break
        end += 1
    return end - start, b"".join(commands[start:end])
