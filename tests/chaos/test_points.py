"""The points at which the connector can be made to die are where the table says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.controls import Controls
from tests.chaos.points import POINTS, SLOW_COMMIT, Point, find, number
from tests.support.connector import ROOT

_PROGRAM = """
import sys
from pathlib import Path
from tests.chaos import points
from tests.chaos.controls import Controls
from vigiloconn.journal.store import DbRetry

points.install(Controls(Path(sys.argv[1])))
for turn in range(3):
    journal = DbRetry(sys.argv[2])
    journal.open()
    journal.close()
    print(turn, flush=True)
"""


@pytest.mark.parametrize("point", [*POINTS, SLOW_COMMIT], ids=lambda point: point.name)
def test_every_point_is_there(point: Point) -> None:
    owner, method = find(point)
    assert callable(getattr(owner, method))


def test_point_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match=r"point 'gone': vigiloconn\.journal\.store:DbRetry\.no_such is not there"):
        find(Point("gone", "before", "vigiloconn.journal.store:DbRetry.no_such"))


def test_names_are_unique() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS)


@pytest.mark.parametrize(("passages", "turns"), [(1, 0), (3, 2), (4, 3)])
def test_process_dies_at_the_passage_that_was_asked_for(passages: int, turns: int, tmp_path: Path) -> None:
    controls = Controls(tmp_path / "controls")
    controls.arm(number("journal opened"), passages)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, tmp_path / "controls", tmp_path / "journal"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.stdout.split() == [str(turn) for turn in range(turns)]
    assert done.returncode == (-signal.SIGKILL if turns < 3 else 0)
    assert controls.deaths == (1 if turns < 3 else 0)
