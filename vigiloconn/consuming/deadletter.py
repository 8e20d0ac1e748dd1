"""Dead letters: messages that can't be handled, kept in a queue beside the one they came from.

Knows how such a letter looks and how it gets there; when a message is one is its caller's decision.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gevent

from vigiloconn.bus.contents import Delivery, headers_size
from vigiloconn.consuming.work import Identity, LastError, identity
from vigiloconn.errors import BadMessage, BusDown, BusRefused
from vigiloconn.interfaces import Answer, Client
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.escape import printable
from vigiloconn.topology.apply import declare_queue
from vigiloconn.topology.wanted import Queue

log = logging.getLogger(__name__)

SUFFIX = ".dead"
MAX_REASON_CHARS = 500
MAX_KIND_CHARS = 100
_NO_ROUTE = 312
_DECLARE_TIMEOUT_S = 10.0
#: After this without a confirm the state says so, after that the letter is sent again.
_PATIENCE_S = 5.0
_LOST_AFTER_S = 120.0
#: Room in a frame for what is not headers: the other properties, at most 255 octets each.
_FRAME_RESERVE = 2048
_MAX_UNDER_WAY = 100

Wait = Callable[[float, "Answer | None"], bool]
"""Function of (seconds, result): waits for either; False when the message in hand must be left."""


def dead_letter_options(
    delivery: Delivery, reason: str, tries: int, frame_max: int, error: LastError | None = None
) -> dict[str, Any]:
    """Return what `VigiloClient.send` needs beside the body: headers of the original, and ours with the reason.

    Of the other properties, content type, content encoding and message id stay, the rest is in the header
    `x-vigilo-properties`: in its place an expiration would end the letter, and a user id would be refused.
    Headers that can't be decoded or leave no room in a frame are left out, and the reason says so.
    """
    try:
        properties = delivery.properties()
    except BadMessage as exc:
        return _options({}, {}, delivery, f"{_short(reason)}; left out: {exc}", tries, error)
    headers = properties.pop("application_headers", None) or {}
    options = _options(properties, headers, delivery, reason, tries, error)
    problem = _unsendable(options, frame_max - _FRAME_RESERVE)
    if problem:
        options = _options(properties, {}, delivery, f"{_short(reason)}; headers left out: {problem}", tries, error)
    return options


def _options(
    properties: dict[str, Any], headers: dict[Any, Any], delivery: Delivery, reason: str, tries: int,
    error: LastError | None,
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in headers.items():
        # The broker would deliver the letter to the queues that these name, the one that it came from perhaps.
        kept[f"x-vigilo-{key.lower()}" if key in ("CC", "BCC") else key] = value
    kept["x-vigilo-reason"] = _short(reason, MAX_REASON_CHARS * 2)
    kept["x-vigilo-exchange"] = delivery.exchange
    kept["x-vigilo-routing-key"] = delivery.routing_key
    kept["x-vigilo-time"] = int(time.time())
    kept["x-vigilo-tries"] = tries
    if error is not None:
        kept["x-vigilo-error"] = _short(error.kind, MAX_KIND_CHARS)
        kept["x-vigilo-traceback"] = error.frames
    own = ("content_type", "content_encoding", "message_id", "delivery_mode")
    rest = {key: value for key, value in properties.items() if key not in own}
    if rest:
        kept["x-vigilo-properties"] = rest
    return {
        "headers": kept,
        "content_type": _text(properties, "content_type") or "application/octet-stream",
        "content_encoding": _text(properties, "content_encoding"),
        "message_id": _text(properties, "message_id"),
    }


def _text(properties: dict[str, Any], name: str) -> str | None:
    """Return a property if it is there and was UTF-8."""
    value = properties.get(name)
    try:
        return value if isinstance(value, str) and value.encode() else None
    except UnicodeEncodeError:
        return None


def _short(text: str, limit: int = MAX_REASON_CHARS) -> str:
    return text[:limit].encode("utf-8", "replace").decode()


def _unsendable(options: dict[str, Any], room: int) -> str | None:
    """Return why the headers can't be sent."""
    try:
        size = headers_size(options["headers"])
    except BadMessage as exc:
        return str(exc)
    return f"{size} bytes are too many for one frame" if size > room else None


class DeadLetters:
    """Sends dead letters of `queue` to `<queue>.dead`, each with confirm and `mandatory`.

    That queue is declared when a letter finds none. A letter that is not confirmed stays with the caller.
    """

    def __init__(self, publisher: Client, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue = queue + SUFFIX
        self.trouble: str | None = None
        """Why the latest letter can't be sent yet."""
        self._publisher = publisher
        self._clock = clock
        self._under_way: OrderedDict[Identity, Answer] = OrderedDict()

    def bury(
        self, delivery: Delivery, reason: str, tries: int, wait: Wait, error: LastError | None = None
    ) -> bool:
        """Return True once the letter is in its queue; False when `wait` says to leave it: it is to come again.

        Tries for ever, with growing delays.
        """
        key = identity(delivery)
        delays = backoff_delays(0.5, 60.0)
        may_declare = True
        while True:
            try:
                self._await(key, delivery, reason, tries, wait, error)
            except (BusDown, BusRefused, BadMessage) as exc:
                self._note(exc)
                if may_declare and isinstance(exc, BusRefused) and exc.code == _NO_ROUTE and self._declare():
                    may_declare = False
                    continue
            except _Left:
                return False
            else:
                self.trouble = None
                return True
            if not wait(next(delays), None):
                return False

    def _await(
        self, key: Identity, delivery: Delivery, reason: str, tries: int, wait: Wait, error: LastError | None
    ) -> None:
        # One that was left in the middle, and has come again, may be on its way or even there.
        result = self._under_way.get(key)
        if result is None:
            frame_max = delivery.source.connection.frame_max
            options = dead_letter_options(delivery, reason, tries, frame_max, error)
            result = self._publisher.send("", self.queue, delivery.body, mandatory=True, **options)
            self._under_way[key] = result
            while len(self._under_way) > _MAX_UNDER_WAY:
                self._under_way.popitem(last=False)
        began_s = self._clock()
        while not result.ready():
            if not wait(_PATIENCE_S, result):
                raise _Left
            if result.ready():
                break
            connection = self._publisher.connection
            away = connection is None or connection.blocked
            why = "the bus takes none" if away else "no confirm"
            self._note(BusDown(why))
            if not away and self._clock() - began_s > _LOST_AFTER_S:
                # Its sender must have crashed. Twice is better than never.
                self._under_way.pop(key, None)
                raise BusDown(f"no confirm within {_LOST_AFTER_S:g} s")
        self._under_way.pop(key, None)
        result.get(block=False)

    def _note(self, error: Exception) -> None:
        text = f"dead letter can't be sent to queue {self.queue!r}, and holds up what is behind it: {printable(error)}"
        if self.trouble != text and not (isinstance(error, BusRefused) and error.code == _NO_ROUTE):
            self.trouble = text
            log.warning("%s", text)

    def _declare(self) -> bool:
        connection = self._publisher.connection
        if connection is None or connection.blocked:
            return False
        try:
            with gevent.Timeout(_DECLARE_TIMEOUT_S, BusDown(f"no answer within {_DECLARE_TIMEOUT_S:g} s")):
                declare_queue(connection, Queue(self.queue))
        except (BusDown, BusRefused) as exc:
            self._note(exc)
            return False
        log.info("queue %r: declared for dead letters", self.queue)
        return True


class _Left(Exception):
    """Raised when the message in hand must be left: a stop, or the broker has it back."""
