"""A small program that ends processes once the one that started it is gone. Knows pids, not what they are.

Standard input holds lines `+PID` (watch) and `-PID` (forget). At its end, which comes also when the other
side is killed with SIGKILL, what is still watched gets SIGKILL. A pid that meanwhile belongs to another
process is known by its start time and left alone.
"""

from __future__ import annotations

import os
import signal
import sys


def start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # The second field is the name in parentheses and may itself hold blanks and parentheses.
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def main() -> None:
    # Only the end of the input ends this program: a Ctrl-C is meant for the program that started it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, str | None] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            watched[pid] = start_time(pid)
        else:
            watched.pop(pid, None)
    for pid, started in watched.items():
        if started is not None and start_time(pid) == started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself in this instant


if __name__ == "__main__":
    main()
