"""The pull side of a queue: consumes, hands out what is asked for, acknowledges what is finished.

Knows one queue on one client's connection, nothing of what the messages mean.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from gevent.event import Event

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.boundqueue import BoundQueue
from vigiloconn.consuming.channel import Consumer
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.interfaces import Connection, Level, Problem
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.escape import printable
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.settings.values import Subscription
from vigiloconn.topology.wanted import Queue

log = logging.getLogger(__name__)

#: Room for what is delivered and not finished.
MAX_BYTES = 64 * 1024 * 1024
#: A quorum queue takes back what a channel held a moment after its close is answered. A consumer that begins before
#: that gets what is behind it first.
_GIVE_BACK_S = 0.25
#: How long an acknowledgement waits for others to travel with.
_ACK_LINGER_S = 0.05
_MAX_UNACKNOWLEDGED = 100
_FIRST_RETRY_S = 0.25
_MAX_RETRY_S = 30.0
#: A consumer that lived for this time was no failed attempt.
_PROVED_AFTER_S = 30.0


class QueueSubscriber:
    """Consumes a queue while it is asked to, with at most `prefetch_messages` delivered and not acknowledged.

    `run()` is one life of a greenlet, which does all that waits for the broker's answer; every other method
    may be called on any greenlet. It begins paused: call `resume_producing()`. `on_left()` is called, on any
    greenlet, when deliveries that were handed out have become stale: the broker has them back. With `gather_s`,
    what comes within that time is handed out together.

    The queue is declared and bound at each connection, whether it is consumed or not. One that exists with other
    arguments is used as it is; a subscription to an exchange that is not there, a consumer that is refused and one that
    the broker cancels are tried again, and `problems()` says so.

    Bodies that are not finished take at most `max_bytes`, or one body: see `Prefetch`.
    """

    def __init__(
        self,
        queue: str,
        subscriptions: Sequence[Subscription] = (),
        *,
        prefetch_messages: int = 500,
        max_bytes: int = MAX_BYTES,
        queue_type: str = "classic",
        ttl_s: int = 0,
        gather_s: float = 0.0,
        on_left: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = queue
        self.acknowledged = 0
        self.rejected = 0
        self.too_large = 0
        self._bound = BoundQueue(Queue(queue, queue_type, ttl_s or None), subscriptions, clock)
        self._prefetch = Prefetch(prefetch_messages, max_bytes)
        self._clock = clock
        self._gather_s = gather_s
        self._on_left = on_left
        self._connection: Connection | None = None
        self._consumer: Consumer | None = None
        self._left: list[Consumer] = []
        self._wanted = False
        self._stopping = False
        self._wake = Event()
        self._arrived = Event()
        self._settled = Event()
        """The broker was told of something, or has it back: what `drain` waits for."""
        self._flush_at_s: float | None = None
        self._began_at_s = self._retry_at_s = self._given_back_at_s = 0.0
        self._retries = backoff_delays(_FIRST_RETRY_S, _MAX_RETRY_S)
        self._trouble: str | None = None
        """Why the queue is not consumed."""
        self._is_renewal = False
        self._too_large_log = RateLimitedLog(log)
        self._past = [0, 0]

    # -- what is asked of it -------------------------------------------------------------------------------------

    def resume_producing(self) -> None:
        """Consume, from now on or as soon as the bus is there."""
        self._wanted = True
        self._retry_at_s = 0.0
        self._wake.set()

    def pause_producing(self) -> None:
        """Stop consuming. What is not finished goes back to the queue, once, and is stale from now on."""
        self._wanted = False
        self._leave()

    @property
    def prefetch_messages(self) -> int:
        """How many messages the broker may send ahead now."""
        return self._prefetch.messages

    @property
    def is_paused(self) -> bool:
        """True unless it consumes or tries to."""
        return not self._wanted

    def get(self, max_messages: int, timeout_s: float | None = None) -> list[Delivery]:
        """Return the next deliveries, in the queue's order; none when none came within `timeout_s` or `interrupt()`
        was called. Each must be finished, in any order, unless it becomes stale."""
        taken = self._take(max_messages, timeout_s)
        if taken and self._gather_s:
            self._gather(taken, max_messages)
        return taken

    def _take(self, max_messages: int, timeout_s: float | None) -> list[Delivery]:
        consumer = self._consumer
        if consumer is None or not consumer.ready:
            self._arrived.clear()
            self._arrived.wait(timeout_s)
            consumer = self._consumer
            if consumer is None:
                return []
        ready = consumer.ready
        return [ready.popleft() for _ in range(min(max_messages, len(ready)))]

    def _gather(self, taken: list[Delivery], max_messages: int) -> None:
        """Add what comes within `gather_s`; less long once nothing more can be missing."""
        # The broker sends no more than the prefetch count ahead.
        full = min(max_messages, self._prefetch.messages)
        deadline_s = self._clock() + self._gather_s
        while taken and len(taken) < full and not self._stopping:
            left_s = deadline_s - self._clock()
            more = self._take(full - len(taken), left_s) if left_s > 0 else []
            if not more:
                return
            # Of two connections only the newer one's are worth anything.
            taken[:] = [delivery for delivery in taken if not self.is_stale(delivery)] + more

    def interrupt(self) -> None:
        """Let a waiting `get` return."""
        self._arrived.set()

    def is_stale(self, delivery: Delivery) -> bool:
        """True if the broker has this delivery back: it will come again, and finishing this one has no effect."""
        return delivery.source is not self._consumer

    def finish(self, deliveries: Sequence[Delivery], *, accepted: bool = True) -> None:
        """Note that these are done, to be acknowledged, or, not accepted, to be rejected without requeue.

        The broker is told after a short time: by one acknowledgement for many messages up to the first delivery that is
        not finished, by one for each behind it. Stale deliveries are passed over. May block while the broker does not
        read.
        """
        consumer = self._consumer
        if consumer is None:
            return
        own = [delivery for delivery in deliveries if delivery.source is consumer]
        consumer.finish(own, accepted=accepted)
        if accepted:
            self.acknowledged += len(own)
        else:
            self.rejected += len(own)
        # A broker that may send few ahead waits for each acknowledgement.
        if consumer.unacknowledged >= min(_MAX_UNACKNOWLEDGED, max(1, self._prefetch.messages // 4)):
            self._flush(consumer)
        else:
            self._flush_soon(consumer)
        if consumer.is_idle if consumer.is_winding_down else self._prefetch.is_due:
            self._wake.set()

    def drain(self, timeout_s: float) -> None:
        """Hand out nothing more on this connection, and wait until what was handed out is finished and acknowledged."""
        consumer = self._consumer
        if consumer is None:
            return
        consumer.discard()
        deadline_s = self._clock() + timeout_s
        while consumer is self._consumer and consumer.outstanding:
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                break
            self._settled.clear()
            self._settled.wait(left_s)
        self._flush(consumer)

    def stats(self) -> dict[str, float]:
        """`received` and `redelivered` count deliveries, `acknowledged` and `rejected` what came of them, `too_large`
        those among the latter that were not even read; `ready` is what waits here now."""
        consumer = self._consumer
        received, redelivered = self._past
        if consumer is not None:
            received += consumer.received
            redelivered += consumer.redelivered
        return {
            "received": received,
            "redelivered": redelivered,
            "acknowledged": self.acknowledged,
            "rejected": self.rejected,
            "too_large": self.too_large,
            "ready": len(consumer.ready) if consumer is not None else 0,
        }

    def problems(self) -> list[Problem]:
        """Return what an operator should know: a queue declared otherwise, bindings and consumers refused."""
        troubles = dict(self._bound.troubles)
        if self._trouble is not None:
            troubles["consume"] = self._trouble
        return [Problem(f"queue-{topic}", Level.WARNING, text) for topic, text in troubles.items()]

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_initialized(self, connection: Connection) -> None:
        """The bus is there."""
        self._connection = connection
        self._bound.reset()
        self._retry_at_s = 0.0
        self._wake.set()

    def connection_lost(self) -> None:
        """The bus is gone, and what was not acknowledged is in the queue again."""
        self._connection = None
        self._leave()

    def _leave(self, *, is_renewal: bool = False) -> None:
        self._is_renewal = is_renewal
        consumer, self._consumer = self._consumer, None
        self._flush_at_s = None
        if consumer is not None:
            consumer.discard()
            self._past[0] += consumer.received
            self._past[1] += consumer.redelivered
            self._left.append(consumer)
            self._on_left()
        self._settled.set()
        self._arrived.set()
        self._wake.set()

    def _ended(self, consumer: Consumer, reason: str) -> None:
        """The broker has ended the consumer."""
        if consumer is not self._consumer:
            return
        self._leave()
        self._bound.reset()
        self._refused(reason)

    def _too_large(self, consumer: Consumer, size: int) -> None:
        """The consumer has rejected a message that is larger than what is taken."""
        self.rejected += 1
        self.too_large += 1
        self._too_large_log("queue %r: a message of %d bytes is rejected unread, max_message is %d",
                            self.queue, size, consumer.connection.max_message_bytes)
        if consumer is self._consumer:
            self._flush_soon(consumer)

    def _overrun(self) -> None:
        """The consumer keeps nothing more."""
        self._prefetch.shrink()
        log.info("queue %r: more than %d bytes came: from now on %d messages ahead",
                 self.queue, self._prefetch.max_bytes, self._prefetch.messages)
        self._wake.set()

    def _flush_soon(self, consumer: Consumer) -> None:
        if self._flush_at_s is None and consumer.unacknowledged:
            self._flush_at_s = self._clock() + _ACK_LINGER_S
            self._wake.set()

    def _refused(self, reason: str) -> None:
        now_s = self._clock()
        if self._began_at_s and now_s - self._began_at_s > _PROVED_AFTER_S:
            self._retries = backoff_delays(_FIRST_RETRY_S, _MAX_RETRY_S)
        self._began_at_s = 0.0
        delay_s = next(self._retries)
        self._retry_at_s = now_s + delay_s
        trouble = f"queue {self.queue!r} is not consumed: {printable(reason)}"
        if self._trouble != trouble:
            self._trouble = trouble
            log.warning("%s", trouble)
        log.info("queue %r: subscribing again in %.1f s", self.queue, delay_s)
        self._wake.set()

    # -- the greenlet ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what is due, until `stop()`; then acknowledge what is finished and give back the rest."""
        self._stopping = False
        # A former life may have ended in the middle of anything.
        self._leave()
        while not self._stopping:
            self._wake.wait(self._idle_s())
            self._wake.clear()
            self._step()
        self._leave()
        self._close_left()

    def stop(self) -> None:
        """Let `run()` end."""
        self._stopping = True
        self._wake.set()

    def _idle_s(self) -> float | None:
        if self._connection is None or self._connection.lost is not None:
            return None
        due_at_s = self._bound.due_at_s
        if self._flush_at_s is not None:
            due_at_s = min(due_at_s, self._flush_at_s)
        if self._wanted and self._consumer is None:
            due_at_s = min(due_at_s, self._begin_at_s)
        return max(0.0, due_at_s - self._clock()) if due_at_s < math.inf else None

    @property
    def _begin_at_s(self) -> float:
        """When to consume at the earliest."""
        return max(self._retry_at_s, self._given_back_at_s)

    def _step(self) -> None:
        self._close_left()
        connection = self._connection
        if connection is None or connection.lost is not None or self._stopping:
            return
        try:
            if self._clock() >= self._bound.due_at_s:
                self._bound.ensure(connection)
            if self._wanted and self._consumer is None and self._clock() >= self._begin_at_s:
                self._subscribe(connection)
            if self._consumer is not None:
                self._adapt(self._consumer)
        except BusDown as exc:
            if connection.lost is None:
                # An answer that did not come may still come, and be taken for another one's.
                connection.abort(str(exc))
        if self._flush_at_s is not None and self._consumer is not None and self._clock() >= self._flush_at_s:
            self._flush(self._consumer)

    def _close_left(self) -> None:
        while self._left:
            consumer = self._left.pop()
            try:
                consumer.close()
                self._given_back_at_s = self._clock() + _GIVE_BACK_S
            except BusDown as exc:
                log.debug("queue %r: left without a goodbye: %s", self.queue, printable(exc))

    def _flush(self, consumer: Consumer) -> None:
        self._flush_at_s = None
        try:
            consumer.flush_acks()
        except BusDown as exc:
            # What is not acknowledged comes again; the client hears of the loss by itself.
            log.debug("queue %r: acknowledgement not sent: %s", self.queue, printable(exc))
        # What is finished is flushed a moment later, so nothing has to be set for each message.
        self._settled.set()

    def _subscribe(self, connection: Connection) -> None:
        consumer: Consumer | None = None
        try:
            consumer = Consumer(
                connection, on_arrival=self._arrived.set, on_ended=self._ended, on_too_large=self._too_large,
                on_overrun=self._overrun, prefetch=self._prefetch,
            )  # fmt: skip
            consumer.start(self.queue)
        except BusRefused as exc:
            if consumer is not None:
                self._left.append(consumer)
            # Not there any more, perhaps.
            self._bound.reset()
            self._refused(str(exc))
            return
        if self._connection is not connection or not self._wanted or self._stopping:
            self._left.append(consumer)
            self._wake.set()
            return
        self._consumer = consumer
        self._began_at_s = self._clock()
        if consumer.ended is not None:
            self._ended(consumer, consumer.ended)
            return
        self._trouble = None
        self._arrived.set()
        # It may have rejected the first ones already.
        self._flush_soon(consumer)
        if not self._is_renewal:
            log.info("queue %r: subscribed", self.queue)

    def _adapt(self, consumer: Consumer) -> None:
        """Consume anew, with another prefetch count, where the bodies ask for it: once what is here is finished."""
        if not consumer.is_winding_down and self._prefetch.grow():
            log.info("queue %r: messages are small again: %d ahead", self.queue, self._prefetch.messages)
            consumer.wind_down()
        if consumer.is_winding_down and consumer.is_idle:
            self._leave(is_renewal=True)
