"""What the broker has answered to one channel's publishes. Knows delivery tags, not messages.

py-amqp's own `basic_publish_confirm` takes any answer for its own, that to an earlier publish too.
"""

from __future__ import annotations

from itertools import takewhile

import amqp
from amqp.exceptions import MessageNacked


class Confirms:
    """Puts a channel into confirm mode and counts its publishes: the n-th has the delivery tag n."""

    def __init__(self, channel: amqp.Channel) -> None:
        self.channel = channel
        self._published = 0
        #: Tags without an answer, in their order.
        self._open: dict[int, None] = {}
        self._refused: list[int] = []
        channel.events["basic_ack"].add(self._settle)
        channel.events["basic_nack"].add(self._refuse)
        channel.confirm_select()

    @property
    def unanswered(self) -> int:
        """How many publishes have no answer yet."""
        return len(self._open)

    def note_publish(self) -> None:
        """Count a publish; to be called before it is sent."""
        self._published += 1
        self._open[self._published] = None

    def check(self) -> None:
        """Raise `MessageNacked` if the broker has refused anything since the last check."""
        refused, self._refused = self._refused, []
        if refused:
            raise MessageNacked(f"refused by the broker: publishes {refused} of this channel")

    def _settle(self, tag: int, multiple: bool) -> list[int]:
        settled = list(takewhile(lambda open_: open_ <= tag, self._open)) if multiple else [tag]
        for each in settled:
            self._open.pop(each, None)
        return settled

    def _refuse(self, tag: int, multiple: bool) -> None:
        self._refused += self._settle(tag, multiple)
