"""The confirm channels of one client: how many a broker allows, and whose turn it is. Knows limits, not exchanges.

Each that publishes (a holder) has a channel of its own where the broker allows as many. Where it does not they take
turns: a channel with nothing on its way goes to the one that has waited longest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from vigiloconn.bus.confirms import ConfirmChannel, Returned
from vigiloconn.errors import BusDown, BusRefused, NoChannel
from vigiloconn.interfaces import Connection, Level, Problem

#: A broker closes the connection over a channel too many, and what is on its way would be sent again. So one more than
#: there ever were is opened only with nothing on its way; but a message that is never answered must not prevent it.
_IDLE_S = 2.0
_NOT_ALLOWED = 530


class Holder(Protocol):
    """One that publishes on a channel. None of these may block."""

    def settled(self, tokens: list[Any], acked: bool) -> None:
        """The broker has answered these."""

    def returned(self, message_id: str, returned: Returned) -> None:
        """Nobody wants this message. Comes before its answer."""

    def closed(self, error: BusRefused, unanswered: list[Any]) -> None:
        """The broker has closed the channel."""

    def taken_away(self) -> None:
        """The channel is another's now; nothing was on its way."""

    def wake(self) -> None:
        """There may be a channel now."""


class ChannelPool:
    """Hands out the confirm channels of a client's connection. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connection: Connection | None = None
        # The one that was granted first comes first.
        self._held: dict[Holder, ConfirmChannel[Any]] = {}
        self._waiting: dict[Holder, float] = {}
        self._stood_back: set[Holder] = set()
        """Those that have a channel, and something for it, and let one that waits come first."""
        self._most = 0
        self._is_opening = False
        self._limit: int | None = None
        self._said = ""
        self._is_news = False
        """The limit was learned on the connection that is or was here last."""
        self._cause: tuple[int, str] | None = None

    def connection_lost(self) -> None:
        """Let go of the connection and of all that is on it."""
        self._connection = None
        self._held.clear()

    def take(self, connection: Connection, holder: Holder) -> ConfirmChannel[Any] | None:
        """Return the channel on which `holder` may send now; None while it has to wait: `wake` is called then.

        Raises `BusDown` or `BusRefused` if a channel can't be opened.
        """
        if (lost := connection.lost) is not None:
            # Lost a moment ago, perhaps in another one's write: what was on its way there is taken back already.
            raise lost
        if connection is not self._connection:
            self._begin(connection)
        own = self._held.get(holder)
        if own is not None and not own.closed and not self._waiting:
            return own
        self._held = {each: channel for each, channel in self._held.items() if not channel.closed}
        return self._granted(holder) if holder in self._held else self._fresh(connection, holder)

    def leave(self, holder: Holder) -> None:
        """`holder` has nothing to send: it waits for no channel."""
        if self._waiting.pop(holder, None) is not None:
            self.wake_first()
            self._let_go_on()

    def wake_first(self) -> None:
        """Something was answered: the first that waits may find a channel."""
        if self._waiting:
            next(iter(self._waiting)).wake()

    def explains(self, error: Exception) -> bool:
        """Answer whether the connection was lost for a channel too many, which will not be asked for again."""
        return bool(self._limit) and isinstance(error, BusRefused) and (error.code, str(error)) == self._cause

    def problems(self) -> list[Problem]:
        """Return what an operator should know of the broker's limit."""
        if self._limit is None:
            return []
        if self._limit == 0:
            text = f"the broker allows no channel for publishing: {self._said}"
            return [Problem("channel-limit", Level.CRITICAL, text)]
        text = f"the broker allows {self._limit} channels for publishing, which take turns: {self._said}"
        return [Problem("channel-limit", Level.WARNING, text)]

    def _begin(self, connection: Connection) -> None:
        # What was learned holds for the connection that follows. When that is lost in its turn, it may have changed.
        if not self._is_news:
            self._limit = None
        self._is_news = False
        self._connection = connection
        self._held.clear()
        self._waiting.clear()
        self._stood_back.clear()
        self._most = 0

    def _granted(self, holder: Holder) -> ConfirmChannel[Any] | None:
        channel = self._held[holder]
        if not self._waiting or next(iter(self._waiting)) is holder:
            self._waiting.pop(holder, None)
            return channel
        self._stood_back.add(holder)
        if not channel.outstanding:
            # It has had its turn.
            if self._is_at_limit():
                self._wait(holder)
                self.wake_first()
            # One that may not open a channel yet would be asked again and again, and nothing be read meanwhile.
            elif self._may_open(next(iter(self._waiting))):
                self.wake_first()
        return None

    def _fresh(self, connection: Connection, holder: Holder) -> ConfirmChannel[Any] | None:
        self._wait(holder)
        if not self._is_at_limit():
            return self._opened(connection, holder) if self._may_open(holder) else None
        idle = [each for each, channel in self._held.items() if not channel.outstanding]
        if not idle or next(iter(self._waiting)) is not holder:
            return None
        channel = self._held.pop(idle[0])
        idle[0].taken_away()
        channel.hand_over(on_settled=holder.settled, on_returned=holder.returned, on_closed=holder.closed)
        return self._keep(holder, channel)

    def _wait(self, holder: Holder) -> None:
        self._waiting.setdefault(holder, self._clock())

    def _is_at_limit(self) -> bool:
        return self._limit is not None and len(self._held) >= max(1, self._limit)

    def _may_open(self, holder: Holder) -> bool:
        if self._is_opening:
            return False
        if len(self._held) < self._most or not any(channel.outstanding for channel in self._held.values()):
            return True
        return self._clock() - self._waiting[holder] >= _IDLE_S

    def _opened(self, connection: Connection, holder: Holder) -> ConfirmChannel[Any] | None:
        self._is_opening = True
        try:
            channel: ConfirmChannel[Any] = ConfirmChannel(
                connection, on_settled=holder.settled, on_returned=holder.returned, on_closed=holder.closed
            )
        except NoChannel as exc:
            self._learn(exc)
            return self._fresh(connection, holder) if self._held else None
        except (BusDown, BusRefused):
            refusal = connection.refusal
            if refusal is not None and refusal.code == _NOT_ALLOWED:
                self._learn(refusal)
            raise
        finally:
            self._is_opening = False
        if connection.lost is not None:
            raise connection.lost
        return self._keep(holder, channel)

    def _keep(self, holder: Holder, channel: ConfirmChannel[Any]) -> ConfirmChannel[Any]:
        self._held[holder] = channel
        self._most = max(self._most, len(self._held))
        if self._limit is not None:
            self._limit = max(self._limit, len(self._held))
        self._waiting.pop(holder, None)
        self._let_go_on()
        return channel

    def _let_go_on(self) -> None:
        """One waits no longer: those that stood back for it may look again."""
        stood_back, self._stood_back = self._stood_back, set()
        for holder in stood_back:
            holder.wake()

    def _learn(self, error: BusRefused) -> None:
        self._limit, self._is_news = len(self._held), True
        self._said, self._cause = str(error), (error.code, str(error))

