"""Performance data in batches: which messages go as one, and when an incomplete batch goes.

Knows bodies and time, not what becomes of a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from vigiloconn.interfaces import Record

#: A message that gathers performance data stays well below what brokers take as one message.
_BATCH_BYTES = 1 << 20


class PerfBatches:
    """Cuts batches of at most `wanted` messages off the head of a queue. With 1 or 0 nothing is batched.

    An incomplete one waits for `linger_s` at most, from when its first message was seen at the head.
    """

    def __init__(self, wanted: int, linger_s: float, clock: Callable[[], float]) -> None:
        self.due: float | None = None
        """When the batch that waits for company goes without it (seconds of `clock`); None when none waits."""
        self._wanted = wanted
        self._linger_s = linger_s
        self._clock = clock
        self._head_id = 0
        self._head_due = 0.0

    @property
    def is_on(self) -> bool:
        """True when performance data goes in batches at all."""
        return self._wanted > 1

    def take(self, queue: deque[Record], may_wait: bool) -> list[Record]:
        """Take the messages off the head that go as one; none while there is reason to wait for more."""
        group = _head(queue, self._wanted)
        is_whole = len(group) == self._wanted or len(group) < len(queue)
        if may_wait and not is_whole and self._lingers(group[0].id):
            return []
        self.due = None
        for _ in group:
            queue.popleft()
        return group

    def _lingers(self, head_id: int) -> bool:
        now = self._clock()
        if head_id != self._head_id:
            self._head_id, self._head_due = head_id, now + self._linger_s
        self.due = self._head_due
        return now < self._head_due


def _head(records: Iterable[Record], wanted: int) -> list[Record]:
    """Return the performance messages at the head of `records` that go as one message, at most `wanted`."""
    size_bytes = 0
    group: list[Record] = []
    for record in records:
        if record.key.type != "perf" or len(group) == wanted:
            break
        if group and size_bytes + len(record.body) > _BATCH_BYTES:
            break
        group.append(record)
        size_bytes += len(record.body) + 1
    return group


def batch_body(group: Iterable[Record]) -> bytes:
    """Return the one message that carries a group."""
    return b'{"type":"perf","messages":[' + b",".join([record.body for record in group]) + b"]}"
