"""A delivery being worked off: which of its messages are done, which can't be, how often the next was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigiloconn.bus.contents import Delivery
from vigiloconn.errors import VigiloError
from vigiloconn.kit.backoff import backoff_delays

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 10.0


class ItemFailed(VigiloError):
    """Raised by `process_messages` when the first `done` messages are done and the next one failed for `cause`."""

    def __init__(self, done: int, cause: BaseException) -> None:
        super().__init__(f"message {done + 1} of the batch: {cause}")
        self.done = done
        self.cause = cause


class Work:
    """One delivery with its messages, in order."""

    __slots__ = ("delays", "delivery", "done", "failed", "failed_at_s", "items", "tries_in_all", "tries_of_item")

    def __init__(self, delivery: Delivery, items: Sequence[dict[str, Any]]) -> None:
        self.delivery = delivery
        self.items = items
        self.done = 0
        self.tries_of_item = 0
        self.tries_in_all = 0
        self.failed: list[str] = []
        self.failed_at_s: float | None = None
        self.delays = backoff_delays(_FIRST_RETRY_S, _MAX_RETRY_S)

    @property
    def is_over(self) -> bool:
        """True once each message is done or given up."""
        return self.done >= len(self.items)

    def give_up(self, reason: str) -> None:
        """Count the next message as one that can't be handled, and go on with the one behind it."""
        where = f"message {self.done + 1} of {len(self.items)}: " if len(self.items) > 1 else ""
        self.failed.append(where + reason)
        self.done += 1
        self.tries_of_item = 0
        self.delays = backoff_delays(_FIRST_RETRY_S, _MAX_RETRY_S)
