"""How far deliveries have come whose messages are worked side by side. Knows identities, nothing of who works.

What is done is known by its message id and body, so that it is not done again when the broker delivers it again.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.work import MAX_REASONS, Identity, LastError, Progress, identity


class Account:
    """What became of a body's messages, by their places in it. The same for all deliveries of one message."""

    def __init__(self) -> None:
        self.ended: set[int] = set()
        """Done or given up."""
        self.given_up = 0
        self.last_error: LastError | None = None
        self._reasons: list[str] = []
        self._tries: defaultdict[int, Progress] = defaultdict(Progress)

    def tries(self, place: int) -> Progress:
        """Return the tries of one message."""
        return self._tries[place]

    @property
    def tries_in_all(self) -> int:
        return sum(progress.tries_in_all for progress in self._tries.values())

    @property
    def reason(self) -> str:
        """Why messages were given up: the first few reasons, and the number of the others."""
        more = self.given_up - len(self._reasons)
        return "; ".join(self._reasons) + (f"; and {more} more" if more else "")

    def give_up(self, place: int, reason: str, error: LastError | None = None) -> None:
        """One can't be handled."""
        self.ended.add(place)
        self.given_up += 1
        self.last_error = error
        if len(self._reasons) < MAX_REASONS:
            self._reasons.append(reason)


class Accounts:
    """The accounts of the latest `max_deliveries`, for those that are delivered again."""

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self._accounts: OrderedDict[Identity, Account] = OrderedDict()

    def open(self, delivery: Delivery) -> Account:
        """Return the account of a delivery: that of before if it came before, to this process and with an id.

        Two messages without an id may be equal and not the same: what is not known to be done is done.
        """
        if not delivery.message_id():
            return Account()
        key = identity(delivery)
        known = self._accounts.pop(key, None) if delivery.redelivered else None
        account = self._accounts[key] = known or Account()
        while len(self._accounts) > self._max_deliveries:
            self._accounts.popitem(last=False)
        return account
