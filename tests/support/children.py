"""Child processes that can't outlive this one, however it ends. Knows pids, not what they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

#: Holds the program back until the watchdog knows its pid, so that there is no moment without a guard.
#: When this process dies in between, `read` meets the end of its input and nothing is started.
_HOLD = 'read -r _ && exec "$@" </dev/null'

_lock = threading.Lock()
_watchdogs: dict[int, subprocess.Popen[bytes]] = {}


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[Any] | int | None = subprocess.DEVNULL,
    stderr: IO[Any] | int | None = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; its pid is the program's. Give it to `end` when done.

    A Ctrl-C on the terminal does not reach it. It gets SIGKILL when this process is gone.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", _HOLD, "sh", *map(str, argv)],
        stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True,
    )
    _tell_watchdog(f"+{process.pid}\n")
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    return process


def end(process: subprocess.Popen[bytes], grace_s: float = 0.0) -> int:
    """Return the exit status of a program that has ended or is made to: SIGTERM, and SIGKILL after `grace_s`.

    Without a grace it is SIGKILL at once. A stopped process is woken first. Harmless when called twice.
    """
    if process.poll() is None:
        if grace_s > 0:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
        else:
            process.kill()
    status = process.wait(10)
    _tell_watchdog(f"-{process.pid}\n")
    return status


def _tell_watchdog(line: str) -> None:
    with _lock:
        # By pid: a fork of this process has to begin its own, for it can't wait for its parent's children.
        watchdog = _watchdogs.get(os.getpid())
        if watchdog is None:
            watchdog = _watchdogs[os.getpid()] = _start_watchdog()
        assert watchdog.stdin is not None
        watchdog.stdin.write(line.encode())
        watchdog.stdin.flush()


def _start_watchdog() -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("watchdog.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(program)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
