"""Random input, case by case: which input makes which error. Knows seeds and findings, not what is tried."""

from __future__ import annotations

import random
import resource
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

#: What one case may take; a slower one is a finding.
CASE_S = 5.0
#: What all cases may add to the process's memory.
GROWTH_MB = 150.0

Case = Callable[[random.Random], int]
"""Tries one input and returns how many it held (lines, frames). Anything that it raises is a finding."""


class Finding(NamedTuple):
    """One kind of error, and the first case that has shown it."""

    seed: int
    number: int
    text: str
    count: int


class Outcome(NamedTuple):
    """What came of many cases."""

    name: str
    tried: int
    findings: list[Finding]
    longest_s: float
    growth_mb: float

    def __str__(self) -> str:
        return (
            f"fuzz {self.name}: {self.tried} tried, {len(self.findings)} kinds of errors, longest case "
            f"{self.longest_s * 1000:.0f} ms, {self.growth_mb:.0f} MB more"
        )


def chance_of(seed: int, number: int) -> random.Random:
    """Return what decides case `number`: each can be tried alone."""
    return random.Random(seed * 1_000_003 + number)


def fuzz(name: str, case: Case, seed: int, count: int, first: int = 0) -> Outcome:
    """Try cases from number `first` on until they held `count` inputs in all."""
    found: dict[str, Finding] = {}
    tried, number, longest_s, before_mb = 0, first, 0.0, _peak_mb()
    while tried < count:
        began_s = time.monotonic()
        try:
            tried += max(1, case(chance_of(seed, number)))
        except Exception as exc:  # noqa: BLE001 - to find any is what this is for
            tried += 1
            _note(found, seed, number, exc)
        took_s = time.monotonic() - began_s
        longest_s = max(longest_s, took_s)
        if took_s > CASE_S:
            _note(found, seed, number, TimeoutError(f"case took {took_s:.1f} s"))
        number += 1
    growth_mb = _peak_mb() - before_mb
    if growth_mb > GROWTH_MB:
        _note(found, seed, number, MemoryError(f"{growth_mb:.0f} MB more than before, expected at most {GROWTH_MB:g}"))
    return Outcome(name, tried, list(found.values()), longest_s, growth_mb)


def _note(found: dict[str, Finding], seed: int, number: int, exc: BaseException) -> None:
    frames = traceback.extract_tb(exc.__traceback__)
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    key = f"{type(exc).__name__} {place}"
    known = found.get(key)
    text = known.text if known else f"{key}: {exc!s:.200}"
    first_seed, first_number = (known.seed, known.number) if known else (seed, number)
    found[key] = Finding(first_seed, first_number, text, known.count + 1 if known else 1)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
