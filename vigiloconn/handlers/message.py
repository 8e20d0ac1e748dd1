"""Messages from a queue, one by one or in batches, to the code of a connector's author.

Knows what that code may raise and what becomes of the message then; the queue is the subscriber's job.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent.event import Event

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.accounts import Account
from vigiloconn.consuming.crew import Crew, Item
from vigiloconn.consuming.deadletter import SUFFIX, DeadLetters
from vigiloconn.consuming.envelope import Envelope
from vigiloconn.consuming.postponed import Postponed
from vigiloconn.consuming.subscriber import MAX_BYTES, QueueSubscriber
from vigiloconn.consuming.unpack import unpack_as
from vigiloconn.consuming.work import InHand, Interrupted, ItemFailed, LastError, Progress, RetryPolicy, Work
from vigiloconn.errors import BadMessage, NotNow, PipeClosed, Retry, RetryLater, SettingsError
from vigiloconn.interfaces import Answer, Client, Level, Problem
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.escape import printable
from vigiloconn.kit.limits import MAX_NAME_BYTES
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.kit.traces import frames_text
from vigiloconn.options import Settings
from vigiloconn.settings.values import Subscription
from vigiloconn.supervisor import Handler

__all__ = ["Envelope", "ItemFailed", "MessageHandler", "messagehandler_factory"]

log = logging.getLogger(__name__)

BATCH_MESSAGES = 500
#: A larger body is not decoded: that would take the loop's time, and thirty times its size in memory.
MAX_BODY_BYTES = 1024 * 1024
#: After this time of work timers and other greenlets get a turn.
_TURN_S = 0.02
_CLOSE_S = 1.0
#: Of a stop's time, what is left for the acknowledgements when a letter's confirm is no longer waited for.
_LAST_WORDS_S = 0.2
#: After "not now": how long until it is looked whether it goes on.
_FIRST_PROBE_S = 0.5
_MAX_PROBE_S = 30.0

#: All that an author's code may raise; greenlets are ended by something else, which passes.
_FAILURES = (Exception, gevent.Timeout)


class TookTooLong(gevent.Timeout):
    """Raised into the work on a message when its time is over, at the next switch to another greenlet."""

    def __str__(self) -> str:
        return f"not done within {self.seconds:g} s"


class MessageHandler(Handler):
    """Base class for what consumes: override `process_message`, or `process_messages` for batches.

    Call `subscribe` once before the start (`messagehandler_factory` does), and add this to the client and to the
    supervisor. A message is acknowledged after the method has returned, in the queue's order. What it raises decides:

    - `BadMessage`: this message can never be handled; it becomes a dead letter.
    - `NotNow`: nothing can be handled. Nothing is acknowledged, the try does not count, and consumption pauses for its
      `after_s`, or until `probe()` returns.
    - `Retry`, and any other failure: it is tried again in place, after a growing delay or that of the `Retry`, at most
      `max_redeliveries` times and for `retry_time_s`; then it becomes a dead letter. What is behind it waits.
    - `RetryLater`: the same, but what is behind it goes on.

    A message that holds `messages` is taken apart, and each of them is done once while the process lives.
    A method that declares a second parameter gets the `Envelope` there (`process_messages`: a list of them).
    """

    name = "messages"
    message_type: Any = dict
    """What a message is: see `unpack_as`."""
    max_redeliveries = 5
    retry_first_delay_s = 0.1
    retry_max_delay_s = 10.0
    retry_time_s = 300.0
    workers = 1
    """How many messages are worked side by side, in order per `order_key`; each is acknowledged when it is done."""
    max_workers = 1000
    """A subclass whose work has one order only says 1."""
    time_limit_s: float | None = None
    """How long one message may take. Code that never waits can't be ended."""

    def __init__(self) -> None:
        self.processed = 0
        self.failed = 0
        self.dead_lettered = 0
        self._subscriber: QueueSubscriber | None = None
        self._dead_letters: DeadLetters | None = None
        self._policy = self._own_policy()
        self._workers = 1
        self._crew: Crew | None = None
        self._limit_s = self.time_limit_s
        self._unpack = unpack_as(self.message_type)
        self._max_body_bytes = MAX_BODY_BYTES
        self._stopping = False
        self._nudges: set[Event] = set()
        """Of those that wait in the middle of their work."""
        self._helpers: list[gevent.Greenlet[..., Any]] = []
        self._interrupted = Interrupted()
        self._postponed = Postponed(time.monotonic)
        self._not_now: str | None = None
        self._probe_delays = backoff_delays(_FIRST_PROBE_S, _MAX_PROBE_S)
        self._processed_at_pause = 0
        self._resuming: gevent.Greenlet[..., Any] | None = None
        self._log_dead = RateLimitedLog(log)
        self._is_batched = type(self).process_messages is not MessageHandler.process_messages
        self._one_with_envelope = _wants_envelope(self.process_message)
        self._batch_with_envelopes = self._is_batched and _wants_envelope(self.process_messages)
        self._turn_ends_s = 0.0

    # -- for subclasses ---------------------------------------------------------------------------------------

    def process_message(self, message: Any, *more: Any, **named: Any) -> None:
        """Do the work for one message. May block the greenlet, not the process.

        Write it as `process_message(self, message)` or `process_message(self, message, envelope)`.
        """
        raise NotImplementedError

    def process_messages(self, batch: list[Any], *more: Any, **named: Any) -> None:
        """Do the work for several messages, in order; override it where one write for many is cheaper.

        Write it as `process_messages(self, batch)` or `process_messages(self, batch, envelopes)`.

        Raise `ItemFailed` when some are done. After anything else none of them counts as done, and they are
        tried again one by one (`batch` has one message then).
        """
        for message in batch:
            self.process_message(message)

    def order_key(self, message: Any, *more: Any, **named: Any) -> Hashable:
        """Return what messages have in common that are to be done one after the other, where several are worked at a
        time; None for none. Must be quick. Write it as `order_key(self, message)`, or with `envelope` behind it."""
        return None

    def probe(self) -> None:
        """Return where the work can go on after a `NotNow` without a time, raise otherwise. Called on a greenlet of its
        own after growing delays; may block it."""

    def subscribe(
        self,
        queue: str,
        subscriptions: Sequence[Subscription] = (),
        *,
        publisher: Client | None = None,
        prefetch_messages: int = 500,
        prefetch_bytes: int = MAX_BYTES,
        max_body_bytes: int = MAX_BODY_BYTES,
        queue_type: str = "classic",
        ttl_s: int = 0,
        gather_s: float = 0.0,
        dead_letter: bool = True,
        max_redeliveries: int | None = None,
        retry_first_delay_s: float | None = None,
        retry_max_delay_s: float | None = None,
        retry_time_s: float | None = None,
        workers: int | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        """Say which queue to consume. Dead letters go through `publisher`, a client with a connection of its own;
        without one, or without `dead_letter`, such messages are rejected, for the queue's own dead letter exchange.
        A body of more than `max_body_bytes` is not decoded, but a dead letter. `prefetch_bytes` bounds what is here and
        not finished. With `gather_s`, messages that come within that time are handed over together. What is None here
        is as the class says.

        Raises `SettingsError` when the name leaves no room for the dead letters' queue, and for several workers where
        there can only be one.
        """
        self._workers = self._checked_workers(self.workers if workers is None else workers)
        self._limit_s = self.time_limit_s if time_limit_s is None else time_limit_s
        if len(queue.encode()) > MAX_NAME_BYTES - len(SUFFIX):
            raise SettingsError(f"[bus] queue: expected at most {MAX_NAME_BYTES - len(SUFFIX)} bytes, got {queue!r}")
        self._subscriber = QueueSubscriber(
            queue, subscriptions, max_bytes=prefetch_bytes, queue_type=queue_type,
            prefetch_messages=max(prefetch_messages, 2 * self._workers if self._workers > 1 else 1),
            ttl_s=ttl_s, gather_s=gather_s, on_left=self._left,
        )  # fmt: skip
        if self._workers > 1:
            self._crew = Crew(self._subscriber, _CrewDuty(self))
        self._dead_letters = DeadLetters(publisher, queue) if publisher is not None and dead_letter else None
        given = (max_redeliveries, retry_first_delay_s, retry_max_delay_s, retry_time_s)
        pairs = zip(given, self._own_policy(), strict=True)
        self._policy = RetryPolicy(*(own if value is None else value for value, own in pairs))  # type: ignore[arg-type]
        self._max_body_bytes = max_body_bytes

    def _own_policy(self) -> RetryPolicy:
        return RetryPolicy(self.max_redeliveries, self.retry_first_delay_s, self.retry_max_delay_s, self.retry_time_s)

    def _checked_workers(self, workers: int) -> int:
        if workers > self.max_workers:
            raise SettingsError(f"[bus] workers: expected at most {self.max_workers} for {self.name}, got {workers}")
        if workers > 1 and self._is_batched:
            raise SettingsError(f"[bus] workers: expected 1 for {self.name}, which takes batches, got {workers}")
        return workers

    def pause_producing(self) -> None:
        """Stop consuming: what is not acknowledged goes back to the queue, once."""
        self._source.pause_producing()

    def resume_producing(self) -> None:
        """Consume (again)."""
        self._not_now = None
        self._processed_at_pause, before = self.processed, self._processed_at_pause
        if self.processed > before:
            # It went on after the pause before.
            self._probe_delays = backoff_delays(_FIRST_PROBE_S, _MAX_PROBE_S)
        self._source.resume_producing()

    # -- the life of a handler -----------------------------------------------------------------------------------

    @property
    def _source(self) -> QueueSubscriber:
        if self._subscriber is None:
            raise RuntimeError(f"{self.name}: subscribe() was not called")
        return self._subscriber

    def start_service(self) -> None:
        """Begin to consume. A subclass that can't take messages yet overrides this and resumes later."""
        self.resume_producing()

    def stop_service(self) -> None:
        self._stopping = True
        self._nudge_all()
        self._source.interrupt()
        if self._crew is not None:
            self._crew.stop(self._workers)

    def _left(self) -> None:
        self._nudge_all()
        if self._crew is not None:
            self._crew.left()

    def _nudge_all(self) -> None:
        for nudge in self._nudges:
            nudge.set()

    def connection_initialized(self) -> None:
        if self.client.connection is not None:
            self._source.connection_initialized(self.client.connection)

    def connection_lost(self) -> None:
        self._source.connection_lost()

    def drain(self, timeout_s: float) -> None:
        self._source.drain(timeout_s)

    def stats(self) -> dict[str, float]:
        """Messages `processed`, tries that `failed`, what was `dead_lettered` or rejected; and the subscriber's."""
        figures = self._source.stats()
        figures.update(processed=self.processed, failed=self.failed, dead_lettered=self.dead_lettered)
        return figures

    def problems(self) -> list[Problem]:
        found = self._source.problems()
        if self._not_now is not None:
            text = f"queue {self._source.queue!r} is paused: {self._not_now}"
            found.append(Problem("queue-paused", Level.WARNING, text))
        if self._dead_letters is not None and self._dead_letters.trouble is not None:
            found.append(Problem("dead-letter-unsent", Level.WARNING, self._dead_letters.trouble))
        return found

    def run(self) -> None:
        source = self._source
        self._helpers = [helper for helper in self._helpers if not helper.dead]
        pump = self._begin_helper(source.run, "subscriber")
        if self._crew is not None:
            self._run_crew(self._crew)
        else:
            self._run_alone(source)
        source.stop()
        pump.join(timeout=min(_CLOSE_S, self.supervisor.remaining_s()))

    def _run_crew(self, crew: Crew) -> None:
        crew.begin()
        workers = [self._begin_helper(crew.work, f"worker {number}") for number in range(self._workers)]
        crew.dispatch(self._note_taken)
        # What is done by now is still acknowledged, so what takes too long must not use up the time for that.
        gevent.joinall(workers, timeout=max(0.0, self.supervisor.remaining_s() - _CLOSE_S))

    def _note_taken(self) -> None:
        self._check_helpers()
        self.client.note_success()

    def _run_alone(self, source: QueueSubscriber) -> None:
        while not self._stopping:
            self._check_helpers()
            deliveries = source.get(BATCH_MESSAGES, self._postponed.due_in_s() if self._postponed else None)
            if self._postponed:
                self._take_up_postponed()
            if deliveries:
                self.client.note_success()
                self._work(deliveries)

    def _begin_helper(self, function: Callable[[], None], name: str) -> gevent.Greenlet[..., Any]:
        """Run `function` on a greenlet that lives and fails with this life."""
        helper = self.supervisor.spawn(function, name=f"{self.name}: {name}", owner=self)
        self._helpers.append(helper)
        return helper

    def _check_helpers(self) -> None:
        """Raise if a helper has failed. The supervisor throws its failure in here, but maybe into an author's code,
        which may catch it or be blamed for it; and without its helpers this would wait for ever."""
        for helper in self._helpers:
            if helper.exception is not None and not self._stopping:
                raise RuntimeError(f"{helper.name} failed") from helper.exception

    # -- the work -----------------------------------------------------------------------------------------------

    def _take_up_postponed(self) -> None:
        for work in self._postponed.stale(self._must_leave):
            self._interrupted.remember(work)
        for work in self._postponed.due():
            self._work((), [work])

    def _work(self, deliveries: Sequence[Delivery], opened: Sequence[Work] = ()) -> None:
        """Bring these deliveries to their ends, in order; leave them at a stop, or when the broker has them back."""
        hand = InHand(deliveries, self._open, opened)
        now_s = time.monotonic()
        if now_s > self._turn_ends_s:
            # It ended while there was nothing to do. One that has not goes on: what comes next may be here at once.
            self._turn_ends_s = now_s + _TURN_S
        while (head := hand.head) is not None and not self._must_leave(head) and self._step(hand, head):
            if time.monotonic() > self._turn_ends_s:
                # Not 0: that would let other greenlets run, and no timer.
                gevent.sleep(0.0001)
                self._turn_ends_s = time.monotonic() + _TURN_S
        if (left := hand.head) is not None:
            self._interrupted.remember(left)

    def _open(self, delivery: Delivery) -> Work:
        progress = self._interrupted.recall(delivery)
        try:
            if len(delivery.body) > self._max_body_bytes:
                self._messages_of(delivery)
            return Work(delivery, self._unpack(delivery.body), progress)
        except BadMessage as exc:
            work = Work(delivery, [])
            work.give_up(str(exc))
            return work

    def _messages_of(self, delivery: Delivery) -> list[Any] | Iterator[Any]:
        size_bytes, limit_bytes = len(delivery.body), self._max_body_bytes
        if size_bytes > limit_bytes:
            raise BadMessage(f"body of {size_bytes} bytes: expected at most {limit_bytes} ([bus] max_body)")
        return self._unpack(delivery.body)

    def _must_leave(self, work: Work) -> bool:
        return self._must_leave_delivery(work.delivery)

    def _must_leave_delivery(self, delivery: Delivery) -> bool:
        return self._stopping or self._source.is_stale(delivery)

    def _step(self, hand: InHand, head: Work) -> bool:
        """Do the next messages, or what ends the first delivery. False when that must be left."""
        if head.is_over and head.progress.given_up:
            return self._bury(hand, head)
        batch = hand.slice(BATCH_MESSAGES)
        try:
            if not batch:
                self._note_done(hand, 0)
            elif self._is_batched:
                self._process_together(hand, batch)
            else:
                self._process_one_by_one(hand, batch)
        except ItemFailed as exc:
            self._note_done(hand, max(0, min(exc.done, len(batch) - 1)))
            return self._after_failure(hand, exc.cause)
        return True

    def _note_done(self, hand: InHand, count: int) -> None:
        self.processed += count
        self._source.finish(hand.advance(count))

    def _process_together(self, hand: InHand, batch: list[Any]) -> None:
        """Have these messages done, all or the first of them. Raises `ItemFailed`."""
        more = ([_envelope(work) for work in hand.owners(len(batch))],) if self._batch_with_envelopes else ()
        try:
            if self._limit_s is None:
                self.process_messages(batch, *more)
            else:
                with TookTooLong(self._limit_s * len(batch)):
                    self.process_messages(batch, *more)
        except ItemFailed:
            raise
        except _FAILURES as exc:
            if len(batch) == 1 or isinstance(exc, NotNow):
                raise ItemFailed(0, exc) from exc
            # Nobody knows which of them it was. None of this counts as a try.
            self._check_helpers()
            hand.go_alone(len(batch))
        else:
            self._note_done(hand, len(batch))

    def _process_one_by_one(self, hand: InHand, batch: list[Any]) -> None:
        """Have these messages done one by one, as many as there is time for. Raises `ItemFailed`."""
        is_plain = self._limit_s is None and not self._one_with_envelope
        process = self.process_message if is_plain else partial(self._process_next, hand)
        try:
            for message in batch:
                process(message)
                # At once: the next one may take an hour.
                self._note_done(hand, 1)
                if time.monotonic() > self._turn_ends_s:
                    return
        except _FAILURES as exc:
            raise ItemFailed(0, exc) from exc

    def _process_next(self, hand: InHand, message: Any) -> None:
        [work] = hand.owners(1)
        self._process(message, _envelope(work))

    def _process(self, message: Any, envelope: Envelope) -> None:
        """Have one message done, within its time."""
        more = (envelope,) if self._one_with_envelope else ()
        if self._limit_s is None:
            self.process_message(message, *more)
        else:
            with TookTooLong(self._limit_s):
                self.process_message(message, *more)

    # -- what failed ---------------------------------------------------------------------------------------------

    def _after_failure(self, hand: InHand, error: BaseException) -> bool:
        """Decide what becomes of the next message, which has just failed. False when its delivery must be left."""
        self._check_helpers()
        if self._is_pause(error):
            return False
        work = hand.head
        assert work is not None
        delay_s = self._retry_delay_s(work.progress, error)
        if delay_s is None:
            hand.give_up(f"{type(error).__name__}: {printable(error)}")
            return True
        if isinstance(error, RetryLater) and self._postponed.has_room(self._source.prefetch_messages):
            self._postponed.add(work, delay_s)
            hand.drop_head()
            return True
        hand.go_alone(1)
        return self._wait_for(work.delivery, delay_s)

    def _is_pause(self, error: BaseException) -> bool:
        """Answer whether this means that nothing can be handled for now, and pause then."""
        if not isinstance(error, NotNow) and not self._is_too_long(error):
            return False
        self._pause_for(error)
        return True

    def _retry_delay_s(self, progress: Progress, error: BaseException) -> float | None:
        """Count a failed try; see `Progress.failed`."""
        self.failed += 1
        delay_s = progress.failed(error, time.monotonic(), self._policy)
        if delay_s is not None:
            self._tell_failure(progress.tries_of_item, error)
        return delay_s

    def _is_too_long(self, error: BaseException) -> bool:
        """True for a wait that is too long to keep the message from its queue: brokers close the channel then."""
        return isinstance(error, Retry) and error.after_s is not None and error.after_s > self._policy.time_s

    def _tell_failure(self, tries: int, error: BaseException) -> None:
        text = f"{printable(repr(error))}; at {frames_text(error)}" if tries == 1 else printable(repr(error))
        log.info("%s: tried again (%d of %d): %s", self.name, tries, self._policy.max_redeliveries, text)

    def _pause_for(self, error: BaseException) -> None:
        reason = printable(error)
        if self._not_now is None:
            log.info("%s: paused: %s", self.name, reason)
        self._not_now = reason
        self.pause_producing()
        after_s = error.after_s if isinstance(error, NotNow | Retry) else None
        has_probe = type(self).probe is not MessageHandler.probe
        # Who raises `PipeClosed` and has no probe looks after its pipe itself. To try it blindly would give all back
        # again and again, and a quorum queue counts that.
        if not isinstance(error, PipeClosed) or after_s is not None or has_probe:
            self._begin_resuming(after_s)

    def _begin_resuming(self, after_s: float | None) -> None:
        """Consume again after that time or, without one, when `probe` says so."""
        if self._resuming is None or self._resuming.dead:
            self._resuming = self._begin_helper(partial(self._resume_later, after_s), "resume")

    def _resume_later(self, after_s: float | None) -> None:
        if after_s is not None:
            gevent.sleep(after_s)
        while after_s is None:
            gevent.sleep(next(self._probe_delays))
            try:
                self.probe()
                break
            except _FAILURES as exc:
                self._not_now = printable(exc)
        # Somebody may have been quicker, and have paused it since.
        if self._not_now is not None:
            self.resume_producing()

    def _bury(self, hand: InHand, work: Work) -> bool:
        """Bury the first delivery. False when it must be left."""
        progress = work.progress
        if not self._bury_delivery(work.delivery, progress.reason, progress.tries_in_all, progress.last_error):
            return False
        hand.drop_head()
        return True

    def _bury_delivery(self, delivery: Delivery, reason: str, tries: int, error: LastError | None) -> bool:
        """Send a dead letter and acknowledge the original, or reject it. False when the delivery must be left."""
        letters, wait = self._dead_letters, partial(self._wait_for, delivery)
        if letters is not None and not letters.bury(delivery, reason, tries, wait, error):
            return False
        # Only now: a person who reads the line may look for the letter, or stop the connector.
        at = f"; at {error.frames}" if error is not None and error.frames else ""
        self._log_dead(
            "queue %r: a message can't be handled, its end is %s: %s%s",
            self._source.queue, letters.queue if letters else "a rejection", printable(reason, 500), at,
        )  # fmt: skip
        self.dead_lettered += 1
        self._source.finish([delivery], accepted=letters is not None)
        return True

    def _wait_for(self, delivery: Delivery, seconds: float, result: Answer | None = None) -> bool:
        """Wait for that time or until the result is there; False when the delivery must be left.

        A stop does not end the wait for a result at once: what is under way would be sent again by the next start.
        """
        deadline_s = time.monotonic() + seconds
        nudge = Event()

        def notice(answer: Answer) -> None:
            nudge.set()

        self._nudges.add(nudge)
        if result is not None:
            result.rawlink(notice)
        try:
            while not self._source.is_stale(delivery) and not (self._stopping and result is None):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or (result is not None and result.ready()):
                    return True
                if self._stopping:
                    left_s = min(left_s, self.supervisor.share_s() - _LAST_WORDS_S)
                    if left_s <= 0:
                        return False
                nudge.clear()
                nudge.wait(left_s)
            return False
        finally:
            self._nudges.discard(nudge)
            if result is not None:
                result.unlink(notice)


class _CrewDuty:
    """A handler as its workers see it."""

    def __init__(self, handler: MessageHandler) -> None:
        self._handler = handler
        self._key_with_envelope = _wants_envelope(handler.order_key)

    def unpack(self, delivery: Delivery) -> list[Any] | Iterator[Any]:
        return self._handler._messages_of(delivery)

    def key_of(self, message: Any, envelope: Envelope) -> Hashable:
        order_key = self._handler.order_key
        return order_key(message, envelope) if self._key_with_envelope else order_key(message)

    def do(self, message: Any, envelope: Envelope) -> None:
        self._handler._process(message, envelope)

    def note_processed(self) -> None:
        self._handler.processed += 1

    def is_pause(self, error: BaseException) -> bool:
        return self._handler._is_pause(error)

    def retry_delay_s(self, item: Item, error: BaseException) -> float | None:
        return self._handler._retry_delay_s(item.parcel.account.tries(item.place), error)

    def bury(self, delivery: Delivery, account: Account) -> bool:
        return self._handler._bury_delivery(delivery, account.reason, account.tries_in_all, account.last_error)



def _wants_envelope(method: Callable[..., object]) -> bool:
    """Answer whether a method declares a second parameter."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional for each in inspect.signature(method).parameters.values()) > 1


def _envelope(work: Work) -> Envelope:
    return Envelope(work.delivery, work.progress)


H = TypeVar("H", bound=MessageHandler)


def messagehandler_factory(
    settings: Settings, handler: H, *, client: Client, publisher: Client | None = None
) -> H:
    """Subscribe `handler` to the queue that `settings` name, on `client`, and return it.

    Raises `SettingsError` when they name none.
    """
    bus = settings.bus
    if bus.queue is None:
        raise SettingsError(f"{settings.path}: [bus] queue: expected the name of the queue to consume, got none")
    handler.subscribe(
        bus.queue, bus.subscriptions, publisher=publisher, prefetch_messages=bus.prefetch_count,
        prefetch_bytes=bus.prefetch_bytes, max_body_bytes=bus.max_body_bytes,
        queue_type=bus.queue_type, ttl_s=bus.queue_messages_ttl_s, dead_letter=bus.dead_letter,
        max_redeliveries=bus.max_redeliveries, retry_first_delay_s=bus.retry_first_delay_s,
        retry_max_delay_s=bus.retry_max_delay_s, retry_time_s=bus.retry_time_s, workers=bus.workers,
        time_limit_s=bus.time_limit_s,
    )  # fmt: skip
    client.add_handler(handler)
    return handler
