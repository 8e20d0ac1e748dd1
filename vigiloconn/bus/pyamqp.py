"""py-amqp, bent to one reader and one write lock. Knows the library's seams, nothing of what a connection is for.

In py-amqp each greenlet that waits for an answer reads; with several greenlets that fails. Here a
synchronous call waits until the connection's owner, who reads, has dispatched the answer.
"""

from __future__ import annotations

import socket
import ssl
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import amqp
from amqp import sasl, spec
from amqp.channel import queue_declare_ok_t
from amqp.exceptions import RecoverableConnectionError, error_for_code
from amqp.transport import SSLTransport, TCPTransport
from gevent.event import AsyncResult
from gevent.lock import RLock

from vigiloconn.errors import BusDown, BusRefused

#: 0 is the system's own limit. py-amqp's is one second, and any limit ends the connection to a broker that does
#: not read while it is under an alarm; a dead peer is known by its silence.
_TCP_USER_TIMEOUT_MS = 0


class Owner(Protocol):
    """What the library's parts ask of the connection that owns them."""

    tls: ssl.SSLContext | None
    server_name: str

    def dial_now(self) -> socket.socket: ...
    def abort(self, reason: str) -> None: ...
    def is_writing(self) -> bool: ...
    def frame_writer(self, library: Any, transport: Any) -> Callable[..., None]: ...
    def call(self, asker: Any, answer: AsyncResult[Any], send: Callable[[], Any]) -> Any: ...
    def tell(self, send: Callable[[], Any]) -> Any: ...
    def fail_answers(self, asker: Any, error: Exception) -> None: ...


def login(auth: str, user: str, password: str) -> Any:
    """Return the library's login for `plain`, `amqplain` or `external`."""
    if auth == "external":
        return sasl.EXTERNAL()
    return (sasl.AMQPLAIN if auth == "amqplain" else sasl.PLAIN)(user, password)


class _Replies:
    """Synchronous calls that are answered by the reader instead of reading themselves."""

    bus: Owner
    _pending: dict[Any, Any]
    _rpc_lock: RLock

    def send_method(
        self,
        sig: Any,
        format: Any = None,
        args: Any = None,
        content: Any = None,
        wait: Any = None,
        callback: Any = None,
        returns_tuple: bool = False,
    ) -> Any:
        send = super().send_method  # type: ignore[misc]
        if not wait:
            return self.bus.tell(lambda: send(sig, format, args, content, None, callback))
        methods = wait if isinstance(wait, list) else [wait]
        with self._rpc_lock:
            answer: AsyncResult[Any] = AsyncResult()
            for method in methods:
                # Registered before the frame leaves: the reader may see the answer before `send` returns.
                self._pending[method] = lambda _sig, *values: answer.set(values)
            try:
                values = self.bus.call(self, answer, lambda: send(sig, format, args, content))
            finally:
                for method in methods:
                    self._pending.pop(method, None)
        return values if returns_tuple else (values[0] if values else None)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("nothing but the reader may wait for frames")


class Channel(_Replies, amqp.Channel):  # type: ignore[misc]
    """A channel that tells its owner when the broker closes it, in place of opening itself again in silence."""

    def __init__(self, connection: Connection) -> None:
        self.bus = connection.bus
        self._rpc_lock = RLock()
        self.closed_by: BusRefused | None = None
        self.on_closed: Callable[[BusRefused], None] | None = None
        super().__init__(connection, None, auto_decode=False)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        argsig: str = "BsbbbbbF",
    ) -> Any:
        """As the library's, which sends and waits in two steps: the answer could be there before the second."""
        flags = (passive, durable, exclusive, auto_delete, nowait)
        answer = self.send_method(
            spec.Queue.Declare, argsig, (0, queue, *flags, arguments),
            wait=None if nowait else spec.Queue.DeclareOk, returns_tuple=True,
        )
        return None if nowait else queue_declare_ok_t(*answer)

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        *flags: bool,
        callback: Callable[[Any], None] | None = None,
        on_cancel: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Any:
        """As the library's, which notes the callback after the answer: deliveries could be there before, and it
        would reject them."""
        tag = consumer_tag or f"vigiloconn-{uuid.uuid4().hex}"
        self.callbacks[tag] = callback
        if on_cancel is not None:
            self.cancel_callbacks[tag] = on_cancel
        return super().basic_consume(queue, tag, *flags, callback=callback, on_cancel=on_cancel, **options)

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        if self.is_closing and method_sig not in self._ALLOWED_METHODS_WHEN_CLOSING:
            return  # late, and no news to anybody; the library would log a warning for each
        super().dispatch_method(method_sig, payload, content)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.closed_by = BusRefused(reply_text, reply_code)
        self.is_open = False
        super().send_method(spec.Channel.CloseOk)
        if self.is_closing:
            # Our own close is on its way and will be answered too. Until then the number is taken: the answer
            # would close the next channel that has it.
            return
        self.bus.fail_answers(self, self.closed_by)
        self.collect()
        if self.on_closed is not None:
            self.on_closed(self.closed_by)


