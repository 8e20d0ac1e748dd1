"""Deliveries in work: which of their messages are done, which can't be, how often the next was tried.

Knows order and tries; how a message is worked, and what becomes of one that can't be, its caller knows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.unpack import Message, Step
from vigiloconn.errors import BadMessage, Retry, VigiloError
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.traces import frames_text

Identity = tuple[str, bytes]

#: A delivery may hold half a million messages; its dead letter names the first few that could not be handled.
MAX_REASONS = 10
#: Decoded, a body may take thirty times its size.
SLICE_BYTES = 256 * 1024
_MAX_INTERRUPTED = 100


class ItemFailed(VigiloError):
    """Raised by `process_messages` when the first `done` messages are done and the next one failed for `cause`."""

    def __init__(self, done: int, cause: BaseException) -> None:
        super().__init__(f"message {done + 1} of the batch: {cause}")
        self.done = done
        self.cause = cause


class RetryPolicy(NamedTuple):
    """How often and how long a message that fails is tried again."""

    max_redeliveries: int = 5
    first_delay_s: float = 0.1
    max_delay_s: float = 10.0
    time_s: float = 300.0
    """All tries of one are over after this. Brokers close a channel that holds a message for 30 minutes."""


class LastError(NamedTuple):
    """What is told of the error for which a message was given up."""

    kind: str
    frames: str


def identity(delivery: Delivery) -> Identity:
    """Return what a message keeps when it is delivered again. Equal messages share it."""
    return delivery.message_id(), hashlib.blake2b(delivery.body, digest_size=16).digest()


class Progress:
    """How far the work on one delivery has come. Holds no message, so many of these can be remembered."""

    # Defaults of the class, no constructor: one is made for every message.
    done = 0
    """Messages at the front that are done or given up."""
    given_up = 0
    tries_of_item = 0
    """Failed tries of the message behind those."""
    tries_in_all = 0
    last_error: LastError | None = None
    """Of the message that was given up last."""
    _reasons: tuple[str, ...] = ()
    _failed_at_s: float | None = None
    _delays: Iterator[float] | None = None

    @property
    def reason(self) -> str:
        """Why messages were given up: the first few reasons, and the number of the others."""
        more = self.given_up - len(self._reasons)
        return "; ".join(self._reasons) + (f"; and {more} more" if more else "")

    def advance(self, count: int) -> None:
        """Count the next messages as done."""
        self.done += count
        self.tries_of_item = 0

    def give_up(self, reason: str) -> None:
        """Count the next message as one that can't be handled."""
        self.done += 1
        self.given_up += 1
        self.tries_of_item = 0
        self._delays = None
        if len(self._reasons) < MAX_REASONS:
            self._reasons += (reason,)

    def failed(self, error: BaseException, now_s: float, policy: RetryPolicy) -> float | None:
        """Count a failed try of the next message. Returns the delay before another one, in seconds; None when there
        is to be none: all tries were in vain, this delivery has failed for too long, or the message is bad."""
        self.tries_in_all += 1
        self.tries_of_item += 1
        if self._failed_at_s is None:
            self._failed_at_s = now_s
        is_last = isinstance(error, BadMessage) or self.tries_of_item > policy.max_redeliveries
        if is_last or now_s - self._failed_at_s >= policy.time_s:
            self.last_error = LastError(type(error).__name__, frames_text(error))
            return None
        if isinstance(error, Retry) and error.after_s is not None:
            return min(error.after_s, policy.time_s)
        if self._delays is None:
            self._delays = backoff_delays(policy.first_delay_s, policy.max_delay_s)
        return next(self._delays)


