"""The connector's program with a clock that can be set, points to die at and a watch on its loop.

    VIGILOCONN_CHAOS=CONTROLS python -m tests.chaos.wrapped run nagios ...

Knows the program's entry, not what it does. Must be the first that is imported: the clock has to be in place before
anything keeps a reference to the true one.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.controls import Controls

#: How often the loop is looked at.
_LOOK_S = 0.02

_true_time, _true_clock, _true_sleep = time.time, time.clock_gettime, time.sleep


def set_clock(controls: Controls) -> None:
    """Let the process's wall clock go `clock_offset_s` ahead. Other clocks stay, as they do when it really jumps."""

    def clock_gettime(clock: int) -> float:
        return _true_clock(clock) + (controls.clock_offset_s if clock == time.CLOCK_REALTIME else 0.0)

    time.time = lambda: _true_time() + controls.clock_offset_s
    time.time_ns = lambda: int(time.time() * 1e9)
    time.clock_gettime = clock_gettime


def watch_loop(controls: Controls) -> Any:
    """Note the longest time for which the loop did not come round; without that for which the kernel let others run."""
    import gevent

    timer = gevent.get_hub().loop.timer(_LOOK_S, _LOOK_S)
    # The first turn ends the imports and the wiring, which are no stall of a loop that runs.
    seen_s, waited_s = math.inf, 0.0

    def look() -> None:
        nonlocal seen_s, waited_s
        now_s, now_waited_s = time.monotonic(), _waited_for_cpu_s()
        stall_s = now_s - seen_s - _LOOK_S - (now_waited_s - waited_s)
        seen_s, waited_s = now_s, now_waited_s
        controls.stall_s = max(controls.stall_s, stall_s)

    def forgive(*_: object) -> None:
        nonlocal seen_s
        seen_s = math.inf

    # A process that was stopped has not stalled.
    signal.signal(signal.SIGCONT, forgive)
    timer.start(look)
    return timer


def _waited_for_cpu_s() -> float:
    """Return for how long this thread was ready to run and another one ran."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def main() -> int:
    """Run the program."""
    controls = Controls(Path(os.environ["VIGILOCONN_CHAOS"]))
    set_clock(controls)
    from gevent import monkey

    monkey.patch_all()
    # Only now: these import the program, which has to find the clock and the patches in place.
    from tests.chaos import points
    from vigiloconn.__main__ import main as program

    points.install(controls, _true_sleep)
    timer = watch_loop(controls)
    try:
        return program()
    finally:
        timer.close()


if __name__ == "__main__":
    sys.exit(main())
