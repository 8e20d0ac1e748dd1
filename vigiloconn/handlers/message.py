"""Messages from a queue, one by one or in batches, to the code of a connector's author.

Knows JSON, tries and outcomes; the queue is the subscriber's affair, and dead letters have their own module.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent.event import Event

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.deadletter import SUFFIX, DeadLetters, Identity, identity
from vigiloconn.consuming.subscriber import QueueSubscriber
from vigiloconn.consuming.work import ItemFailed, Work
from vigiloconn.errors import BadMessage, PipeClosed, SettingsError
from vigiloconn.interfaces import Answer, Client, Level, Problem
from vigiloconn.kit.limits import MAX_NAME_BYTES
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import Settings
from vigiloconn.serialize import decode, split_messages
from vigiloconn.settings.values import Subscription
from vigiloconn.supervisor import Handler

__all__ = ["ItemFailed", "MessageHandler", "messagehandler_factory"]

log = logging.getLogger(__name__)

BATCH_MESSAGES = 500
#: Brokers close a channel that holds a message for 30 minutes; all tries of one are over long before that.
_MAX_RETRYING_S = 300.0
#: How long messages are worked off before timers and other greenlets get a turn.
_TURN_S = 0.02
_CLOSE_S = 1.0
_MAX_INTERRUPTED = 100

#: All that an author's code may raise; greenlets are ended by something else, which passes.
_FAILURES = (Exception, gevent.Timeout)


class MessageHandler(Handler):
    """Base class for whoever consumes: override `process_message`, or `process_messages` for batches.

    Call `subscribe` once before the start (`messagehandler_factory` does), and add this to the client and to the
    supervisor. A message is acknowledged after the method has returned, in the queue's order. What it raises decides:

    - `BadMessage`: this message can never be handled; it becomes a dead letter.
    - `PipeClosed`: not now. Nothing is acknowledged, the try does not count, and consumption pauses until
      somebody calls `resume_producing()`.
    - anything else: it is tried again in place, after a growing delay, at most `max_redeliveries` times and
      for five minutes; then it becomes a dead letter. What is behind it waits, so that the order holds.

    A message that holds `messages` is taken apart, and each of them is done once while the process lives.
    """

    name = "messages"

    def __init__(self) -> None:
        self.processed = 0
        self.failed = 0
        self.dead_lettered = 0
        self._subscriber: QueueSubscriber | None = None
        self._dead_letters: DeadLetters | None = None
        self._max_redeliveries = 5
        self._stopping = False
        self._nudge = Event()
        self._helpers: list[gevent.Greenlet[..., Any]] = []
        self._interrupted: OrderedDict[Identity, Work] = OrderedDict()
        self._not_now: str | None = None
        self._log_dead = RateLimitedLog(log)
        self._is_batched = type(self).process_messages is not MessageHandler.process_messages
        self._turn_ends_s = 0.0

    # -- for subclasses ---------------------------------------------------------------------------------------

    def process_message(self, message: dict[str, Any]) -> None:
        """Do the work for one message. May block the greenlet, not the process."""
        raise NotImplementedError

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        """Do the work for several messages, in order; override it where one write for many is cheaper.

        Raise `ItemFailed` when some are done. After anything else none of them counts as done, and they are
        tried again one by one (`batch` has one message then).
        """
        for message in batch:
            self.process_message(message)

    def subscribe(
        self,
        queue: str,
        subscriptions: Sequence[Subscription] = (),
        *,
        publisher: Client | None = None,
        prefetch_messages: int = 500,
        queue_type: str = "classic",
        ttl_s: int = 0,
        dead_letter: bool = True,
        max_redeliveries: int = 5,
    ) -> None:
        """Say which queue to consume. Dead letters go through `publisher`, a client with a connection of its own;
        without one, or without `dead_letter`, such messages are rejected, for the queue's own dead letter exchange.

        Raises `SettingsError` when the name leaves no room for the dead letters' queue.
        """
        if len(queue.encode()) > MAX_NAME_BYTES - len(SUFFIX):
            raise SettingsError(f"[bus] queue: expected at most {MAX_NAME_BYTES - len(SUFFIX)} bytes, got {queue!r}")
        self._subscriber = QueueSubscriber(
            queue, subscriptions, prefetch_messages=prefetch_messages, queue_type=queue_type, ttl_s=ttl_s,
            on_left=self._nudge.set,
        )  # fmt: skip
        self._dead_letters = DeadLetters(publisher, queue) if publisher is not None and dead_letter else None
        self._max_redeliveries = max_redeliveries

    def pause_producing(self) -> None:
        """Stop consuming: what is not acknowledged goes back to the queue, once."""
        self._source.pause_producing()

    def resume_producing(self) -> None:
        """Consume (again)."""
        self._not_now = None
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
        self._nudge.set()
        self._source.interrupt()

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
        while not self._stopping:
            self._check_helpers()
            deliveries = source.get(BATCH_MESSAGES)
            if deliveries:
                self.client.note_success()
                self._turn_ends_s = time.monotonic() + _TURN_S
                if self._is_batched:
                    self._work_in_batches(deliveries)
                else:
                    self._work_one_by_one(deliveries)
        source.stop()
        pump.join(timeout=min(_CLOSE_S, self.supervisor.remaining_s()))

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

    def _work_one_by_one(self, deliveries: Sequence[Delivery]) -> None:
        source, process = self._source, self.process_message
        for delivery in deliveries:
            if self._stopping or source.is_stale(delivery):
                break
            work = self._open(delivery)
            error: BaseException | None = None
            try:
                while work.done < len(work.items):
                    process(work.items[work.done])
                    work.done += 1
                    self.processed += 1
            except _FAILURES as exc:
                error = exc
            if error is None and not work.failed:
                source.accept(delivery)
                if time.monotonic() > self._turn_ends_s:
                    self._give_turn()
            elif not self._see_through(work, error):
                return

    def _work_in_batches(self, deliveries: Sequence[Delivery]) -> None:
        in_hand = [self._open(delivery) for delivery in deliveries]
        while in_hand and not self._stopping and not self._source.is_stale(in_hand[0].delivery):
            count = next((number for number, work in enumerate(in_hand) if work.failed), len(in_hand))
            if count == 0:
                if not self._see_through(in_hand.pop(0), None):
                    return
                continue
            error = self._try_batch(in_hand[:count])
            over = next((number for number, work in enumerate(in_hand[:count]) if not work.is_over), count)
            self._source.finish([work.delivery for work in in_hand[:over]])
            del in_hand[:over]
            if isinstance(error, ItemFailed):
                if not self._see_through(in_hand.pop(0), error.cause):
                    return
            elif error is not None:
                for _ in range(count):
                    if self._stopping or not self._see_through(in_hand.pop(0), None):
                        return
            if time.monotonic() > self._turn_ends_s:
                self._give_turn()

    def _try_batch(self, in_hand: Sequence[Work]) -> BaseException | None:
        """Hand the messages of these over as one batch, and note in each what is done."""
        batch = [item for work in in_hand for item in work.items[work.done :]]
        error: BaseException | None = None
        done = len(batch)
        try:
            if batch:
                self.process_messages(batch)
        except ItemFailed as exc:
            error, done = exc, max(0, min(exc.done, len(batch) - 1))
        except (PipeClosed, BadMessage) as exc:
            error = ItemFailed(0, exc) if isinstance(exc, PipeClosed) or len(batch) == 1 else exc
            done = 0
        except _FAILURES as exc:
            error = ItemFailed(0, exc) if len(batch) == 1 else exc
            done = 0
        self.processed += done
        for work in in_hand:
            step = min(done, len(work.items) - work.done)
            work.done += step
            done -= step
        return error

    def _give_turn(self) -> None:
        # Not 0: that would let other greenlets run, and no timer.
        gevent.sleep(0.0001)
        self._turn_ends_s = time.monotonic() + _TURN_S

    def _open(self, delivery: Delivery) -> Work:
        if self._interrupted and delivery.redelivered:
            work = self._interrupted.pop(identity(delivery), None)
            if work is not None:
                work.delivery = delivery
                return work
        try:
            message = decode(delivery.body)
            return Work(delivery, split_messages(message) if "messages" in message else (message,))
        except BadMessage as exc:
            work = Work(delivery, ())
            work.failed.append(str(exc))
            return work

    # -- what failed ---------------------------------------------------------------------------------------------

    def _see_through(self, work: Work, error: BaseException | None) -> bool:
        """Bring one work to its end, whatever it takes, `error` being what its next message raised just now.

        Returns False when the work must be left: it was interrupted and will come again.
        """
        if not self._finish_items(work, error) or (work.failed and not self._bury(work)):
            self._interrupted[identity(work.delivery)] = work
            while len(self._interrupted) > _MAX_INTERRUPTED:
                self._interrupted.popitem(last=False)
            return False
        if not work.failed:
            self._source.finish([work.delivery])
        return True

    def _finish_items(self, work: Work, error: BaseException | None) -> bool:
        while not work.is_over:
            if error is None and self._source.is_stale(work.delivery):
                return False
            if error is None:
                error = self._try_item(work.items[work.done])
            if error is None:
                work.done += 1
                work.tries_of_item = 0
                continue
            self._check_helpers()
            if isinstance(error, PipeClosed):
                self._pause_for(error)
                return False
            self.failed += 1
            work.tries_in_all += 1
            if not self._may_try_again(work, error):
                work.give_up(f"{type(error).__name__}: {error}")
            else:
                work.tries_of_item += 1
                log.info("%s: tried again (%d of %d): %r", self.name, work.tries_of_item, self._max_redeliveries, error)
                if not self._wait_for(work, next(work.delays)):
                    return False
            error = None
        return True

    def _try_item(self, item: dict[str, Any]) -> BaseException | None:
        try:
            if self._is_batched:
                self.process_messages([item])
            else:
                self.process_message(item)
        except ItemFailed as exc:
            return exc.cause
        except _FAILURES as exc:
            return exc
        self.processed += 1
        return None

    def _may_try_again(self, work: Work, error: BaseException) -> bool:
        now_s = time.monotonic()
        if work.failed_at_s is None:
            work.failed_at_s = now_s
        if isinstance(error, BadMessage) or work.tries_of_item >= self._max_redeliveries:
            return False
        return now_s - work.failed_at_s < _MAX_RETRYING_S

    def _pause_for(self, error: PipeClosed) -> None:
        if self._not_now is None:
            log.info("%s: paused: %s", self.name, error)
        self._not_now = str(error)
        self.pause_producing()

    def _bury(self, work: Work) -> bool:
        """Send a dead letter and acknowledge the original, or reject it. False when the work must be left."""
        reason = "; ".join(work.failed)
        delivery = work.delivery
        letters, wait = self._dead_letters, partial(self._wait_for, work)
        if letters is not None and not letters.bury(delivery, reason, work.tries_in_all, wait):
            return False
        # Only now: whoever reads the line may look for the letter, or stop the connector.
        self._log_dead(
            "queue %r: a message can't be handled, its end is %s: %s",
            self._source.queue, letters.queue if letters else "a rejection", reason[:500],
        )  # fmt: skip
        self.dead_lettered += 1
        self._source.finish([delivery], accepted=self._dead_letters is not None)
        return True

    def _wait_for(self, work: Work, seconds: float, result: Answer | None = None) -> bool:
        """Wait for so long or until the result is there; False when the work in hand must be left."""
        deadline_s = time.monotonic() + seconds
        if result is not None:
            result.rawlink(self._notice)
        try:
            while not self._stopping and not self._source.is_stale(work.delivery):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or (result is not None and result.ready()):
                    return True
                self._nudge.clear()
                self._nudge.wait(left_s)
            return False
        finally:
            if result is not None:
                result.unlink(self._notice)

    def _notice(self, result: Answer) -> None:
        self._nudge.set()


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
        queue_type=bus.queue_type, ttl_s=bus.queue_messages_ttl_s, dead_letter=bus.dead_letter,
        max_redeliveries=bus.max_redeliveries,
    )  # fmt: skip
    client.add_handler(handler)
    return handler
