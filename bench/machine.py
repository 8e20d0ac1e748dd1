"""Where figures come from: interpreter, machine, and how busy it was. Knows nothing of what is measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import vigiloconn

ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, object]:
    """Return what has to stand beside a figure."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": vigiloconn.__version__,
        "commit": _commit(),
        "python": f"{platform.python_version()} ({platform.python_compiler()}, {', '.join(platform.python_build())})",
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "fdatasync_ms": round(_fdatasync_ms(), 2),
    }


def sentence(machine: dict[str, object]) -> str:
    """Return it in a line for people."""
    load = machine["load"]
    assert isinstance(load, list)
    return (
        f"{machine['date']}, version {machine['version']} at {machine['commit']}; Python {machine['python']}, "
        f"SQLite {machine['sqlite']}; {machine['cores']} cores {machine['processor']}, Linux {machine['kernel']}, "
        f"fdatasync {machine['fdatasync_ms']} ms; load of the machine before it {load[0]}{_after(machine)}"
    )


def note_end(machine: dict[str, object]) -> None:
    """Add how busy the machine was at the end of what was measured."""
    machine["load_after"] = round(os.getloadavg()[0], 1)


def _after(machine: dict[str, object]) -> str:
    return f", after it {machine['load_after']}" if "load_after" in machine else ""


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "no commit"
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fdatasync_ms() -> float:
    """Return the median of some small synchronous writes where the journals will lie."""
    times = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1000


if __name__ == "__main__":
    print(sentence(describe()), file=sys.stdout)
