"""What a process has used, as the kernel counts it. Knows pids, not what they run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """CPU seconds and voluntary switches (each a wake-up) of all threads; memory in millions of bytes."""

    cpu_s: float
    wakeups: int
    rss_mb: float
    peak_mb: float


def usage(pid: int) -> Usage:
    """Return it. A thread that has ended takes its wake-ups with it, not its CPU."""
    wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            wakeups += _field(task / "status", "voluntary_ctxt_switches")
        except FileNotFoundError:
            continue  # it has ended since the listing
    status = Path(f"/proc/{pid}/status")
    return Usage(
        time.clock_gettime(_cpu_clock(pid)),
        wakeups,
        _field(status, "VmRSS") * 1024 / 1e6,
        _field(status, "VmHWM") * 1024 / 1e6,
    )


def _cpu_clock(pid: int) -> int:
    """Return the clock of all that a process has run, ended threads included, in nanoseconds where /proc has ticks.

    As clock_getcpuclockid(3) makes it; 2 is the scheduler's count.
    """
    return (~pid << 3) | 2


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"{path}: no {name}")
