"""How much of an exchange may be on its way at a time. Pure: counts, and looks at no clock.

A broker that has no room for the messages of one queue stops reading the whole connection they come on (RabbitMQ:
"flow", after 200 to 400 messages), and the other exchanges with it. So an exchange has to earn more than that by its
confirms.
"""

from __future__ import annotations

#: What a broker takes on one channel, whatever becomes of it.
_FIRST_MESSAGES = 200
#: Fewer are not worth a write while answers are still to come.
_LEAST_MESSAGES = 50
#: Nothing answered for this time while something is on its way: it may be that nothing will be.
_PAUSE_S = 0.5
#: What was earned is lost when nothing was sent for this time.
_IDLE_S = 1.0


class Pace:
    """A number of messages that grows with each confirm while it is what limits the sending.

    It begins anew after a while with nothing on its way, and counts for nothing while nothing is answered.
    """

    def __init__(self) -> None:
        self._allowed = _FIRST_MESSAGES
        self._is_limit = False

    def room(self, outstanding: int, quiet_s: float) -> int:
        """Return how many more may be sent, 0 or less for none. `quiet_s`: since an answer, or since something was sent
        when nothing was on its way."""
        if outstanding == 0:
            if quiet_s > _IDLE_S:
                self._allowed = _FIRST_MESSAGES
            return self._allowed
        room = (self._allowed if quiet_s <= _PAUSE_S else _FIRST_MESSAGES) - outstanding
        return room if room >= _LEAST_MESSAGES else 0

    def sent(self, outstanding: int, is_more: bool) -> None:
        """Note what is on its way now, and whether more would have been sent."""
        self._is_limit = is_more and outstanding > self._allowed - _LEAST_MESSAGES

    def confirmed(self, messages: int) -> None:
        """The broker has taken messages."""
        if self._is_limit:
            self._allowed += messages
