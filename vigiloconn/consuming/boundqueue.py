"""A queue that is to be there and bound. Knows topology and when to see to it again, nothing of consuming."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from vigiloconn.errors import BusDown, BusRefused, NoChannel
from vigiloconn.interfaces import Connection
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.escape import printable
from vigiloconn.settings.values import Subscription
from vigiloconn.topology.apply import bind_queue, declare_queue
from vigiloconn.topology.wanted import Queue

log = logging.getLogger(__name__)

#: A binding goes away with its exchange, and nobody is told. Binding again costs the broker next to nothing.
ENSURE_PERIOD_S = 60.0
_FIRST_RETRY_S = 1.0


class BoundQueue:
    """Declares a queue and binds it whenever `due_at_s` has come, in seconds of `clock`: then call `ensure`.

    One that exists with other arguments is used as it is. What is refused is tried again, and told in `troubles`.
    """

    def __init__(
        self, queue: Queue, subscriptions: Sequence[Subscription], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.due_at_s = 0.0
        self.troubles: dict[str, str] = {}
        """`declare` and `bind`: what is wrong now."""
        self._queue = queue
        self._subscriptions = tuple(subscriptions)
        self._clock = clock
        self._retries = backoff_delays(_FIRST_RETRY_S, ENSURE_PERIOD_S)
        self._is_new = True
        """Nothing was seen to since `reset`."""
        self._may_repeat = True

    def reset(self) -> None:
        """See to it at once: the connection is another one, or the queue may be gone."""
        self.due_at_s = 0.0
        self._is_new = True

    def ensure(self, connection: Connection) -> None:
        """Declare and bind, on channels of their own. Raises `BusDown`."""
        delay_s = ENSURE_PERIOD_S
        try:
            if self._declare(connection):
                refused = bind_queue(connection, self._queue.name, self._subscriptions)
                self._note_bound(refused)
                delay_s = next(self._retries) if refused else delay_s
        except BusDown:
            if connection.refusal is not None and not self._is_new:
                # A limit of the user's, perhaps: a channel more ends the connection.
                log.warning("queue %r: from now on bound at connecting only: %s",
                            self._queue.name, printable(connection.refusal))
                self._may_repeat = False
            raise
        self._is_new = False
        self.due_at_s = self._clock() + delay_s if self._may_repeat else math.inf

    def _declare(self, connection: Connection) -> bool:
        """Return whether there was a channel to ask on."""
        try:
            declare_queue(connection, self._queue)
        except NoChannel:
            if not self._is_new:
                # The consumer has the only one.
                return False
            self._trouble("declare", f"queue {self._queue.name!r} can't be declared: the broker allows no channel")
        except BusRefused as exc:
            self._trouble(
                "declare",
                f"queue {self._queue.name!r} is used as it is, though it can't be declared: {printable(exc)}",
            )
        else:
            self.troubles.pop("declare", None)
        return True

    def _note_bound(self, refused: Sequence[tuple[Subscription, BusRefused]]) -> None:
        if refused:
            reasons = "; ".join(f"exchange {wanted.exchange!r}: {printable(exc)}" for wanted, exc in refused)
            self._trouble("bind", f"queue {self._queue.name!r} is not bound, tried again later: {reasons}")
            return
        self._retries = backoff_delays(_FIRST_RETRY_S, ENSURE_PERIOD_S)
        if self.troubles.pop("bind", None):
            log.info("queue %r: bound to all its subscriptions", self._queue.name)

    def _trouble(self, topic: str, text: str) -> None:
        """Note a problem; log it where it is news."""
        if self.troubles.get(topic) != text:
            self.troubles[topic] = text
            log.warning("%s", text)
