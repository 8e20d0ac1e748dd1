"""When a message was accepted, and how old it is: by a clock that does not jump, as long as the machine is not booted.

Knows the kernel's clocks, not messages' lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vigiloconn.interfaces import Record

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Stamp(NamedTuple):
    """A moment, by both clocks."""

    wall_s: float
    """UNIX seconds, as somebody may have set them."""
    boot_s: float | None
    """Seconds since the machine was booted, suspension included; None where that is not known."""


def seconds_since_boot() -> float | None:
    """Return the seconds since the machine was booted; nobody can set this clock."""
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return None


def read_boot_id() -> str:
    """Return what tells this boot of the machine from others, empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


class JournalClock:
    """Stamps messages and tells their ages. `wall` gives UNIX seconds, `boot` seconds since the boot `boot_id`."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float | None] = seconds_since_boot,
        boot_id: Callable[[], str] = read_boot_id,
    ) -> None:
        self.boot_id = boot_id()
        self._wall = wall
        self._boot = boot

    def now(self) -> Stamp:
        """Return this moment."""
        # A count of seconds since an unknown boot would be taken for one since another.
        return Stamp(self._wall(), self._boot() if self.boot_id else None)

    def age_s(self, record: Record) -> float:
        """Return the seconds since a message was accepted.

        Across a reboot it is the wall clock that tells, and in both cases never less than nothing.
        """
        # One clock where one will do: asked for each confirm.
        if record.boot_s is not None and self.boot_id and (boot_s := self._boot()) is not None:
            return max(0.0, boot_s - record.boot_s)
        return max(0.0, self._wall() - record.accepted_at)
