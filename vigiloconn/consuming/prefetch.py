"""How many messages the broker may send ahead so that their bodies fit a bound. Pure: knows counts and sizes.

RabbitMQ's prefetch counts messages and knows no bytes. So the count begins as it is set; a consumer that has more
bytes than the bound keeps nothing more (`Consumer`), and the next one asks for as many as the sizes allow.
"""

from __future__ import annotations


class Prefetch:
    """The count for the next consumer, from the sizes that have come."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.messages = max_messages
        self.max_bytes = max_bytes
        self._max_messages = max_messages
        self._seen = 0
        self._largest_bytes = 1
        """Of those."""

    def note(self, size_bytes: int) -> None:
        """Count a delivery."""
        self._seen += 1
        if size_bytes > self._largest_bytes:
            self._largest_bytes = size_bytes

    def shrink(self) -> None:
        """Allow as many messages as fit if all are as large as the largest one; fewer than up to now."""
        self.messages = max(1, min(self.messages - 1, self.max_bytes // self._largest_bytes))
        self._restart()

    @property
    def is_due(self) -> bool:
        """True when enough has come to ask `grow`."""
        return self._seen >= self._max_messages

    def grow(self) -> bool:
        """Allow more again, where the latest messages are small enough. Returns whether it did.

        They have to be as many as may be allowed at all: a few small ones among large ones prove nothing. There is
        to be room for twice the largest, so that the count does not go up and down.
        """
        if not self.is_due:
            return False
        fitting = min(self._max_messages, self.max_bytes // (2 * self._largest_bytes))
        self._restart()
        if fitting < 2 * self.messages and not self.messages < fitting == self._max_messages:
            return False
        self.messages = fitting
        return True

    def _restart(self) -> None:
        self._seen, self._largest_bytes = 0, 1
