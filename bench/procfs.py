"""What a process has used, read from /proc. Knows pids, not what they run."""

from __future__ import annotations

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
    """Return it for all threads of a process. A thread that has ended takes its share with it: ours live on."""
    cpu_ns = wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            wakeups += _field(task / "status", "voluntary_ctxt_switches")
        except FileNotFoundError:
            continue  # it has ended since the listing
    status = Path(f"/proc/{pid}/status")
    return Usage(cpu_ns / 1e9, wakeups, _field(status, "VmRSS") * 1024 / 1e6, _field(status, "VmHWM") * 1024 / 1e6)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"{path}: no {name}")
