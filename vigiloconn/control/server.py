"""The control socket: HTTP on a UNIX socket, and its reading half on TCP where that is wanted.

Knows connections, paths and who may change something; not what is told or done behind a path.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import gevent
from gevent import Greenlet

# gevent's socket by name: it cooperates whether or not the entry has patched the stdlib's.
from gevent import socket as gsocket
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer

from vigiloconn.control.exchange import Function, Peer, Refused, Reply, Request, as_text
from vigiloconn.errors import StartError
from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.endpoint import Endpoint
from vigiloconn.kit.greenlets import failure_of
from vigiloconn.sources import sockfile
from vigiloconn.supervisor import Handler, Supervisor

log = logging.getLogger(__name__)

#: Connections at a time, on each of the two sockets. The last place is given back by the one that has been sending its
#: request for longest; only where all are being answered do further ones wait, in the kernel's queue.
MAX_CONNECTIONS = 16
MAX_BODY_BYTES = 1 << 20
#: How long a request may take to arrive whole, and how long one write of the reply may wait for a slow reader.
READ_S = 10.0
_WRITE_S = 30.0
#: How often the socket's file is looked at, whoever asks.
_FILE_CHECK_S = 10.0
_PEER = struct.Struct("3i")
_HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy",
     "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"),
]  # fmt: skip


class ControlServer(Handler):
    """Answers requests: a table from method and path to function, one request on each connection.

    Functions run on greenlets of their own and may wait. Those given to `post` change something: they are called for
    the connector's own user and root, on the UNIX socket, and for nobody else.

    `path` is where the socket stands, for `group` (mode 0660). A place that somebody has named and that can't be used
    keeps the process from starting; the default one (`is_named` false) is a problem, and what has to flow flows.
    Counter in `stats()`: control_requests, and what `count_too` adds.
    """

    name = "control"

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        group: str | None = None,
        http: Endpoint | None = None,
        is_named: bool = True,
        read_s: float = READ_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = os.fspath(path) if path is not None else None
        self.requests = 0
        self._group = group
        self._http = http
        self._is_named = is_named
        self._more_stats: Callable[[], Mapping[str, float]] = dict
        self._read_s = read_s
        self._functions: dict[str, dict[str, Function]] = {}
        self._servers: list[_Server] = []
        self._inode: tuple[int, int] | None = None
        self._trouble = ""
        self._file_trouble = ""
        self._file_check_at_s = 0.0
        self._clock = clock
        self._over = Event()

    def get(self, path: str, function: Function) -> None:
        """Let `function` answer what is asked for at `path`. It changes nothing."""
        self._functions.setdefault(path, {})["GET"] = function

    def post(self, path: str, function: Function) -> None:
        """Let `function` do what is asked for at `path`."""
        self._functions.setdefault(path, {})["POST"] = function

    def count_too(self, stats: Callable[[], Mapping[str, float]]) -> None:
        """Add what the functions behind the paths count to `stats()`."""
        self._more_stats = stats

    # -- life ------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        """Bind. Raises `StartError` when a named place is in use or can't be used."""
        if self._http is not None:
            self._listen(_tcp_listener(self._http), may_change=False)
            log.info("control: figures are served on http://%s/", self._http)
        # Without the directory there is no journal either, and nobody expects a socket there.
        if self.path is None or not (self._is_named or os.path.isdir(os.path.dirname(self.path))):
            return
        try:
            self._bind(self.path)
        except StartError as exc:
            if self._is_named:
                self.close()
                raise StartError(f"[connector] control: {exc}") from exc
            self._trouble = f"nothing can be asked of this process: {exc}; [connector] control names another place"
            log.warning("%s", self._trouble)

    def run(self) -> None:
        for server in self._servers:
            server.start()
        self._over.wait()
        for server in self._servers:
            # The sockets first: nobody new comes in while those that are here get their answers.
            server.close()
        for server in self._servers:
            server.stop(timeout=min(1.0, self.supervisor.remaining_s() / 4))

    def stop_service(self) -> None:
        self._over.set()

    def close(self) -> None:
        """Remove the socket's file, unless another one stands in its place."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._inode is not None and self.path is not None and sockfile.inode(self.path) == self._inode:
            os.unlink(self.path)
        self._inode = None

    def stats(self) -> dict[str, float]:
        return {"control_requests": self.requests, **self._more_stats()}

    def problems(self) -> list[Problem]:
        if self._inode is not None and self.path is not None and (now_s := self._clock()) >= self._file_check_at_s:
            self._file_check_at_s = now_s + seconds_to_beat(now_s, _FILE_CHECK_S)
            self._file_trouble = sockfile.trouble(self.path, self._inode)
        trouble = self._trouble or self._file_trouble
        return [Problem("control-unusable", Level.WARNING, trouble)] if trouble else []

    def _bind(self, path: str) -> None:
        sockfile.check_path(path)
        group_id = sockfile.group_id_of(self._group)
        sockfile.remove_stale(path)
        self._listen(sockfile.bind(path, group_id), may_change=True)
        self._inode = sockfile.inode(path)
        log.info("control: listening on %s", path)

    def _listen(self, listener: gsocket.socket, may_change: bool) -> None:
        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            return self._answer(environ, start_response, may_change)

        self._servers.append(_Server(listener, application, self.supervisor, self._read_s))

    # -- one request -----------------------------------------------------------------------------------------

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any], may_change: bool
    ) -> Iterable[bytes]:
        self.requests += 1
        reply = self._reply_to(environ, may_change)
        headers = [("Content-Type", reply.content_type), *_HEADERS]
        if isinstance(reply.body, bytes):
            headers.append(("Content-Length", str(len(reply.body))))
            body: Iterable[bytes] = [reply.body] if environ["REQUEST_METHOD"] != "HEAD" else []
        else:
            body = reply.body
        start_response(f"{reply.status} {http.client.responses.get(reply.status, 'See Text')}", headers)
        return body

    def _reply_to(self, environ: dict[str, Any], may_change: bool) -> Reply:
        found: list[Reply] = []

        def ask() -> None:
            request = self._read(environ, may_change)
            found.append(self._function(request)(request))

        failed = failure_of(ask)
        if failed is None:
            return found[0]
        if isinstance(failed, Refused):
            return as_text(str(failed), failed.status)
        path = environ.get("PATH_INFO", "")
        log.error("control: %s %s failed", environ["REQUEST_METHOD"], path[:200], exc_info=failed)
        return as_text(f"{path} failed: the connector's log has the reason", 500)

    def _read(self, environ: dict[str, Any], may_change: bool) -> Request:
        length = environ.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in environ:
            raise Refused("expected a Content-Length, got a Transfer-Encoding", 411)
        # The server has refused what is no number.
        if int(length) > MAX_BODY_BYTES:
            raise Refused(f"expected a body of at most {MAX_BODY_BYTES} bytes, got {length}", 413)
        try:
            body = environ["vigiloconn.body"].read(int(length)) if int(length) else b""
        except (gevent.Timeout, TimeoutError):
            raise Refused(f"expected the request within {self._read_s:g} s", 408) from None
        environ["vigiloconn.is_read"]()
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        peer = environ["vigiloconn.peer"] if may_change else None
        return Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, body, peer)

    def _function(self, request: Request) -> Function:
        methods = self._functions.get(request.path)
        if methods is None:
            raise Refused(f"nothing is here: expected one of {', '.join(sorted(self._functions))}", 404)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            raise Refused(f"{request.path}: expected {' or '.join(methods)}, got {request.method}", 405)
        if method == "POST":
            _check_may_change(request)
        return methods[method]


def _check_may_change(request: Request) -> None:
    if request.peer is None:
        raise Refused("changes are made on the UNIX socket only", 403)
    if request.peer.uid not in (0, os.geteuid()):
        raise Refused(f"changes are for root and for the connector's own user (id {os.geteuid()}),"
                      f" not for user {request.peer.uid}", 403)


class _Lives(Pool):
    """The greenlets of one server: the supervisor spawns them."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(MAX_CONNECTIONS)
        self._supervisor = supervisor

    def spawn(self, function: Callable[..., Any], *args: Any, **_: Any) -> Greenlet[..., Any]:  # type: ignore[override]
        greenlet = self._supervisor.spawn(function, *args, name="control: request")
        # Never waits: the server asks `full` before it accepts.
        self.add(greenlet)
        return greenlet


