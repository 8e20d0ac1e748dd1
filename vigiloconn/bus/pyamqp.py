"""py-amqp, bent to one reader and one write lock. Knows the library's seams, nothing of what a connection is for.

In py-amqp each greenlet that waits for an answer reads; with several greenlets that fails. Here a
synchronous call waits until the connection's owner, who reads, has dispatched the answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from struct import unpack_from
from typing import Any, Protocol

import amqp
from amqp import sasl, spec
from amqp.channel import queue_declare_ok_t
from amqp.exceptions import METHOD_NAME_MAP, RecoverableConnectionError, error_for_code
from amqp.serialization import loads
from gevent.event import AsyncResult
from gevent.lock import RLock

from vigiloconn.bus.contents import UNDECODABLE, ContentReader, decoded_properties, message_id
from vigiloconn.bus.inbound import FRAME_MAX, FRAME_MIN, METHOD, Malformed
from vigiloconn.bus.transport import Dialler, make_transport
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.kit.escape import printable

#: What the broker says during the handshake, once each and in this order.
_HANDSHAKE = (spec.Connection.Start, spec.Connection.Tune, spec.Connection.OpenOk)
_WITH_CONTENT = (spec.Basic.Return, spec.Basic.Deliver, spec.Basic.GetOk)


class Owner(Dialler, Protocol):
    """What the library's parts ask of the connection that owns them."""

    @property
    def max_message_bytes(self) -> int: ...
    def read_some(self) -> None: ...
    def agree_frame_max(self, frame_max: int) -> None: ...
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
    is_closing: bool
    _METHODS: dict[Any, Any]
    _ALLOWED_METHODS_WHEN_CLOSING: tuple[Any, ...]
    _callbacks: dict[Any, Any]
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

    def dispatch_method(self, method_sig: Any, payload: bytes, content: Any) -> None:
        """As the library's, but whatever is wrong with the bytes is `Malformed`, and nothing else is."""
        if self.is_closing and method_sig not in self._ALLOWED_METHODS_WHEN_CLOSING:
            return  # late, and no news to anybody; the library would log a warning for each
        values = _arguments(self._METHODS, method_sig, payload)
        listener = self._callbacks.get(method_sig)
        one_shot = self._pending.pop(method_sig, None)
        if content is not None:
            values.append(content)
        if listener is not None:
            listener(*values)
        if one_shot is not None:
            one_shot(method_sig, *values)

    def release(self) -> None:
        """Let go of what makes a circle with this: its own methods, among them."""
        self._callbacks.clear()
        self._pending.clear()
        self.on_open = None

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("nothing but the reader may wait for frames")


def _arguments(methods: dict[Any, Any], sig: Any, payload: bytes) -> list[Any]:
    """Return the arguments of a method. Raises `Malformed` for one that we don't know or can't read."""
    name = METHOD_NAME_MAP.get(sig, str(sig))
    known = methods.get(sig)
    if known is None:
        raise Malformed(f"method {name}, which has no place here")
    try:
        values, end = loads(known.args or "", payload, 4)
    except UNDECODABLE as exc:
        raise Malformed(f"method {name}: {exc!r}") from exc
    # The library takes what there is of a text that is cut short.
    if end > len(payload):
        raise Malformed(f"method {name} of {len(payload)} bytes, cut short")
    found: list[Any] = values
    return found


