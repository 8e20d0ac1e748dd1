"""Which message makes a broker close the channel: it does not say. Knows ids and their order, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from vigiloconn.interfaces import Record


class Suspicion:
    """Says when to send one by one. The first close may be an accident; at the second with the same message at the
    head everything that was on its way goes alone, until the culprit is found."""

    def __init__(self) -> None:
        self._head_id = 0
        self._careful_upto = 0

    @property
    def is_careful(self) -> bool:
        """True while each message has to wait for the answer to the one before it."""
        return self._careful_upto > 0

    def closed(self, unanswered: Sequence[Record]) -> None:
        """Channel or connection was closed because of one of these, perhaps."""
        head_id = unanswered[0].id if unanswered else 0
        if head_id and head_id == self._head_id:
            self._careful_upto = unanswered[-1].id
        self._head_id = head_id

    def finished(self, upto_id: int) -> None:
        """A message is done; care ends with the last of those that were on their way."""
        if upto_id >= self._careful_upto:
            self._careful_upto = 0
