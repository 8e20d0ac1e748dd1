"""The states of an outlet, and which event leads where. A table, and nothing else: what is not in it is impossible.

    OPEN      messages go as they come
    HELD      the broker refused: messages gather in the journal's held table, in order
    PROBING   the oldest held message is on its way, alone
    DRAINING  it was taken: the held ones go, newer ones still queue behind them
    SILENT    nothing is answered: what is on its way stays there, further messages are held
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """What an outlet does with messages."""

    OPEN = "open"
    HELD = "held"
    PROBING = "probing"
    DRAINING = "draining"
    SILENT = "silent"


class Event(enum.Enum):
    """What happens to an outlet."""

    REFUSED = "the exchange took no message: it is missing, forbidden, or its queue is full"
    TAKEN = "the exchange took the message that it was tried with"
    LOST = "the connection was lost"
    DUE = "it is time to try a held exchange"
    EMPTIED = "no held message is left"
    UNANSWERED = "nothing was answered for long, and others wait for room in the window"
    ANSWERED = "all that was on its way is answered"


_AFTER: dict[State, dict[Event, State]] = {
    State.OPEN: {
        Event.REFUSED: State.HELD,
        Event.LOST: State.OPEN,
        Event.UNANSWERED: State.SILENT,
    },
    State.HELD: {
        # Late answers to what was on its way when the first was refused.
        Event.REFUSED: State.HELD,
        Event.LOST: State.HELD,
        Event.DUE: State.PROBING,
    },
    State.PROBING: {
        Event.REFUSED: State.HELD,
        Event.TAKEN: State.DRAINING,
        Event.LOST: State.HELD,
        # All that was held could not be sent at all, or had expired.
        Event.EMPTIED: State.OPEN,
    },
    State.DRAINING: {
        Event.REFUSED: State.HELD,
        Event.LOST: State.HELD,
        Event.EMPTIED: State.OPEN,
    },
    State.SILENT: {
        Event.REFUSED: State.HELD,
        Event.LOST: State.HELD,
        # Nobody has refused anything: no trial.
        Event.ANSWERED: State.DRAINING,
    },
}


class ImpossibleEvent(RuntimeError):
    """Raised when something happens that can't happen in this state: a fault of the program."""


def next_state(state: State, event: Event) -> State:
    """Return the state after `event`. Raises `ImpossibleEvent`."""
    after = _AFTER[state].get(event)
    if after is None:
        raise ImpossibleEvent(f"an outlet that is {state.value}: {event.value}")
    return after
