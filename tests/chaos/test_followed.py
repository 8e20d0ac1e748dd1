"""A followed file under kills, in short; see `tests/chaos/followed.py`."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import followed
from tests.support.connector import ROOT


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: it forks, and pytest has threads.
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos.followed", directory, *arguments], cwd=ROOT, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("ways", [("1", "7", "punch", "normal"), ("2", "7", "remove", "full")])
def test_after_kills_at_any_moment_every_line_is_there_once_and_the_position_is_behind_the_last(
    ways: tuple[str, ...], tmp_path: Path
) -> None:
    done = _run(tmp_path, *ways)
    assert done.returncode == 0, done.stdout
    assert "7 kills" in done.stdout


@pytest.mark.parametrize(("numbers", "position", "complaint"), [
    ([0, 2], 0, "line 1"), ([0, 1, 1], 0, "line 2"), ([0, 1], 1, "the position is behind line 0, the journal has 2"),
    ([0], 2, "the position is behind line 1, the journal has 1"),
])  # fmt: skip
def test_the_judge_sees_a_line_that_is_missing_or_there_twice_and_a_wrong_position(
    numbers: list[int], position: int, complaint: str, tmp_path: Path
) -> None:
    path, journal = tmp_path / "perf", tmp_path / "journal"
    path.write_text("event|0|x\nevent|1|x\n")
    with sqlite3.connect(journal) as file:
        file.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
        file.execute("CREATE TABLE vigiloconn_kept (name TEXT PRIMARY KEY, text TEXT)")
        file.executemany("INSERT INTO tobus (msg) VALUES (?)", [(json.dumps({"timestamp": n}),) for n in numbers])
        mark = json.dumps({"inode": path.stat().st_ino, "position": 10 * position})
        file.execute("INSERT INTO vigiloconn_kept VALUES ('follow:/perf', ?)", (mark,))
    file.close()
    with pytest.raises(followed.Broken, match=complaint):
        followed.check(path, journal)
