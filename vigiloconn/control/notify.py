"""What systemd is told: ready, reloading, stopping, alive, and the state in a line. Knows its datagrams, no parts.

The protocol: sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from gevent.event import Event

from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: While the start takes its time, systemd is asked every so often for so much more of it.
EXTEND_EVERY_S = 5.0
_EXTENSION_S = 30.0
#: The state's line has durations in it: it is not told more often than this.
_STATUS_EVERY_S = 5.0
#: A start that takes longer than this hangs.
_LONGEST_START_S = 3600.0


class Notifier(Handler):
    """Tells systemd how it goes. Without systemd (`NOTIFY_SOCKET`) it tells nobody and costs nothing.

    Add it before all others, so that it lives while they are prepared; once it runs, they are. `is_alive` is asked
    before each sign of life; it may wait.
    """

    name = "systemd"

    def __init__(self, environment: Mapping[str, str] = os.environ, *, extend_every_s: float = EXTEND_EVERY_S) -> None:
        self.is_alive: Callable[[], bool] = lambda: True
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environment)
        self._extend_every_s = extend_every_s
        self._status = ""
        self._status_at_s = 0.0
        self._ready = Event()
        self._over = Event()

    def start_service(self) -> None:
        if self._address:
            self.supervisor.spawn(self._extend_start, name=f"{self.name}: start")

    def run(self) -> None:
        self._ready.set()
        self._tell("READY=1")
        while not self._over.wait(self._seconds_to_sign()):
            if self.is_alive():
                self._tell("WATCHDOG=1")

    def _seconds_to_sign(self) -> float | None:
        return seconds_to_beat(time.monotonic(), self._watchdog_s / 2) if self._watchdog_s else None

    def stop_service(self) -> None:
        self._over.set()

    def close(self) -> None:
        # Where the start failed nothing has become ready.
        self._ready.set()

    def tell_status(self, text: str) -> None:
        """Show the state in `systemctl status`; told only when it changes; with the same level, not too often."""
        now_s = time.monotonic()
        has_new_level = text.partition(":")[0] != self._status.partition(":")[0]
        if text != self._status and (has_new_level or now_s >= self._status_at_s):
            self._status, self._status_at_s = text, now_s + _STATUS_EVERY_S
            self._tell(f"STATUS={text}")

    def reloading(self) -> None:
        """Files are opened and read again; `reloaded` is to follow."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """All is as it should be again."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The stop has begun."""
        self._tell("STOPPING=1\nSTATUS=stopping")

    def _extend_start(self) -> None:
        began_s = time.monotonic()
        while not self._ready.wait(self._extend_every_s) and time.monotonic() - began_s < _LONGEST_START_S:
            self._tell(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_S * 1e6)}\nSTATUS=opening the journal")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                link.setblocking(False)
                link.sendto(text.encode(), address)
        except OSError as exc:
            # Whoever started us listens no more, or not now: what has to flow flows.
            log.debug("systemd can't be told %s: %s", text.partition("\n")[0], exc)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return within how many seconds a sign of life is expected, 0 where none is."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0
