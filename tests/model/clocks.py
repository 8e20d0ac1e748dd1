"""The clocks of a machine in a test: nothing moves them but the test. Knows seconds."""

from __future__ import annotations

from typing import NamedTuple


class Moment(NamedTuple):
    """A point in time, and what the machine's clocks say then."""

    true_s: float
    """What nobody can set, over all reboots."""
    wall_s: float
    latest_wall_s: float
    """The furthest that the wall clock has been."""
    boot: int
    """How often the machine was booted."""


class Clocks:
    """A monotonic clock and a wall clock."""

    def __init__(self) -> None:
        self._true_s = 0.0
        self._booted_s = -10_000.0
        self._wall_ahead_s = 1_900_000_000.0
        self._boots = 1
        self._latest_wall_s = self.wall()

    def monotonic(self) -> float:
        """Return the seconds since the boot."""
        return self._true_s - self._booted_s

    def wall(self) -> float:
        """Return UNIX seconds, as somebody has set them."""
        return self._true_s + self._wall_ahead_s

    def boot_id(self) -> str:
        """Return what tells this boot from others."""
        return f"boot-{self._boots}"

    def now(self) -> Moment:
        """Return this moment."""
        return Moment(self._true_s, self.wall(), self._latest_wall_s, self._boots)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._true_s += seconds
        self._note_wall()

    def jump(self, seconds: float) -> None:
        """Set the wall clock, forwards or back; no time passes."""
        self._wall_ahead_s += seconds
        self._note_wall()

    def reboot(self) -> None:
        """Boot the machine, which takes a while."""
        self._true_s += 15.0
        self._booted_s = self._true_s - 1.0
        self._boots += 1
        self._note_wall()

    def _note_wall(self) -> None:
        self._latest_wall_s = max(self._latest_wall_s, self.wall())
