"""Looks into a running connector's journal file: what they may cost, however often they are asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import accumulate, cycle
from pathlib import Path

from vigiloconn.control.lookout import JournalFile
from vigiloconn.journal.tables import PREFIX


class Parked:
    """A journal's file with the tables that a look reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run(
            f"CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TEXT);"
            f"CREATE TABLE {PREFIX}boot (number INTEGER, boot_id TEXT);"
            f"CREATE TABLE {PREFIX}accepted (first_id INTEGER, accepted_at REAL, boot INTEGER, boot_s REAL);"
            f"CREATE TABLE {PREFIX}held (id INTEGER, exchange TEXT, accepted_at REAL, boot INTEGER, boot_s REAL);"
            f"CREATE TABLE {PREFIX}parked (id INTEGER, exchange TEXT, reason TEXT, parked_at REAL);"
        )

    def park(self) -> None:
        self._run(f"INSERT INTO {PREFIX}parked VALUES (1, 'event', 'nobody', 0)")

    def _run(self, script: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.executescript(script)
        connection.close()


class Looks:
    """A file that is looked into; each look takes `cost_s` of CPU."""

    def __init__(self, path: Path, cost_s: float) -> None:
        self.now_s = 0.0
        cpu: Iterator[float] = accumulate(cycle((0.0, cost_s)))
        self._file = JournalFile(path, "tobus", lambda: self.now_s, with_parked=True, cpu_clock=lambda: next(cpu))

    def parked_after(self, passed_s: float) -> int:
        self.now_s += passed_s
        return sum(kind.messages for kind in self._file.seen(0.0, 10.0).parked)


def test_a_dear_look_is_not_made_again_before_a_hundred_times_its_cost_has_passed(tmp_path: Path) -> None:
    journal = Parked(tmp_path / "backup.sqlite")
    journal.park()
    looks = Looks(journal.path, cost_s=0.5)
    assert looks.parked_after(0.0) == 1
    journal.park()
    assert looks.parked_after(49.0) == 1
    assert looks.parked_after(2.0) == 2


def test_a_cheap_look_is_made_each_time(tmp_path: Path) -> None:
    journal = Parked(tmp_path / "backup.sqlite")
    journal.park()
    looks = Looks(journal.path, cost_s=0.005)
    assert looks.parked_after(0.0) == 1
    journal.park()
    assert looks.parked_after(0.1) == 2
