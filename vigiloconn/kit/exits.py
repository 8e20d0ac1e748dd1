"""How a program ends: its exit status, and one line for the operator. Imports next to nothing: `send` needs it."""

from __future__ import annotations

import sys

from vigiloconn.kit.escape import printable

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


_MAX_CHARS = 2000


def say(text: object, program: str = "vigilo-connector") -> None:
    """Print `text` for the operator, on one line. What does not print in it is escaped: names come from anywhere."""
    line = " ".join(part.strip() for part in str(text).splitlines())
    print(f"{program}: {printable(line, _MAX_CHARS)}", file=sys.stderr)


def fail(text: object, status: int, program: str = "vigilo-connector") -> int:
    """Print what went wrong for the operator, a line for it and for each of its `others`; return the exit status."""
    for each in (text, *getattr(text, "others", ())):
        say(each, program)
    return status
