"""Performance data in batches: which messages go as one, and when an incomplete batch goes.

Knows bodies and time, not what becomes of a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vigiloconn.interfaces import Record

#: A message that gathers performance data stays well below what brokers take as one message.
_BATCH_BYTES = 1 << 20


class _Cut(NamedTuple):
    last_id: int
    messages: int
    size_bytes: int


class PerfBatches:
    """Cuts batches of at most `wanted` messages off the head of a queue. With 1 or 0 nothing is batched.

    An incomplete one waits for `linger_s` at most, from when its first message was seen at the head. A batch that goes
    again, because its confirm did not come, is cut as it was before: the broker may have it.
    """

    def __init__(self, wanted: int, linger_s: float, clock: Callable[[], float]) -> None:
        self.due: float | None = None
        """When the batch that waits for company goes without it (seconds of `clock`); None when none waits."""
        self._wanted = wanted
        self._linger_s = linger_s
        self._clock = clock
        self._head_id = 0
        self._head_due = 0.0
        self._limit_bytes = _BATCH_BYTES
        # First id -> how it was cut. Those that are unanswered, or were and will be sent again.
        self._cuts: dict[int, _Cut] = {}

    @property
    def is_on(self) -> bool:
        """True when performance data goes in batches at all."""
        return self._wanted > 1

    def take(self, queue: deque[Record], *, may_wait: bool, more_comes: bool = False) -> list[Record]:
        """Take the messages off the head that go as one; none while there is reason to wait for more.

        `may_wait`: it may linger; `more_comes`: what belongs behind the queue's last message is being read.
        """
        cut = self._cuts.get(queue[0].id)
        group = self._fresh_group(queue) if cut is None else _same_group(queue, cut)
        if len(group) == len(queue) and not self._is_whole(group, cut):
            if cut is not None and more_comes:
                return []
            if may_wait and self._lingers(group[0].id):
                return []
        self.due = None
        for _ in group:
            queue.popleft()
        self._cuts[group[0].id] = _Cut(group[-1].id, len(group), _size_bytes(group))
        return group

    def finished(self, records: Iterable[Record]) -> None:
        """These don't go again."""
        for record in records:
            self._cuts.pop(record.id, None)

    def split(self, group: Sequence[Record]) -> None:
        """The broker does not take this batch: cut smaller ones from now on, at least of its half."""
        self._limit_bytes = _size_bytes(group) // 2
        self._cuts.pop(group[0].id, None)
        # These would be refused as well, each at the price of a channel.
        for first_id in [first_id for first_id, cut in self._cuts.items() if cut.size_bytes > self._limit_bytes]:
            del self._cuts[first_id]

    def _fresh_group(self, records: Iterable[Record]) -> list[Record]:
        size_bytes = 0
        group: list[Record] = []
        for record in records:
            if not record.key.is_batchable or len(group) == self._wanted or record.id in self._cuts:
                break
            if group and size_bytes + len(record.body) > self._limit_bytes:
                break
            group.append(record)
            size_bytes += len(record.body) + 1
        return group

    def _is_whole(self, group: Sequence[Record], cut: _Cut | None) -> bool:
        return len(group) == (self._wanted if cut is None else cut.messages)

    def _lingers(self, head_id: int) -> bool:
        now = self._clock()
        if head_id != self._head_id:
            self._head_id, self._head_due = head_id, now + self._linger_s
        self.due = self._head_due
        return now < self._head_due


def _same_group(records: Iterable[Record], cut: _Cut) -> list[Record]:
    """Return what is there of a batch that was cut before."""
    group: list[Record] = []
    for record in records:
        if record.id > cut.last_id or len(group) == cut.messages:
            break
        group.append(record)
    return group


def _size_bytes(group: Iterable[Record]) -> int:
    return sum(len(record.body) + 1 for record in group)


def batch_body(group: Iterable[Record]) -> bytes:
    """Return the one message that carries a group."""
    return b'{"type":"perf","messages":[' + b",".join([record.body for record in group]) + b"]}"


def batch_name(group: Sequence[Record]) -> str:
    """Return what a batch's message id ends with: another grouping of the same messages has another one."""
    return f"{group[0].id}-{group[-1].id}-{len(group)}"