class Work:
    """One delivery with its messages, in order.

    `messages` is what `unpack` gives. `progress` is how far an earlier delivery of the same had come.
    """

    __slots__ = ("_bad", "_holds_many", "_skip", "ahead", "delivery", "progress", "rest")

    def __init__(
        self, delivery: Delivery, messages: list[Message] | Iterator[Step], progress: Progress | None = None
    ) -> None:
        self.delivery = delivery
        self.progress = Progress() if progress is None else progress
        self._skip = self.progress.done
        self.ahead: list[Message]
        """Decoded, and neither done nor given up."""
        self._bad: BadMessage | None = None
        """Behind those."""
        self.rest: Iterator[Step] | None
        """What `peek` has not reached yet."""
        self._holds_many = False
        if isinstance(messages, list):
            self.ahead = messages[self._skip :] if self._skip else messages
            self.rest = None
        else:
            self.ahead = []
            self.rest = messages
            self._holds_many = True

    @property
    def is_over(self) -> bool:
        """True once each message is known to be done or given up."""
        return not self.ahead and self.rest is None

    def peek(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most so many, in a short time.

        None of them is no sign that there are none, see `is_over`: it may have been enough for one call to pass over
        some that were done before, or to give up some that are none.
        """
        if self.rest is not None:
            self._decode(self.rest, max_messages - len(self.ahead))
        return self.ahead if len(self.ahead) <= max_messages else self.ahead[:max_messages]

    def _decode(self, rest: Iterator[Step], steps: int) -> None:
        for _ in range(steps):
            try:
                found = self._bad or next(rest)
            except StopIteration:
                self.rest = None
                return
            self._bad = None
            if found is None:
                return
            if self._skip:
                self._skip -= 1
            elif not isinstance(found, BadMessage):
                self.ahead.append(found)
            elif self.ahead:
                # Its turn comes when those before it are done.
                self._bad = found
                return
            else:
                self.give_up(str(found))

    def advance(self, count: int) -> None:
        """Count messages that `peek` gave as done."""
        del self.ahead[:count]
        self.progress.advance(count)

    def give_up(self, reason: str) -> None:
        """Count the next message as one that can't be handled, and go on with the one behind it."""
        where = f"message {self.progress.done + 1}: " if self._holds_many else ""
        del self.ahead[:1]
        self.progress.give_up(where + reason)


class InHand:
    """Deliveries in work, in order: opens one after the other and hands out their messages in slices."""

    def __init__(
        self, deliveries: Iterable[Delivery], open_work: Callable[[Delivery], Work], opened: Iterable[Work] = ()
    ) -> None:
        self._coming = deque(deliveries)
        self._open = open_work
        self._works: deque[Work] = deque(opened)
        self._alone = 0
        """How many of the next messages go alone."""

    @property
    def head(self) -> Work | None:
        """The first delivery that is not finished."""
        if not self._works and self._coming:
            self._works.append(self._open(self._coming.popleft()))
        return self._works[0] if self._works else None

    def slice(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most so many, and not all of them where they are large.

        A delivery of which a message was given up is the last one in a slice: its end comes before what is behind it.
        """
        limit = 1 if self._alone else max_messages
        batch: list[Message] = []
        works = self._works
        size_bytes = place = 0
        while len(batch) < limit:
            if place == len(works):
                if not self._coming or size_bytes >= SLICE_BYTES:
                    break
                works.append(self._open(self._coming.popleft()))
            work = works[place]
            batch += work.peek(limit - len(batch))
            if work.rest is not None or work.progress.given_up:
                break
            size_bytes += len(work.delivery.body)
            place += 1
        return batch

    def owners(self, count: int) -> Iterator[Work]:
        """Yield the delivery of each of the next messages that `slice` gave."""
        for work in self._works:
            for _ in work.ahead[:count]:
                yield work
            count -= len(work.ahead)
            if count <= 0:
                return

    def advance(self, count: int) -> list[Delivery]:
        """Count the next messages as done; returns the deliveries that this has finished."""
        if self._alone:
            self._alone = max(0, self._alone - count)
        finished: list[Delivery] = []
        works = self._works
        while works:
            work = works[0]
            waiting = len(work.ahead)
            if waiting > count or work.rest is not None or work.progress.given_up:
                if count:
                    work.advance(min(count, waiting))
                break
            count -= waiting
            finished.append(work.delivery)
            works.popleft()
        return finished

    def go_alone(self, count: int) -> None:
        """Hand out the next messages one by one: it is not known which of them has failed, or one is tried again."""
        self._alone = max(self._alone, count)

    def give_up(self, reason: str) -> None:
        """Count the next message as one that can't be handled."""
        self._alone = max(0, self._alone - 1)
        self._works[0].give_up(reason)

    def drop_head(self) -> None:
        """Forget the first delivery: its end was another one than being done."""
        self._works.popleft()


class Interrupted:
    """Remembers how far deliveries had come that went back to the queue in the middle of their work."""

    def __init__(self, max_deliveries: int = _MAX_INTERRUPTED) -> None:
        self._max_deliveries = max_deliveries
        self._found: OrderedDict[Identity, Progress] = OrderedDict()

    def remember(self, work: Work) -> None:
        """Keep the progress of this one, if there is any; of too many the oldest are forgotten, and done again."""
        if work.progress.done or work.progress.tries_in_all:
            self._found[identity(work.delivery)] = work.progress
            while len(self._found) > self._max_deliveries:
                self._found.popitem(last=False)

    def recall(self, delivery: Delivery) -> Progress | None:
        """Return what is remembered of this delivery, and forget it."""
        if not self._found or not delivery.redelivered:
            return None
        return self._found.pop(identity(delivery), None)
