"""The intake: batches on their way to the journal, and what happens to them while it has no room.

Knows bounds and the full policy, not what the journal does with a batch.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gevent.event import Event
from gevent.queue import Empty, Full, Queue

from vigiloconn.accepting.gathering import ENOUGH_MESSAGES
from vigiloconn.interfaces import Batch, Item
from vigiloconn.journal.store import DbRetry
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import ConnectorSettings

log = logging.getLogger(__name__)

#: Batches that wait for the journal; each holds what one `recv` of up to 64 KiB gave.
_BATCHES = 20
#: One transaction's size: large enough to share the fsync, small enough to be done in some 10 ms.
_GROUP_MESSAGES = 4000
_GROUP_BYTES = 2 << 20
#: `drop-newest` types are refused at this share of the bounds, so that those that block still have room.
_DROP_SHARE = 0.8


class Intake:
    """A bounded queue of batches, with admission by the journal's bounds.

    `on_put` is called when a batch has come in that is the first, or that makes what waits urgent.
    """

    def __init__(
        self,
        journal: DbRetry,
        settings: ConnectorSettings,
        on_put: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disk_is_full = False
        """True while the disk has no room for the journal; set by the journal's owner."""
        self.messages = 0
        """Messages that were admitted and are not accepted yet."""
        self.dropped: Counter[str] = Counter()
        self.waiting_since: list[float] = []
        """When each of those began that wait in `put` now, the longest wait first."""
        self._clock = clock
        self._journal = journal
        self._settings = settings
        self._on_put = on_put
        self._size_bytes = 0
        self._queue: Queue[Batch] = Queue(_BATCHES)
        self._in_hand: list[Batch] = []
        self._asked = 0
        self._portion: int | None = None
        self._room = Event()
        self._is_closed = False
        self._has_refused = False
        self._drop_log = RateLimitedLog(log)

    def put(self, batch: Batch) -> None:
        """Take a batch; blocks while there is no room for its messages (see `when_full`).

        One with kept texts is taken whole; where that can't be before the stop, neither it nor any later one is.
        """
        put_at_s = self._clock()
        if batch.kept:
            if not self._is_wholly_welcome():
                return
        elif batch.items and not self._has_room(1.0 if not self._drops_any(batch) else _DROP_SHARE):
            batch = self._wait_for_room(batch)
        batch.put_at_s = put_at_s
        self.messages += len(batch.items)
        self._size_bytes += batch.size_bytes
        was_empty = self.is_empty()
        try:
            self._enqueue(batch)
        except BaseException:
            # Who puts it was ended while it waited: it is on its way no longer.
            self.messages -= len(batch.items)
            self._size_bytes -= batch.size_bytes
            raise
        self._asked += _is_asked(batch)
        if was_empty or self.is_urgent or self.messages >= ENOUGH_MESSAGES:
            self._on_put()

    def _enqueue(self, batch: Batch) -> None:
        try:
            self._queue.put_nowait(batch)
        except Full:
            with self._waiting():
                self._queue.put(batch)

    @property
    def is_urgent(self) -> bool:
        """True while somebody waits: for the acceptance of what came in, or for room in the queue."""
        return self._asked > 0 or self._queue.full()

    def has_room(self) -> bool:
        """Answer whether the journal's bounds leave room for messages of types that block."""
        return self._has_room(1.0)

    def is_empty(self) -> bool:
        """Answer whether no batch waits for the journal."""
        return not self._in_hand and bool(self._queue.empty())

    def next_group(self) -> list[Batch]:
        """Return the oldest batches, as many as one transaction takes. They stay in hand until they are accepted."""
        self._gather()
        return self._in_hand[: self._portion]

    def accepted(self, group: list[Batch]) -> None:
        """What `next_group` returned last is in the journal."""
        for batch in group:
            self.messages -= len(batch.items)
            self._size_bytes -= batch.size_bytes
            self._asked -= _is_asked(batch)
        if self._portion is not None:
            self._portion = 2 * self._portion if len(group) < len(self._in_hand) else None
        del self._in_hand[: len(group)]

    def try_half(self, group: list[Batch]) -> bool:
        """There was no room for all of a group: let the next one be smaller. False when it can't be."""
        if len(group) < 2:
            return False
        self._portion = len(group) // 2
        return True

    def look_again(self) -> None:
        """There may be room now: let those that wait for it look."""
        self._room.set()

    def close(self) -> None:
        """Let nobody wait any longer: what finds no room from now on is refused."""
        self._is_closed = True
        self._room.set()

    def _gather(self) -> None:
        messages = size_bytes = 0
        for batch in self._in_hand:
            messages += len(batch.items)
            size_bytes += batch.size_bytes
        while messages < _GROUP_MESSAGES and size_bytes < _GROUP_BYTES:
            try:
                batch = self._queue.get_nowait()
            except Empty:
                return
            self._in_hand.append(batch)
            messages += len(batch.items)
            size_bytes += batch.size_bytes

    def _drops_any(self, batch: Batch) -> bool:
        if len(batch.items) == 1:
            return self._settings.when_full_for(batch.items[0][0].type) == "drop-newest"
        rule = self._settings.when_full_for
        return any(rule(kind) == "drop-newest" for kind in {item[0].type for item in batch.items})

    def _has_room(self, share: float) -> bool:
        settings, journal = self._settings, self._journal
        return (
            not self.disk_is_full
            and journal.all_rows + self.messages < settings.journal_max_messages * share
            and journal.all_bytes + self._size_bytes < settings.journal_max_bytes * share
        )

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        since_s = self._clock()
        self.waiting_since.append(since_s)
        try:
            yield
        finally:
            self.waiting_since.remove(since_s)

    def _wait_for_room(self, batch: Batch) -> Batch:
        """Return what is left of a batch once there is room for it."""
        kept = [item for item in batch.items if not self._drop_if_full(item, batch)]
        if kept and not self._has_come_to_room():
            log.error("%d messages that were read could not be accepted before the stop", len(kept))
            if batch.writer is not None:
                batch.writer.dropped(len(kept), "the journal is full")
            kept = []
        return Batch(kept, sum(len(body) for _, body in kept), batch.writer, batch.on_accepted)

    def _is_wholly_welcome(self) -> bool:
        """Wait for room. False when there is none at the stop: the source gives it again after the next start."""
        # A later batch must not be accepted either, though there be room for it: its texts stand for all before.
        self._has_refused = self._has_refused or not self._has_come_to_room()
        return not self._has_refused

    def _has_come_to_room(self) -> bool:
        """Wait for room. False when nobody may wait any longer and there is none."""
        with self._waiting():
            while not self._has_room(1.0) and not self._is_closed:
                self._room.clear()
                self._room.wait()
        return self._has_room(1.0)

    def _drop_if_full(self, item: Item, batch: Batch) -> bool:
        kind = item[0].type
        if self._settings.when_full_for(kind) != "drop-newest" or self._has_room(_DROP_SHARE):
            return False
        self.dropped[kind] += 1
        self._drop_log("journal full: newest %s message dropped, as when_full says", kind)
        if batch.writer is not None:
            batch.writer.dropped(1, "the journal is full")
        return True


def _is_asked(batch: Batch) -> bool:
    """Answer whether somebody waits for this batch's acceptance. A source that keeps its position only takes note."""
    return batch.on_accepted is not None and not batch.kept