class _Frames:
    """Makes methods of frames, in place of the library's own, which keeps every body and whose failures are its own.

    A `Consumer`'s deliveries have a reader of their own; what comes here belongs to those who use a bare channel, and
    of a returned message only its id is wanted.
    """

    def __init__(self, library: Connection, on_method: Callable[..., None]) -> None:
        self._library = library
        self._on_method = on_method
        self._contents: dict[int, ContentReader] = {}

    def __call__(self, frame: tuple[int, int, bytes]) -> None:
        kind, channel_id, payload = frame
        if kind != METHOD:
            if (reader := self._contents.get(channel_id)) is not None:
                reader.frame(kind, payload)
            return
        if len(payload) < 4:
            raise Malformed(f"a method of {len(payload)} bytes")
        sig = unpack_from(">HH", payload)
        if sig not in _WITH_CONTENT:
            self._on_method(channel_id, sig, payload, None)
        elif channel_id in (self._library.channels or ()):
            self._contents[channel_id] = reader = self._reader(channel_id, sig)
            reader.frame(kind, payload)

    def _reader(self, channel_id: int, sig: Any) -> ContentReader:
        def returned(method: bytes, header: bytes, _: object) -> None:
            self._on_method(channel_id, sig, method, amqp.Message(message_id=message_id(header)))

        def complete(method: bytes, header: bytes, body: bytes) -> None:
            self._on_method(channel_id, sig, method, amqp.Message(body, **decoded_properties(header)))

        def too_large(method: bytes, header: bytes, size: int) -> None:
            channel = self._library.channels[channel_id]
            self._library.bus.fail_answers(channel, BusRefused(f"a message of {size} bytes, max_message is {limit}"))

        if sig == spec.Basic.Return:
            return ContentReader(returned, 0, returned)
        limit = self._library.bus.max_message_bytes
        return ContentReader(complete, limit, too_large)


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

    def ping(self, on_answer: Callable[[], None]) -> None:
        """Ask for what changes nothing in confirm mode, `confirm.select`, and wait for nothing: `on_answer` is called
        on the reader's greenlet once the broker has read it."""
        self._pending[spec.Confirm.SelectOk] = lambda _sig, *_values: on_answer()
        self.send_method(spec.Confirm.Select, "b", (False,))

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.closed_by = BusRefused(printable(reply_text), reply_code)
        self.is_open = False
        super().send_method(spec.Channel.CloseOk)
        if self.is_closing:
            # Our own close is on its way and will be answered too. Until then the number is taken: the answer
            # would close the next channel that has it.
            return
        self.bus.fail_answers(self, self.closed_by)
        on_closed = self.on_closed
        self.collect()
        if on_closed is not None:
            on_closed(self.closed_by)


    def collect(self) -> None:
        super().collect()
        self.release()

    def release(self) -> None:
        super().release()
        self.on_closed = None

    def _on_close_ok(self) -> None:
        if not self.is_closing:
            raise Malformed(f"channel {self.channel_id} closed without being asked to")
        super()._on_close_ok()

    def _on_basic_deliver(self, consumer_tag: str, *values: Any) -> None:
        # Without one its channel is about to close; the library would answer, on the greenlet that reads.
        if self.callbacks.get(consumer_tag) is not None:
            super()._on_basic_deliver(consumer_tag, *values)

    def _on_basic_return(self, code: int, text: str, exchange: str, routing_key: str, message: Any) -> None:
        error = error_for_code(code, text, spec.Basic.Return, amqp.ChannelError)
        # The library raises where nobody listens.
        for listener in self.events["basic_return"]:
            listener(error, exchange, routing_key, message)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        on_cancel = self._remove_tag(consumer_tag)
        # The library raises for a consumer that it does not know.
        if on_cancel is not None:
            on_cancel(consumer_tag)


class Connection(_Replies, amqp.Connection):  # type: ignore[misc]
    """py-amqp's connection over a socket that is dialled by its owner and written under its owner's lock."""

    Channel = Channel

    def __init__(self, bus: Owner, **kwargs: Any) -> None:
        self.bus = bus
        self._rpc_lock = RLock()
        self._handshake = list(_HANDSHAKE)
        super().__init__(frame_writer=bus.frame_writer, frame_handler=_Frames, frame_max=FRAME_MAX, **kwargs)

    def Transport(self, host: str, connect_timeout: float | None, *args: Any, **kwargs: Any) -> Any:
        return make_transport(self.bus, connect_timeout)

    def on_inbound_method(self, channel_id: int, method_sig: Any, payload: Any, content: Any) -> None:
        channel = (self.channels or {}).get(channel_id)
        # None: closed on both sides in the same moment, and this is what the broker sent before it knew.
        if channel is not None:
            channel.dispatch_method(method_sig, payload, content)

    def drain_events(self, timeout: float | None = None) -> None:
        """Read for the handshake as for all that comes after it. The time limit is the owner's."""
        self.bus.read_some()

    def dispatch_method(self, method_sig: Any, payload: bytes, content: Any) -> None:
        if method_sig in (*_HANDSHAKE, spec.Connection.Secure):
            if self._handshake[:1] != [method_sig]:
                raise Malformed(f"method {METHOD_NAME_MAP[method_sig]}, which has no place here")
            del self._handshake[0]
        super().dispatch_method(method_sig, payload, content)

    def _on_start(self, major: int, minor: int, properties: dict[Any, Any], mechanisms: str, locales: str) -> None:
        if not isinstance(properties.get("capabilities", {}), dict):
            raise Malformed("method Connection.start: capabilities that are no table")
        super()._on_start(major, minor, properties, mechanisms.encode("utf-8", "replace"), locales)

    def _on_tune(self, channel_max: int, frame_max: int, server_heartbeat: int) -> None:
        """Agree on the smaller of both sides' sizes; 0 is no limit. The library takes any size of the broker's."""
        frame_max = min(frame_max or FRAME_MAX, FRAME_MAX)
        if frame_max < FRAME_MIN:
            raise Malformed(f"frames of at most {frame_max} bytes (frame_max): expected {FRAME_MIN} or more")
        self.bus.agree_frame_max(frame_max)
        super()._on_tune(channel_max, frame_max, server_heartbeat)

    def _on_close_ok(self) -> None:
        if not self.is_closing:
            raise Malformed("the connection closed without being asked to")
        super()._on_close_ok()

    def release(self) -> None:
        super().release()
        # Nothing that needs its owner comes after this.
        self.__dict__.pop("bus", None)
        self.frame_writer_cls = self.frame_handler_cls = None
        self._frame_writer = self._on_inbound_frame = self.on_tune_ok = self.on_blocked = self.on_unblocked = None

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
