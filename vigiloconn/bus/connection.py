"""One AMQP connection with one reader and one write lock. Knows frames and time, nothing of journals or routes.

One greenlet reads (`BusConnection.read`); a synchronous call on another greenlet waits for the reader to hand it
the answer.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from struct import error as StructError
from struct import unpack_from
from typing import Any

import gevent
from amqp.exceptions import AMQPError, ConnectionForced, RecoverableConnectionError, ResourceError
from amqp.method_framing import frame_writer as library_frame_writer
from gevent.event import AsyncResult
from gevent.lock import Semaphore

from vigiloconn import __version__
from vigiloconn.bus import pyamqp
from vigiloconn.bus.inbound import HEARTBEAT, METHOD, FrameSplitter, Malformed, TakeWhole
from vigiloconn.errors import BusDown, BusRefused, LeaveBroker, NoChannel, SettingsError
from vigiloconn.ipv6 import Endpoint
from vigiloconn.kit.escape import printable
from vigiloconn.kit.traces import again
from vigiloconn.kit.turns import Turns
from vigiloconn.options import BusSettings

log = logging.getLogger(__name__)

Dial = Callable[[Endpoint, float], socket.socket]

_READ_BYTES = 65536
#: Two octets each of class and method, eight of delivery tag, one of bits.
_CONFIRM_SIZE = 13
_ACK = b"\x00\x3c\x00\x50"
_NACK = b"\x00\x3c\x00\x78"
_DELIVER = b"\x00\x3c\x00\x3c"
#: How long a declare, a bind or the opening of a channel may take.
RPC_TIMEOUT_S = 30.0


class GoingDown(LeaveBroker):
    """Raised when the broker itself says that it is shutting down."""


def tls_context(settings: BusSettings) -> ssl.SSLContext:
    """Return a context that verifies the broker's chain and host name, with the client certificate if one is set."""
    key = "ca_file"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file:
            key = "cert_file, key_file"
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as exc:
        paths = ", ".join(filter(None, (getattr(settings, name) for name in key.split(", "))))
        expected = "certificates" if key == "ca_file" else "a certificate and its key"
        raise SettingsError(f"[bus] {key}: expected {expected} in PEM, can't load {paths}: {exc}") from exc
    return context


