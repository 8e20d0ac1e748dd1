"""What a plugin measured, taken apart. Pure: knows the plugins' performance data, not who wants it."""

from __future__ import annotations

import re

#: One metric as nearly all plugins write it: no quotes, no blanks, a plain number. What it takes, the careful way takes
#: too, with the same result.
_COMMON = re.compile(r"\s*([^'=\s]+)=([-+]?[0-9]+(?:\.[0-9]*)?)[^;0-9\s]*(?:;\S*)?(?!\S)", re.ASCII)
_BLANKS = re.compile(r"\s*", re.ASCII)
_WORD = re.compile(r"\S+", re.ASCII)
#: A quote in a label is doubled.
_QUOTED = re.compile(r"'((?:[^']|'')*)'=(\S*)", re.ASCII)
_VALUE = re.compile(r"([-+]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?)[^;0-9]*(?:;|\Z)", re.ASCII)
_UNKNOWN = re.compile(r"U[^;]*(?:;|\Z)")

Metric = tuple[str, str]
"""A label and the bare number."""


def parse_perfdata(text: str) -> tuple[list[Metric], list[str]]:
    """Return (metrics, what has no number) of `'label'=value[unit];warning;critical;minimum;maximum ...`.

    Unit and thresholds are left out, a decimal comma becomes a point, and an unknown value (`U`) is no metric. The work
    grows with the length of `text` alone, whatever it holds.
    """
    metrics: list[Metric] = []
    bad: list[str] = []
    at, equals, length = 0, -1, len(text)
    while at < length:
        found = _COMMON.match(text, at)
        if found:
            metrics.append((found[1], found[2]))
            at = found.end()
            continue
        at = _end_of(_BLANKS, text, at)
        if at == length:
            break
        if equals < at:
            # Looked for once, not for every word before it.
            equals = text.find("=", at)
            equals = length if equals < 0 else equals
        label, at_value = _label(text, at, equals)
        at_end = _end_of(_WORD, text, at_value)
        if label is None:
            bad.append(text[at:at_end])
        else:
            _take(label, text[at_value:at_end], metrics, bad)
        at = at_end
    return metrics, bad


def _label(text: str, at: int, equals: int) -> tuple[str | None, int]:
    """Return (label, where its value begins) of what stands at `at`; (None, `at`) where that is no metric."""
    if text[at] == "'":
        found = _QUOTED.match(text, at)
        return (found[1].replace("''", "'"), found.start(2)) if found else (None, at)
    if at < equals < len(text) and text[equals - 1] not in " \t\n\r\f\v":
        return text[at:equals], equals + 1
    return None, at


def _take(label: str, rest: str, metrics: list[Metric], bad: list[str]) -> None:
    found = _VALUE.match(rest)
    if found and not (label.isascii() and label.isspace()) and label:
        metrics.append((label, found[1].replace(",", ".")))
    elif not _UNKNOWN.match(rest):
        bad.append(f"{label}={rest}")


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
