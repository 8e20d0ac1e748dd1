"""Durations and sizes as people say them. Pure."""

from __future__ import annotations

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def span(seconds: float) -> str:
    """Return a duration in words: `0.3 s`, `42 s`, `3 min 5 s`, `2 d 4 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for at, (unit_s, name) in enumerate(_UNITS):
        if whole >= unit_s:
            number, rest = divmod(whole, int(unit_s))
            below_s, below = (*_UNITS, (1.0, "s"))[at + 1]
            smaller = int(rest // below_s)
            return f"{number} {name} {smaller} {below}" if smaller else f"{number} {name}"
    return f"{whole} s"


def size(number: float) -> str:
    """Return bytes in words: `512 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