class BusConnection:
    """A connection to one broker.

    `connect()` first; then one greenlet calls `read()`, which returns only by raising, and another one
    calls `tick()` again and again. All other methods may be called on any greenlet but the reader's, unless they
    say otherwise.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: BusSettings,
        *,
        dial: Dial,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.dial = dial
        self.tls: ssl.SSLContext | None = None
        self.server_name = settings.server_name or endpoint.host
        self.blocked = False
        self.on_blocked: Callable[[bool], None] = lambda blocked: None
        self.confirms: dict[int, Callable[[int, bool, bool], None]] = {}
        """channel id -> function of (delivery tag, multiple, is an ack); called on the reader's greenlet."""
        self.deliveries: dict[int, Callable[[int, bytes], None]] = {}
        """channel id -> function of (frame type, payload) for deliveries' frames; called on the reader's greenlet."""
        self.contents: dict[int, TakeWhole] = {}
        """channel id -> what takes a delivery of several frames at once; called on the reader's greenlet."""
        self.refusal: BusRefused | None = None
        """What the broker said when it closed the connection because of something that we did."""
        self._name = name
        self._clock = clock
        self._lock = Semaphore(1)
        self._answers: dict[AsyncResult[Any], tuple[Any, float]] = {}
        self._reader: gevent.Greenlet[..., Any] | None = None
        self._connecting: Any = None
        """The greenlet that is in `connect()`."""
        self._lost: BusDown | None = None
        self._closing = False
        self._heard_at = self._wrote_at = clock()
        self._turns = Turns(clock)
        self._frames = FrameSplitter(self._dispatch, self.contents)
        self._library = self._make_library_connection()

    def _make_library_connection(self) -> pyamqp.Connection:
        settings = self.settings
        return pyamqp.Connection(
            self,
            host=str(self.endpoint),
            authentication=(pyamqp.login(settings.auth, settings.user, settings.password.reveal()),),
            virtual_host=settings.vhost,
            heartbeat=settings.heartbeat_s,
            connect_timeout=settings.connect_timeout_s,
            client_properties={
                "product": "vigiloconn",
                "product_version": __version__,
                "connection_name": self._name,
            },
            on_blocked=lambda reason: self._set_blocked(True),
            on_unblocked=lambda: self._set_blocked(False),
        )

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        self.on_blocked(blocked)

    # -- connecting and ending ---------------------------------------------------------------------

    def connect(self) -> None:
        """Dial, log in and open the virtual host, within `connect_timeout_s` in all.

        Raises `BusDown` when nobody answers as a broker should, `LeaveBroker` when nobody answers in time, `BusRefused`
        when the login, the virtual host or the broker's certificate is the reason.
        """
        if self.settings.use_ssl:
            try:
                # Read anew for each connection: certificates are replaced while the connector runs.
                self.tls = tls_context(self.settings)
            except SettingsError as exc:
                self.abort(str(exc))
                raise BusRefused(f"{self.endpoint}: {exc}") from exc
        limit_s = self.settings.connect_timeout_s
        self._connecting = gevent.getcurrent()
        try:
            with gevent.Timeout(limit_s, LeaveBroker(f"{self.endpoint}: no answer within {limit_s:g} s")):
                self._library.connect()
        except Malformed as exc:
            self.leave(str(exc))
            raise self._gone() from exc
        except BusDown as exc:
            self._end(again(exc))
            raise
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as exc:
            self.abort(f"TLS: {exc}")
            raise BusDown(f"{self.endpoint}: can't connect: the peer hung up during the TLS handshake") from exc
        except ssl.SSLError as exc:
            self.abort(f"TLS: {exc}")
            raise BusRefused(f"{self.endpoint}: TLS handshake refused: {exc}") from exc
        except AMQPError as exc:
            self.abort(str(exc))
            said = printable(exc.reply_text or exc)
            text = f"{self.endpoint}, virtual host {self.settings.vhost!r}, user {self.settings.user!r}: {said}"
            if isinstance(exc, ConnectionForced):
                raise GoingDown(text) from exc
            raise BusRefused(text, exc.reply_code or 0) from exc
        # ValueError: what the settings say may be no name for TLS.
        except (OSError, ValueError) as exc:
            self.abort(str(exc))
            raise BusDown(f"{self.endpoint}: can't connect: {exc}") from exc
        finally:
            self._connecting = None
            if self._lost is not None:
                self._release()
        self._library.client_properties.get("capabilities", {})["connection.blocked"] = False
        self._heard_at = self._wrote_at = self._clock()

    def close(self, timeout_s: float) -> None:
        """Say goodbye and wait for the answer, at most `timeout_s`; then the socket is closed in any case."""
        if self._lost is None:
            self._closing = True
            try:
                with gevent.Timeout(timeout_s, TimeoutError("no close-ok")):
                    if self._reader is None:
                        self._library.say_close()
                    else:
                        self._library.close()
            except (OSError, AMQPError, BusDown, BusRefused) as exc:
                log.debug("%s: closed without a goodbye: %s", self.endpoint, exc)
        self.abort("closed by us")
        if self._reader is None:
            self._release()

    def abort(self, reason: str) -> None:
        """Throw the connection away: the reader and every waiting call end with `BusDown(reason)`.

        Never blocks; the first reason stays.
        """
        self._end(BusDown(f"{self.endpoint}: {reason}"))

    def leave(self, reason: str) -> None:
        """Throw the connection away, and with it this broker: as `abort`, but by `LeaveBroker(reason)`."""
        self._end(LeaveBroker(f"{self.endpoint}: {reason}"))

    def _end(self, reason: BusDown) -> None:
        if self._lost is None:
            self._lost = reason
            if self._connecting not in (None, gevent.getcurrent()):
                gevent.get_hub().loop.run_callback(self._interrupt_connect)
        self.fail_answers(None, self._lost)
        self._library.collect()

    def _release(self) -> None:
        """Cut the circles that the parts of a connection make: they hold some 150 KB, and the collector, which counts
        objects and not bytes, comes for them late."""
        self._library.release()
        self._frames.release()
        self.confirms.clear()
        self.deliveries.clear()
        self.contents.clear()
        self.on_blocked = lambda blocked: None

    def _interrupt_connect(self) -> None:
        # It waits for a socket, or for the name of a host; looked at again, since it may be over meanwhile.
        if self._connecting is not None:
            self._connecting.throw(self._gone())

    @property
    def lost(self) -> BusDown | None:
        """Why the connection is gone; None while it is there."""
        return None if self._lost is None else again(self._lost)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise again(self._lost)

    def _gone(self) -> BusDown:
        assert self._lost is not None
        return again(self._lost)

    # -- reading -----------------------------------------------------------------------------------

    def read(self) -> None:
        """Read and dispatch frames until the connection is lost, then raise why: `BusDown`, `GoingDown`
        or `BusRefused` (the broker closed the connection because of something that we did)."""
        self._reader = gevent.getcurrent()  # type: ignore[assignment]
        try:
            self._read_until_lost()
        except Malformed as exc:
            self.leave(str(exc))
            raise self._gone() from exc
        except ConnectionForced as exc:
            self._end(GoingDown(f"{self.endpoint}: {printable(exc)}"))
            raise self._gone() from exc
        except AMQPError as exc:
            if self._closing:
                self.abort("closed by us")
                raise self._gone() from exc
            said = printable(exc.reply_text or exc)
            self.refusal = BusRefused(f"{self.endpoint}: {said}", exc.reply_code or 0)
            self.abort(said)
            raise again(self.refusal) from exc
        except OSError as exc:
            self.abort("closed by us" if self._closing else f"connection lost: {exc}")
            raise self._gone() from exc
        except (AttributeError, TypeError, ValueError):
            # `collect()` takes the library's parts away under a reader that is in the middle of a frame.
            if self._lost is None:
                raise
            raise self._gone() from None
        finally:
            self.abort("the reader ended")
            self._reader = None
            self._release()

    def _read_until_lost(self) -> None:
        while True:
            self.read_some()

    def read_some(self) -> None:
        """Read what has come, or wait for it, and dispatch it. Raises what `read` translates.

        On the reader's greenlet, or on the one that is in `connect()`.
        """
        self._raise_if_lost()
        asked_s = self._clock()
        # Without a timeout, which the socket would apply to writes as well: `tick` watches the silence.
        data = self._library.transport.sock.recv(_READ_BYTES)
        if not data:
            raise OSError("closed by the peer")
        self._heard_at = self._clock()
        self._turns.waited_since(asked_s)
        self._frames.feed(data)
        self._turns.stand_back()

    def _dispatch(self, kind: int, channel_id: int, buffer: bytes, start: int, stop: int) -> None:
        """Handle one frame, whose payload is `buffer[start:stop]`."""
        method = buffer[start : start + 4] if stop - start == _CONFIRM_SIZE and kind == METHOD else b""
        if method in (_ACK, _NACK) and (confirm := self.confirms.get(channel_id)) is not None:
            tag, bits = unpack_from(">QB", buffer, start + 4)
            confirm(tag, bool(bits & 1), method == _ACK)
        elif channel_id in self.deliveries and (kind != METHOD or buffer.startswith(_DELIVER, start)):
            self.deliveries[channel_id](kind, buffer[start:stop])
        elif kind != HEARTBEAT:
            self._library.on_inbound_frame((kind, channel_id, buffer[start:stop]))
        self._raise_if_lost()

    def agree_frame_max(self, frame_max: int) -> None:
        """Refuse larger frames from now on."""
        self._frames.frame_max = frame_max

    def forbid_on_reader(self) -> None:
        """Raise RuntimeError on the reader's greenlet: an answer can't arrive while it waits for it."""
        if self._reader is gevent.getcurrent():
            raise RuntimeError("a synchronous bus call on the greenlet that reads would wait for ever")

    def call(self, asker: Any, answer: AsyncResult[Any], send: Callable[[], Any]) -> Any:
        """Send, then wait for the reader to set `answer`. Raises `BusDown` or `BusRefused`."""
        self.forbid_on_reader()
        closed_by: BusRefused | None = getattr(asker, "closed_by", None)
        if closed_by is not None:
            raise again(closed_by)
        self._answers[answer] = asker, self._clock()
        try:
            self.tell(send)
            answer.wait(RPC_TIMEOUT_S)
            if not answer.ready():
                # A late answer would be taken for that of the next call.
                self.abort(f"no answer within {RPC_TIMEOUT_S:g} s")
            return answer.get(block=False)
        finally:
            self._answers.pop(answer, None)

    @property
    def waiting_s(self) -> float:
        """For how long the longest of the waiting calls has had no answer; 0 when none waits."""
        return max((self._clock() - asked_s for _, asked_s in self._answers.values()), default=0.0)

    def tell(self, send: Callable[[], Any]) -> Any:
        """Send and translate what goes wrong. Raises `BusDown`, or `BusRefused` where it can't even be encoded."""
        self._raise_if_lost()
        try:
            return send()
        except (OSError, RecoverableConnectionError) as exc:
            raise self.lost or BusDown(f"{self.endpoint}: {exc}") from exc
        except (AMQPError, UnicodeEncodeError, StructError, OverflowError) as exc:
            raise BusRefused(f"can't be encoded: {exc}") from exc

    def fail_answers(self, asker: Any, error: Exception) -> None:
        """End the waiting calls of one channel, or (None) of all, with `error`."""
        for answer, (owner, _) in list(self._answers.items()):
            if (asker is None or owner is asker) and not answer.ready():
                answer.set_exception(again(error))

    # -- writing -----------------------------------------------------------------------------------

    def certificate_ends_at(self) -> float | None:
        """Return until when the broker's certificate is good, in UNIX seconds; None without TLS."""
        transport = self._library.transport
        if self.tls is None or transport is None:
            return None
        return float(ssl.cert_time_to_seconds(transport.sock.getpeercert()["notAfter"]))

    def dial_now(self) -> socket.socket:
        """Return a new connected socket to the endpoint, for the library."""
        return self.dial(self.endpoint, self.settings.connect_timeout_s)

    def is_writing(self) -> bool:
        """Tell whether some greenlet holds the write lock."""
        return self._lock.locked()

    def frame_writer(self, library: Any, transport: Any) -> Callable[..., None]:
        """Return what py-amqp writes its own frames with: its own writer, under our lock."""
        write_frame = library_frame_writer(library, transport)

        def write_locked(*args: Any) -> None:
            with self._lock:
                write_frame(*args)
                self._wrote_at = self._clock()

        return write_locked

    def write(self, buffer: bytes, channel: Any) -> bool:
        """Write whole frames of one channel; blocks while the broker does not read.

        Returns False, and writes nothing, if the broker has closed that channel meanwhile. Raises `BusDown`.
        """
        try:
            with self._lock:
                self._raise_if_lost()
                if not channel.is_open:
                    return False
                self._library.transport.write(buffer)
                self._wrote_at = self._clock()
                return True
        except (OSError, AttributeError, ValueError, RecoverableConnectionError) as exc:
            self.abort("closed by us" if self._closing else f"connection lost while writing: {exc}")
            raise self._gone() from exc

    def tick(self) -> None:
        """Throw the connection away when nothing was heard for two heartbeats; send one when it is due.

        To be called a few times per heartbeat, on a greenlet of its own: the sending may block.
        """
        heartbeat_s = self._library.heartbeat
        if not heartbeat_s or self._lost is not None:
            return
        now = self._clock()
        silent_s = now - self._heard_at
        if silent_s > 2 * heartbeat_s:
            self.abort(f"nothing heard for {silent_s:.1f} s, heartbeat is {heartbeat_s:g} s")
        # A greenlet that holds the lock is sending, which is as good as a heartbeat; a broker that has blocked us
        # does not read, and does not miss our heartbeats either.
        elif now - self._wrote_at > heartbeat_s / 3 and not self._lock.locked() and not self.blocked:
            try:
                with gevent.Timeout(heartbeat_s, TimeoutError(f"not taken within {heartbeat_s:g} s")):
                    self._library.send_heartbeat()
            except (OSError, AMQPError, AttributeError, ValueError) as exc:
                self.abort(f"heartbeat can't be sent: {exc}")

    # -- channels ----------------------------------------------------------------------------------

    @property
    def max_message_bytes(self) -> int:
        """The largest body that is taken from the broker."""
        return self.settings.max_message_bytes

    @property
    def heard_at(self) -> float:
        """When something was last heard of the broker, in seconds of the clock."""
        return self._heard_at

    @property
    def frame_max(self) -> int:
        """Largest frame that the broker takes, in octets, as negotiated."""
        return int(self._library.frame_max)

    def open_channel(self) -> Any:
        """Open a channel (py-amqp's `Channel`) and return it. Raises `BusDown`, `BusRefused`."""
        self._raise_if_lost()
        try:
            channel = pyamqp.Channel(self._library)
        except ResourceError as exc:
            text = f"the broker allows {self._library.channel_max} channels on a connection (channel_max)"
            raise NoChannel(f"{self.endpoint}: {text}") from exc
        except (AMQPError, TypeError) as exc:
            # The library has just closed itself.
            raise self.lost or BusDown(f"{self.endpoint}: no channel: {exc}") from exc
        channel.open()
        return channel

    def forget_channel(self, channel: Any) -> None:
        """Close a channel that is not needed any more; a broker that does not answer is no error."""
        self.confirms.pop(channel.channel_id, None)
        if channel.is_open and self._lost is None:
            try:
                channel.close()
            except (BusDown, BusRefused, OSError) as exc:
                log.debug("%s: channel not closed in order: %s", self.endpoint, exc)
