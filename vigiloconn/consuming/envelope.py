"""What a message came in: where it was published, its properties, how often it was tried. Knows one delivery."""

from __future__ import annotations

from typing import Any

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.work import Progress
from vigiloconn.errors import BadMessage


class Envelope:
    """The message's own data. Properties are decoded when they are first asked for; those that can't be are left out.

    Messages that one body holds share what is told of the delivery.
    """

    __slots__ = ("_delivery", "_progress", "_properties")

    def __init__(self, delivery: Delivery, progress: Progress) -> None:
        self._delivery = delivery
        self._progress = progress
        self._properties: dict[str, Any] | None = None

    @property
    def exchange(self) -> str:
        """Where it was published; empty for the default exchange."""
        return self._delivery.exchange

    @property
    def routing_key(self) -> str:
        """With what key."""
        return self._delivery.routing_key

    @property
    def redelivered(self) -> bool:
        """True if it was delivered before, to whomever."""
        return self._delivery.redelivered

    @property
    def tries(self) -> int:
        """Which try this is in this process, 1 for the first."""
        return self._progress.tries_of_item + 1

    @property
    def raw(self) -> bytes:
        """The body as it came."""
        return self._delivery.body

    @property
    def message_id(self) -> str:
        """Its message id, empty where there is none."""
        return self._delivery.message_id()

    @property
    def headers(self) -> dict[str, Any]:
        """Its application headers."""
        found: dict[str, Any] = self.properties.get("application_headers") or {}
        return found

    @property
    def timestamp(self) -> float | None:
        """When it was published, in UNIX seconds, as its publisher says; None where that says nothing."""
        found: float | None = self.properties.get("timestamp")
        return found

    @property
    def properties(self) -> dict[str, Any]:
        """All properties: `content_type`, `correlation_id`, `reply_to`, ... as far as set."""
        if self._properties is None:
            try:
                self._properties = self._delivery.properties()
            except BadMessage:
                self._properties = {}
        return self._properties
