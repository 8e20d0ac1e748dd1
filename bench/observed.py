"""The Nagios connector with a loop monitor beside it: `vigilo-connector run bench.observed:build`.

The monitor sleeps for 2 ms again and again and notes by how much it woke too late, which is how long
something kept the loop. Into the file named by STALL_FILE go the longest such time, and the most CPU that the loop's
thread took between two wake-ups, both in milliseconds: on a busy machine the first is more, for the thread waits too.
"""

from __future__ import annotations

import os
import time

import gevent

from vigiloconn.connectors import nagios
from vigiloconn.handlers.base import Handler
from vigiloconn.options import Settings, parse_settings
from vigiloconn.supervisor import Supervisor

_PERIOD_S = 0.002


class LoopMonitor(Handler):
    """Notes the longest stall of the loop since the last `SIGHUP`, and writes it down every 0.2 s."""

    name = "loop monitor"

    def __init__(self, path: str) -> None:
        self._path = path
        self._worst_s = self._worst_cpu_s = 0.0
        self._stopping = False

    def run(self) -> None:
        written_at = 0.0
        while not self._stopping:
            before, cpu_before = time.monotonic(), time.thread_time()
            gevent.sleep(_PERIOD_S)
            now = time.monotonic()
            self._worst_s = max(self._worst_s, now - before - _PERIOD_S)
            self._worst_cpu_s = max(self._worst_cpu_s, time.thread_time() - cpu_before)
            if now - written_at > 0.2:
                written_at = now
                with open(self._path, "w") as file:
                    file.write(f"{self._worst_s * 1000:.1f} {self._worst_cpu_s * 1000:.1f}")

    def reload(self) -> None:
        self._worst_s = self._worst_cpu_s = 0.0

    def stop_service(self) -> None:
        self._stopping = True


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Build the Nagios connector from `[connector-nagios]`, and the monitor."""
    assert settings.path is not None
    nagios.build(parse_settings(settings.path.read_text(), settings.path), supervisor)
    supervisor.add(LoopMonitor(os.environ["STALL_FILE"]))
