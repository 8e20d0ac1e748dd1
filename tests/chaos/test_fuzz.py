"""A little of the fuzz of `make chaos`: some thousand inputs of each kind."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.chaos.fuzz import Case, fuzz
from tests.support.connector import ROOT


def run(name: str, count: int) -> str:
    """Return what the program says; what it has found is in lines that begin with `  ! `."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzzing", "--seed=1", f"--count={count}", f"--only={name}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )
    assert f"fuzz {name}: " in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "count"), [("lines", 10_000), ("settings", 1500), ("messages", 5000), ("frames", 3000)]
)
def test_random_input_makes_no_error_but_those_that_are_declared(name: str, count: int) -> None:
    said = run(name, count)
    assert "  ! " not in said, said


def test_finding_names_the_first_case_that_shows_it_and_counts_the_others() -> None:
    def fails(chance: object) -> int:
        raise ZeroDivisionError("told to")

    outcome = fuzz("zeros", fails, seed=3, count=4, first=7)
    [found] = outcome.findings
    assert (found.seed, found.number, found.count) == (3, 7, 4)
    assert "ZeroDivisionError" in found.text


def test_case_can_be_tried_alone() -> None:
    seen: list[float] = []

    def note(chance: object) -> int:
        seen.append(chance.random())  # type: ignore[attr-defined]
        return 1

    case: Case = note
    fuzz("any", case, seed=3, count=5)
    fuzz("any", case, seed=3, count=1, first=4)
    assert seen[4] == seen[5]
