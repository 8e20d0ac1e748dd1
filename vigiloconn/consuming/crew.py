"""Several greenlets that work the messages of one queue. Knows who does what next; the greenlets are its caller's.

Each message is acknowledged by its own tag when it is done, so that a slow one keeps no others back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.accounts import Account, Accounts
from vigiloconn.consuming.envelope import Envelope
from vigiloconn.consuming.lanes import Lanes
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.consuming.unpack import Message, Step
from vigiloconn.errors import BadMessage, RetryLater
from vigiloconn.kit.escape import printable

#: Messages that are decoded and wait for a worker; more of a body are decoded when these are fewer.
MAX_WAITING = 1000
_BATCH_DELIVERIES = 500
_REMEMBERED = 10_000
_FAILURES = (Exception, gevent.Timeout)


@dataclass(slots=True, eq=False)
class Parcel:
    """One delivery, as far as its messages are decoded."""

    delivery: Delivery
    account: Account
    steps: Iterator[Step]
    is_one: bool
    """The body is a message itself, and holds no others."""
    decoded: int = 0
    unended: int = 0
    is_open: bool = True
    """There may be more to decode."""


@dataclass(slots=True, eq=False)
class Item:
    """One message of a parcel. Without a place it stands for the end of the parcel."""

    parcel: Parcel
    place: int
    message: Message
    key: Hashable
    envelope: Envelope | None = None


class Duty(Protocol):
    """What the crew asks of the handler that it works for."""

    def unpack(self, delivery: Delivery) -> list[Message] | Iterator[Step]:
        """Return the messages of a delivery. Raises `BadMessage`."""

    def key_of(self, message: Message, envelope: Envelope) -> Hashable:
        """Return the key within which order is kept. Raises anything."""

    def do(self, message: Message, envelope: Envelope) -> None:
        """Do the work. Raises anything."""

    def note_processed(self) -> None:
        """One is done."""

    def is_pause(self, error: BaseException) -> bool:
        """Answer whether nothing can be handled for now, and pause then."""

    def retry_delay_s(self, item: Item, error: BaseException) -> float | None:
        """Count a failed try, and return how long to wait before the next one; None for none."""

    def bury(self, delivery: Delivery, account: Account) -> bool:
        """Send a dead letter and acknowledge the original. False when it must be left."""


class Crew:
    """Hands the messages of `source` to workers. `dispatch` is one life of one greenlet, `work` of each worker."""

    def __init__(self, source: QueueSubscriber, duty: Duty, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._duty = duty
        self._ready = Semaphore(0)
        self._lanes: Lanes[Item] = Lanes(clock, self._ready.release)
        self._accounts = Accounts(_REMEMBERED)
        self._coming: deque[Delivery] = deque()
        self._opening: Parcel | None = None
        self._changed = Event()
        self._has_left = False
        self._stopping = False

    def begin(self) -> None:
        """Begin a new life: what waited in the former one is not acknowledged, and comes again."""
        self._coming.clear()
        self._opening = None
        self._lanes = Lanes(time.monotonic, self._ready.release)

    def stop(self, workers: int) -> None:
        """Let `dispatch` and that many `work` end, each after what it is at."""
        self._stopping = True
        for _ in range(workers):
            self._ready.release()
        self._nudge()

    def left(self) -> None:
        """What was handed out is stale. Called on any greenlet."""
        self._has_left = True
        self._nudge()

    def _nudge(self) -> None:
        self._changed.set()
        self._source.interrupt()

    # -- the one that hands out ----------------------------------------------------------------------------------

    def dispatch(self, on_taken: Callable[[], None]) -> None:
        """Take deliveries and hand out their messages, until `stop`. `on_taken()` is called when some have come."""
        while not self._stopping:
            self._changed.clear()
            if self._has_left:
                self._has_left = False
                self._lanes.drop(self._is_stale)
            self._lanes.wake_due()
            self._feed()
            if self._opening is not None or self._coming:
                self._changed.wait(self._lanes.due_in_s())
            elif deliveries := self._source.get(_BATCH_DELIVERIES, self._lanes.due_in_s()):
                on_taken()
                self._coming.extend(deliveries)

    def _is_stale(self, item: Item) -> bool:
        return self._source.is_stale(item.parcel.delivery)

    def _feed(self) -> None:
        """Decode as many messages as may wait."""
        while len(self._lanes) < MAX_WAITING:
            if self._opening is None:
                if not self._coming:
                    return
                self._opening = self._open(self._coming.popleft())
            parcel = self._opening
            if self._source.is_stale(parcel.delivery) or not self._decode_next(parcel):
                self._opening = None

    def _open(self, delivery: Delivery) -> Parcel:
        account = self._accounts.open(delivery)
        try:
            messages = self._duty.unpack(delivery)
        except BadMessage as exc:
            messages = iter([exc])
        return Parcel(delivery, account, iter(messages), isinstance(messages, list))

    def _decode_next(self, parcel: Parcel) -> bool:
        """Take the next message of a body. False when there is none."""
        for step in parcel.steps:
            if step is not None:
                self._take_in(parcel, step)
            if not parcel.is_one:
                return True
        parcel.is_open = False
        if not parcel.unended:
            self._lanes.add(Item(parcel, -1, None, None))
        return False

    def _take_in(self, parcel: Parcel, step: Step) -> None:
        place = parcel.decoded
        parcel.decoded += 1
        account = parcel.account
        if place in account.ended:
            return
        if isinstance(step, BadMessage):
            account.give_up(place, str(step))
            return
        envelope = Envelope(parcel.delivery, account.tries(place))
        try:
            key = self._duty.key_of(step, envelope)
            hash(key)
        except _FAILURES as exc:
            account.give_up(place, f"order_key: {type(exc).__name__}: {printable(exc)}")
            return
        parcel.unended += 1
        self._lanes.add(Item(parcel, place, step, key, envelope))

    # -- the workers -----------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Do one message after the other, until `stop`."""
        while not self._stopping:
            self._ready.acquire()
            item = None if self._stopping else self._lanes.take()
            if item is not None:
                self._handle(item)
                if self._opening is not None or self._coming:
                    self._changed.set()

    def _handle(self, item: Item) -> None:
        if self._is_stale(item):
            self._lanes.end(item)
        elif item.envelope is None:
            self._finish(item.parcel)
        elif item.place in item.parcel.account.ended:
            # An earlier delivery of it was still in work when this one came.
            self._end(item)
        else:
            self._try(item, item.envelope)

    def _try(self, item: Item, envelope: Envelope) -> None:
        try:
            self._duty.do(item.message, envelope)
        except _FAILURES as exc:
            self._after_failure(item, exc)
        else:
            self._duty.note_processed()
            item.parcel.account.ended.add(item.place)
            self._end(item)

    def _after_failure(self, item: Item, error: BaseException) -> None:
        if self._duty.is_pause(error) or self._is_stale(item):
            self._lanes.end(item)
            return
        delay_s = self._duty.retry_delay_s(item, error)
        account = item.parcel.account
        if delay_s is None:
            where = "" if item.parcel.is_one else f"message {item.place + 1}: "
            text = f"{where}{type(error).__name__}: {printable(error)}"
            account.give_up(item.place, text, account.tries(item.place).last_error)
            self._end(item)
        elif isinstance(error, RetryLater) and self._lanes.aside < self._source.prefetch_messages // 2:
            self._lanes.put_aside(item, delay_s)
        else:
            self._lanes.keep(item, delay_s)
        self._nudge()

    def _end(self, item: Item) -> None:
        parcel = item.parcel
        parcel.unended -= 1
        if not parcel.is_open and not parcel.unended:
            self._finish(parcel)
        self._lanes.end(item)

    def _finish(self, parcel: Parcel) -> None:
        """All messages of a delivery have ended: so has it."""
        if self._source.is_stale(parcel.delivery):
            return
        if parcel.account.given_up:
            self._duty.bury(parcel.delivery, parcel.account)
        else:
            self._source.finish([parcel.delivery])
