"""One consuming channel: what it delivered, what of that is finished, what of that is acknowledged.

Delivery tags mean something on their channel only, so all of this lives and ends with it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from struct import pack

from gevent.lock import Semaphore

from vigiloconn.bus.contents import ContentReader, Delivery
from vigiloconn.bus.inbound import Malformed
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BusRefused
from vigiloconn.interfaces import Connection

_ACK, _REJECT = 80, 90
_numbers = itertools.count(1)


def settle_frame(channel_id: int, method: int, tag: int, bit: bool) -> bytes:
    """Return a `basic.ack` (bit: multiple) or `basic.reject` (bit: requeue). AMQP 0-9-1 reference, class basic."""
    return pack(">BHIHHQBB", 1, channel_id, 13, 60, method, tag, bit, 0xCE)


class Consumer:
    """Consumes one queue on a channel of its own, from `start()` to `close()`.

    It keeps bodies that are not finished up to `prefetch.max_bytes`, and one body in any case. From the first one on
    that is too much it winds down.

    What is called runs on the connection's reading greenlet and must neither block nor call the bus: `on_arrival()`;
    `on_ended(self, reason)` when the broker ends it, not when the connection is lost; `on_too_large(self, size)` when a
    message was rejected that is larger than what is taken; `on_overrun()` when a message was one too much.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_arrival: Callable[[], None],
        on_ended: Callable[[Consumer, str], None],
        on_too_large: Callable[[Consumer, int], None],
        on_overrun: Callable[[], None],
        prefetch: Prefetch,
    ) -> None:
        self.connection = connection
        self.ready: deque[Delivery] = deque()
        """Delivered and not handed out."""
        self.received = 0
        self.redelivered = 0
        self.is_winding_down = False
        self.ended: str | None = None
        """Why the broker has ended it."""
        self._on_arrival = on_arrival
        self._on_ended = on_ended
        self._on_too_large = on_too_large
        self._on_overrun = on_overrun
        self._prefetch = prefetch
        self._held_bytes = 0
        self._max_message_bytes = connection.max_message_bytes
        self._is_tight = False
        """There is no room for any message that may come."""
        self._discarding = False
        self._discarded = 0
        self._finished: set[int] = set()
        """Above the lowest that is not."""
        self._untold: set[int] = set()
        """Those of them that the broker does not know of."""
        self._told: set[int] = set()
        """What was settled by itself, while it may lie in the way of a `multiple`."""
        self._rejected: set[int] = set()
        self._unfinished = 1
        """The lowest tag that is not finished."""
        self._acked_upto = 0
        """The highest tag that the broker has the outcome of."""
        self._lock = Semaphore(1)
        self._channel = connection.open_channel()
        self._id: int = self._channel.channel_id
        self._reader = ContentReader(self._delivered, self._max_message_bytes, self._left_out)
        self._hook: Callable[[int, bytes], None] = self._reader.frame
        connection.deliveries[self._id] = self._hook
        connection.contents[self._id] = self._reader.whole
        self._channel.on_closed = self._closed

    def start(self, queue: str) -> None:
        """Ask for the queue's messages; they may come before this returns. Raises `BusDown`, `BusRefused`."""
        tag = f"vigiloconn-{next(_numbers)}"
        # Before the consume is sent: the reader may see the queue's end before this greenlet sees the consume-ok.
        self._channel.cancel_callbacks[tag] = self._cancelled
        self._channel.basic_qos(0, self._prefetch.messages, False)
        self._channel.basic_consume(queue, consumer_tag=tag, on_cancel=self._cancelled)

    def wind_down(self) -> None:
        """Keep nothing more. What is here is handed out and finished as before; the rest goes back when it closes.

        The broker is not told: what is under way to a consumer that was cancelled, and what is rejected with requeue, a
        quorum queue puts at its end. What a channel holds when it closes goes to the front.
        """
        self.is_winding_down = True
        self._set_room()

    @property
    def is_idle(self) -> bool:
        """True while nothing waits here and nothing is in work."""
        return not self.ready and not self.outstanding

    @property
    def outstanding(self) -> int:
        """Messages that were handed out and are not finished."""
        return self.received - self._discarded - len(self.ready) - (self._unfinished - 1) - len(self._finished)

    @property
    def unacknowledged(self) -> int:
        """Finished messages whose outcome the broker does not have; a few too many where it has some by themselves."""
        return self._unfinished - 1 - self._acked_upto + len(self._untold)

    def discard(self) -> None:
        """Hand out nothing more. What was not handed out goes back when the channel closes."""
        self._discarding = True
        self._discarded += len(self.ready)
        self.ready.clear()
        self._set_room()

    def finish(self, deliveries: Iterable[Delivery], *, accepted: bool) -> None:
        """Note that these are done, or (not accepted) never can be; `flush_acks()` tells the broker."""
        first, finished = self._unfinished, self._finished
        for delivery in deliveries:
            tag = delivery.tag
            self._held_bytes -= len(delivery.body)
            if tag == first:
                first += 1
            else:
                finished.add(tag)
                self._untold.add(tag)
            if not accepted:
                self._rejected.add(tag)
        while first in finished:
            finished.discard(first)
            self._untold.discard(first)
            first += 1
        self._unfinished = first
        if self._is_tight:
            self._set_room()

    def _set_room(self) -> None:
        """Say how large a body may be to be kept."""
        room_bytes = self._prefetch.max_bytes - self._held_bytes
        self._is_tight = room_bytes < self._max_message_bytes
        if self._discarding or self.is_winding_down:
            self._reader.max_bytes = -1
        elif self._is_tight and self._held_bytes:
            self._reader.max_bytes = room_bytes
        else:
            self._reader.max_bytes = self._max_message_bytes

    def flush_acks(self) -> None:
        """Settle all that is finished: together up to the first that is not, each by its own tag behind it.

        One after the other: a tag that was settled by a later `multiple` may not be named again. Raises `BusDown`.
        """
        with self._lock:
            buffer = self._take_unacknowledged()
            if buffer:
                self.connection.write(buffer, self._channel)

    def close(self) -> None:
        """Settle what is finished, and give the rest back by closing the channel. Raises `BusDown`."""
        self.discard()
        try:
            if self.ended is None:
                self.flush_acks()
            self.connection.forget_channel(self._channel)
        finally:
            self._unhook()

    def _take_unacknowledged(self) -> bytes:
        last = self._unfinished - 1
        parts: list[bytes] = []
        settled = self._acked_upto
        for tag in sorted(tag for tag in self._rejected | self._told if tag <= last):
            if tag - 1 > settled:
                parts.append(settle_frame(self._id, _ACK, tag - 1, True))
            if tag not in self._told:
                parts.append(self._settle_alone(tag))
            self._told.discard(tag)
            settled = tag
        if last > settled:
            parts.append(settle_frame(self._id, _ACK, last, True))
        self._acked_upto = last
        if self._untold:
            parts += [self._settle_alone(tag) for tag in sorted(self._untold)]
            self._told |= self._untold
            self._untold.clear()
        return b"".join(parts)

    def _settle_alone(self, tag: int) -> bytes:
        if tag in self._rejected:
            self._rejected.discard(tag)
            return settle_frame(self._id, _REJECT, tag, False)
        return settle_frame(self._id, _ACK, tag, False)

    # -- on the reading greenlet -----------------------------------------------------------------------------

    def _delivered(self, method: bytes, header: bytes, body: bytes) -> None:
        delivery = self._take(method, header, body)
        if not (self._discarding or self.is_winding_down):
            self.ready.append(delivery)
            self._prefetch.note(len(body))
            self._held_bytes += len(body)
            if self._prefetch.max_bytes - self._held_bytes < self._max_message_bytes:
                self._set_room()
            self._on_arrival()

    def _left_out(self, method: bytes, header: bytes, size: int) -> None:
        """Note a message whose body is read past."""
        delivery = self._take(method, header, b"")
        if self._discarding or self.is_winding_down:
            return
        if size > self._max_message_bytes:
            self.finish([delivery], accepted=False)
            self._on_too_large(self, size)
            return
        self._prefetch.note(size)
        self._discarded += 1
        self.wind_down()
        self._on_overrun()

    def _take(self, method: bytes, header: bytes, body: bytes) -> Delivery:
        delivery = Delivery(method, header, body, self)
        self.received += 1
        if delivery.tag != self.received:
            raise Malformed(f"delivery tag {delivery.tag} where {self.received} was due")
        self.redelivered += delivery.redelivered
        if self._discarding or self.is_winding_down:
            self._discarded += 1
        return delivery

    def _cancelled(self, tag: str) -> None:
        self._end("cancelled by the broker: the queue was deleted or moved")

    def _closed(self, error: BusRefused) -> None:
        self._unhook()
        self._end(str(error))

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self._on_ended(self, reason)

    def _unhook(self) -> None:
        # A closed channel's number may be another's already.
        if self.connection.deliveries.get(self._id) is self._hook:
            del self.connection.deliveries[self._id]
            self.connection.contents.pop(self._id, None)
        # They hold this one, which would hold them and all that came with them until a collection.
        self._reader = ContentReader(_ignore, 0, _ignore)
        self._hook = self._reader.frame


def _ignore(method: bytes, header: bytes, body: bytes | int) -> None:
    """Nobody consumes any more."""
