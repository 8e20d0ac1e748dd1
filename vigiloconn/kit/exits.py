"""How a program ends: its exit status, and one line for the operator. Imports next to nothing: `send` needs it."""

from __future__ import annotations

import sys

#: Stopped in order, or all is as asked for.
EXIT_DONE = 0
#: Could not do its work: socket or journal in use, broker away or refusing, too many crashes.
EXIT_FAILED = 1
#: Usage or settings.
EXIT_USAGE = 2
#: One-shot clients: the time limit passed first.
EXIT_TIMEOUT = 3
#: One-shot clients: another process holds the lock.
EXIT_LOCKED = 4


def say(text: object, program: str = "vigilo-connector") -> None:
    """Print `text` for the operator, on one line."""
    print(f"{program}: {' '.join(line.strip() for line in str(text).splitlines())}", file=sys.stderr)


def fail(text: object, status: int, program: str = "vigilo-connector") -> int:
    """Print what went wrong for the operator, on one line, and return the exit status."""
    say(text, program)
    return status
