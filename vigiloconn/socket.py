"""The UNIX socket that monitoring writes its lines to. Knows who may come in, nothing of lines, journals or buses."""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import Any

import gevent
from gevent import Greenlet

# gevent's socket by name: it cooperates whether or not the entry has patched the stdlib's.
from gevent import socket as gsocket
from gevent.event import Event

from vigiloconn.errors import StartError
from vigiloconn.interfaces import Level, Problem, Sink
from vigiloconn.kit import descriptors
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.serialize import MAX_LINE_BYTES
from vigiloconn.sources import sockfile
from vigiloconn.sources.writer import Reception, WriterConnection
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: `accept` fails with these while descriptors or memory are short; connections wait in the backlog meanwhile.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE_S = 0.2
#: How long a refused writer is told of in the state, and how often the socket's file is looked at.
_REFUSAL_SHOWN_S = 60.0
_FILE_CHECK_S = 10.0


class SocketListener(Handler):
    """Takes lines from any number of writers and puts them, as messages, into the sink.

    `group` names the group that may write (mode 0660); None leaves the process's own. Writers that would take the last
    descriptors below `max_descriptors` (the process's limit) are refused: brokers and journal need theirs. The lines of
    a writer that writes them one by one may gather for `gather_s` before they are read. Gauge: `connections`.
    """

    def __init__(
        self,
        path: str,
        sink: Sink,
        *,
        group: str | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_descriptors: int | None = None,
        gather_s: float = 0.0,
        name: str = "socket",
    ) -> None:
        self.name = name
        self.path = path
        self.reception = Reception(path, sink, max_line_bytes, gather_s)
        self.connections_total = 0
        self.refused = 0
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
        self._connections: dict[WriterConnection, Greenlet[..., Any]] = {}

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
            **self.reception.stats(),
            "connections": len(self._connections),
            "connections_total": self.connections_total,
            "refused": self.refused,
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
        while not self._over.wait(seconds_to_beat(time.monotonic(), _FILE_CHECK_S)):
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
        connection = WriterConnection(self.reception, sock)
        if self._stopping:
            connection.stop_reading()
        greenlet = self.supervisor.spawn(connection.run, name=f"{self.name}-writer", owner=self)
        self._connections[connection] = greenlet
        # A link and not a `finally` in run(): a greenlet that is killed before it began never gets there.
        greenlet.link(lambda _: self._end(connection))

    def _end(self, connection: WriterConnection) -> None:
        connection.close()
        self._connections.pop(connection, None)

    def _wait_for_connections(self) -> None:
        # Half of what is left: a sink that hangs must not cost the others their time to stop.
        gevent.joinall(list(self._connections.values()), timeout=self.supervisor.remaining_s() / 2)
        left = [greenlet for greenlet in self._connections.values() if not greenlet.dead]
        if left:
            log.warning("%s: %d writers cut off at the stop, their lines are not all taken", self.path, len(left))
            gevent.killall(left)