class Connection(_Replies, amqp.Connection):  # type: ignore[misc]
    """py-amqp's connection over a socket that is dialled by its owner and written under its owner's lock."""

    Channel = Channel

    def __init__(self, bus: Owner, **kwargs: Any) -> None:
        self.bus = bus
        self._rpc_lock = RLock()
        super().__init__(frame_writer=bus.frame_writer, **kwargs)

    def Transport(self, host: str, connect_timeout: float | None, *args: Any, **kwargs: Any) -> Any:
        kind = _TLSTransport if self.bus.tls else _TCPTransport
        transport = kind(
            "localhost",  # never looked up: `_connect` has the owner dial
            connect_timeout=connect_timeout,
            socket_settings={socket.TCP_USER_TIMEOUT: _TCP_USER_TIMEOUT_MS},
        )
        transport.bus = self.bus
        return transport

    def on_inbound_method(self, channel_id: int, method_sig: Any, payload: Any, content: Any) -> None:
        channel = (self.channels or {}).get(channel_id)
        # None: closed on both sides in the same moment, and this is what the broker sent before it knew.
        if channel is not None:
            channel.dispatch_method(method_sig, payload, content)

    def say_close(self) -> None:
        """Send the close and do not wait for its answer."""
        self.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        # A writer that is stuck holds the lock until the connection is gone, which has to be told now.
        if not self.bus.is_writing():
            try:
                self.send_method(spec.Connection.CloseOk)
            except BusDown:
                pass  # the peer is gone already; why it went is what counts
        raise error_for_code(reply_code, reply_text, (class_id, method_id), amqp.ConnectionError)

    def _warn_force_connect(self, attr: str) -> None:
        """Refuse where the library would connect again by itself, past our login, dialling and limits."""
        raise RecoverableConnectionError("the connection is closed")


class _Transport:
    """Replaces the library's connect, which gives each address of a host the whole timeout in turn, and watches
    over writes."""

    bus: Owner
    sock: Any
    _write: Any

    def _connect(self, host: str, port: int, timeout: float) -> None:
        self.sock = self.bus.dial_now()

    def write(self, data: Any) -> None:
        """Write everything. What stops it in between (a time limit, the end of its greenlet) has torn a frame: the
        connection is thrown away."""
        is_whole = False
        try:
            self._write(data)
            is_whole = True
        # Not OSError only: closing takes a TLS socket's parts away under a writer.
        except (OSError, AttributeError, ValueError) as exc:
            self.bus.abort(f"connection lost while writing: {exc}")
            raise
        finally:
            if not is_whole:
                self.bus.abort("a write was interrupted")


class _TCPTransport(_Transport, TCPTransport):  # type: ignore[misc]
    pass


class _TLSTransport(_Transport, SSLTransport):  # type: ignore[misc]
    def _wrap_socket(self, sock: Any, **_: Any) -> Any:
        assert self.bus.tls is not None
        return self.bus.tls.wrap_socket(sock, server_hostname=self.bus.server_name, do_handshake_on_connect=False)

    def _setup_transport(self) -> None:
        super()._setup_transport()
        self._write = self.sock.sendall
        # The library leaves its connect timeout on the socket, and an idle read would raise.
        self.sock.settimeout(None)

    def _init_socket(self, *settings: Any) -> None:
        try:
            super()._init_socket(*settings)
        except (ConnectionError, ssl.SSLEOFError):
            # The peer's reason for hanging up may lie unread behind a failed write: in TLS 1.3 a client's
            # certificate is judged after the client's own handshake is done.
            self.sock.settimeout(self.connect_timeout)
            self.sock.recv(1)
            raise

    def _shutdown_transport(self) -> None:
        """Skip the library's unwrap: it waits for the peer's answer, and the peer may be gone."""