class _Server(WSGIServer):
    """gevent's server on one listening socket, without its own log."""

    def __init__(
        self, listener: gsocket.socket, application: Callable[..., Any], supervisor: Supervisor, read_s: float
    ) -> None:
        self.read_s = read_s
        self._lives = _Lives(supervisor)
        super().__init__(
            listener, application, spawn=self._lives, log=None, error_log=None, handler_class=_Exchange,
            environ={"SERVER_NAME": "vigilo-connector"},
        )  # fmt: skip
        self._reading: dict[_Exchange, None] = {}
        self._is_making_room = False

    def begin(self, exchange: _Exchange) -> None:
        """Note a connection whose request has not come whole. Where it has the last place, another one goes for it."""
        self._reading[exchange] = None
        if self._lives.full() and not self._is_making_room:
            self._is_making_room = True
            # Later: those that were accepted in this same turn and have sent their request shall be read first.
            self.loop.run_callback(self._make_room)

    def is_read(self, exchange: _Exchange) -> None:
        """Note that a connection's request is here, or will never be."""
        self._reading.pop(exchange, None)

    def _make_room(self) -> None:
        self._is_making_room = False
        if self._lives.full() and len(self._reading) > 1:
            next(iter(self._reading)).cut_off()


class _Exchange(WSGIHandler):
    """One request on a connection. What has not come whole after `read_s` does not come any more."""

    def handle(self) -> None:
        self.socket.settimeout(_WRITE_S)
        self._places = cast(_Server, self.server)
        self._life = gevent.getcurrent()
        self._reading = gevent.Timeout.start_new(self._places.read_s)
        self._places.begin(self)
        try:
            super().handle()
        except gevent.Timeout as timeout:
            if timeout is not self._reading:
                raise
        finally:
            self._is_read()

    def cut_off(self) -> None:
        """Read no further, as if the time were up. To be called by the hub, and before the request is read."""
        self._life.throw(self._reading)

    def read_request(self, raw_requestline: str) -> Any:
        found = super().read_request(raw_requestline)
        # One that stays would keep its place from others.
        self.close_connection = True
        return found

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["vigiloconn.is_read"] = self._is_read
        # Taken from the base class, which would read to the end of what was refused.
        environ["vigiloconn.body"], self.wsgi_input = self.wsgi_input, Input(self.rfile, 0)
        environ["vigiloconn.peer"] = _peer_of(self.socket)
        return environ

    def _is_read(self) -> None:
        self._reading.close()
        self._places.is_read(self)


def _peer_of(sock: gsocket.socket) -> Peer | None:
    if sock.family != socket.AF_UNIX:
        return None
    return Peer(*_PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)))


def _tcp_listener(endpoint: Endpoint) -> gsocket.socket:
    """Return a socket that listens there. Raises `StartError`."""
    try:
        found = gsocket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = gsocket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(MAX_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        hint = "is another process listening?"
        raise StartError(f"[connector] http {endpoint}: can't listen there: {exc.strerror}: {hint}") from exc
    listener.setblocking(False)
    return listener
