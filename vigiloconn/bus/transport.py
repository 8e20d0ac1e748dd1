"""py-amqp's sockets, dialled by their connection's owner. Knows sockets and TLS, nothing of frames."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any, Protocol

from amqp.transport import SSLTransport, TCPTransport

#: 0 is the system's own limit. py-amqp's is one second, and any limit ends the connection to a broker that does
#: not read while it is under an alarm; a dead peer is known by its silence.
_TCP_USER_TIMEOUT_MS = 0


class Dialler(Protocol):
    """What a transport asks of the connection that owns it."""

    tls: ssl.SSLContext | None
    server_name: str

    def dial_now(self) -> socket.socket: ...
    def abort(self, reason: str) -> None: ...


def make_transport(bus: Dialler, connect_timeout_s: float | None) -> Any:
    """Return a transport of the library's for `bus`, not connected, with TLS where it has a context for that."""
    kind = TLSTransport if bus.tls else PlainTransport
    transport = kind(
        "localhost",  # never looked up: `_connect` has the owner dial
        connect_timeout=connect_timeout_s,
        socket_settings={socket.TCP_USER_TIMEOUT: _TCP_USER_TIMEOUT_MS},
    )
    transport.bus = bus
    return transport


class _Transport:
    """Replaces the library's connect, which gives each address of a host the whole timeout in turn, and watches
    over writes."""

    bus: Dialler
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


def _send_all(sock: Any, data: Any) -> None:
    # Nearly always all at once, and then gevent's `sendall` does twice the work.
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


class PlainTransport(_Transport, TCPTransport):  # type: ignore[misc]
    def _setup_transport(self) -> None:
        super()._setup_transport()
        # Not a method of ours: it would hold this object, and with it all of a lost connection, until a collection.
        self._write = partial(_send_all, self.sock)


class TLSTransport(_Transport, SSLTransport):  # type: ignore[misc]
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
