"""Ages of messages: by a clock that does not jump, in memory, in the file and across a reboot."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.support.cycle import EVENT, Crank
from vigiloconn.interfaces import Record
from vigiloconn.journal.clock import JournalClock, read_boot_id, seconds_since_boot
from vigiloconn.journal.store import SCHEMA_VERSION

DAY_S = 86_400.0
#: What version 1 made of the side tables.
VERSION_1 = """
    CREATE TABLE "tobus" ("id" INTEGER PRIMARY KEY, "msg" TXT);
    CREATE TABLE "vigiloconn_meta" ("key" TEXT NOT NULL PRIMARY KEY, "value" TEXT NOT NULL);
    CREATE TABLE "vigiloconn_accepted" ("first_id" INTEGER PRIMARY KEY, "accepted_at" REAL NOT NULL);
    CREATE TABLE "vigiloconn_held" (
        "id" INTEGER PRIMARY KEY, "exchange" TEXT NOT NULL, "msg" TEXT NOT NULL, "accepted_at" REAL NOT NULL);
    CREATE INDEX "held_exchange" ON "vigiloconn_held" ("exchange");
    CREATE TABLE "vigiloconn_parked" (
        "seq" INTEGER PRIMARY KEY, "id" INTEGER NOT NULL, "exchange" TEXT NOT NULL, "reason" TEXT NOT NULL,
        "msg" TEXT NOT NULL, "parked_at" REAL NOT NULL);
    CREATE UNIQUE INDEX "parked_id" ON "vigiloconn_parked" ("id");
    INSERT INTO tobus VALUES (4, '{"type":"event","n":4}'), (5, '{"type":"event","n":5}');
    INSERT INTO vigiloconn_accepted VALUES (1, 1000.0), (5, 1500.0);
    INSERT INTO vigiloconn_held VALUES (2, 'x', '{"type":"event","n":2}', 1000.0);
    INSERT INTO vigiloconn_parked VALUES (1, 1, 'x', 'why', '{"type":"event","n":1}', 1600.0);
    INSERT INTO vigiloconn_meta VALUES
        ('rows', '3'), ('size_bytes', '66'), ('last_used_id', '7'), ('first_id', '4'), ('last_id', '5'),
        ('schema', '1'), ('uuid', 'abc'), ('running', '0');
"""


class Clocks:
    """Both clocks of a machine, by hand."""

    def __init__(self) -> None:
        self.wall_s = 1_000_000.0
        self.boot_s: float | None = 100.0

    def clock(self, boot_id: str = "this boot") -> JournalClock:
        return JournalClock(lambda: self.wall_s, lambda: self.boot_s, lambda: boot_id)


def record(clock: JournalClock) -> Record:
    return Record(1, EVENT, b"{}", *clock.now())


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_an_age_is_not_moved_by_a_step_of_the_wall_clock(step_s: float) -> None:
    clocks = Clocks()
    clock = clocks.clock()
    message = record(clock)
    clocks.boot_s = 103.0
    clocks.wall_s += step_s
    assert clock.age_s(message) == 3.0


def test_where_the_boot_is_not_known_the_wall_clock_tells_and_never_less_than_nothing() -> None:
    clocks = Clocks()
    clock = clocks.clock(boot_id="")
    message = record(clock)
    assert message.boot_s is None
    clocks.boot_s = 900.0
    clocks.wall_s += 3.0
    assert clock.age_s(message) == 3.0
    clocks.wall_s -= DAY_S
    assert clock.age_s(message) == 0.0


def test_a_kernel_without_that_clock_leaves_the_wall_clock() -> None:
    clocks = Clocks()
    clocks.boot_s = None
    clock = clocks.clock()
    message = record(clock)
    clocks.wall_s += 5.0
    assert clock.age_s(message) == 5.0


def test_this_machine_has_both_the_clock_and_the_boots_id() -> None:
    assert (seconds_since_boot() or 0.0) > 0.0
    assert len(read_boot_id()) == 36


def ages(crank: Crank) -> list[float]:
    return [round(crank.provider.age_s(record)) for record in crank.take()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


def two_ages(path: Path) -> Crank:
    """Accept one message, and 10 s later another, while the wall clock steps a day forward; close."""
    crank = Crank(path)
    crank.put()
    crank.provider.cycle()
    crank.boot.now_s += 10.0
    crank.wall.now_s += DAY_S
    crank.put()
    crank.provider.cycle()
    crank.close()
    return crank


def again(path: Path, before: Crank, boot_id: str = "this boot") -> Crank:
    crank = Crank(path, boot_id=boot_id)
    crank.boot.now_s, crank.wall.now_s = before.boot.now_s, before.wall.now_s
    return crank


def test_what_a_restart_reads_back_has_its_age_by_the_same_clock(path: Path) -> None:
    crank = again(path, two_ages(path))
    crank.boot.now_s += 5.0
    crank.wall.now_s -= DAY_S
    assert ages(crank) == [15, 5]
    crank.close()


def test_after_a_reboot_the_wall_clock_tells(path: Path) -> None:
    crank = again(path, two_ages(path), boot_id="another boot")
    crank.boot.now_s = 20.0
    crank.wall.now_s += 5.0
    assert ages(crank) == [DAY_S + 5, 5]
    crank.put()
    crank.provider.cycle()
    crank.boot.now_s += 7.0
    assert ages(crank) == [7], "of two messages of one second, one of each boot, each has its own range"
    crank.close()


def test_held_messages_keep_their_age_through_a_restart_and_a_reboot(path: Path) -> None:
    crank = Crank(path)
    crank.put()
    crank.provider.cycle()
    crank.provider.hold("x", crank.take())
    crank.provider.cycle()
    crank.close()
    for boot_id, step_s, age_s in (("this boot", DAY_S, 30), ("another boot", 40.0, 40)):
        crank = again(path, crank, boot_id)
        crank.boot.now_s = 5_030.0
        crank.wall.now_s = 1_000_000.0 + step_s
        crank.provider.ask_held("x", 0)
        crank.provider.cycle()
        [held] = crank.provider.take_held("x") or []
        assert (crank.provider.age_s(held), held.accepted_at) == (age_s, 1_000_000.0)
        crank.close()


def test_messages_of_one_second_share_a_range_and_a_step_of_either_clock_begins_another(path: Path) -> None:
    crank = Crank(path)
    for boot_step_s, wall_step_s in ((0.0, 0.0), (0.5, 0.5), (0.2, 60.0), (1.0, 1.0), (0.1, -60.0)):
        crank.boot.now_s += boot_step_s
        crank.wall.now_s += wall_step_s
        crank.put()
        crank.provider.cycle()
    with sqlite3.connect(path) as reader:
        ranges = reader.execute("SELECT first_id, boot_s FROM vigiloconn_accepted ORDER BY first_id").fetchall()
    reader.close()
    assert [first for first, _ in ranges] == [1, 3, 4, 5]
    assert [boot_s for _, boot_s in ranges] == pytest.approx([5000.0, 5000.7, 5001.7, 5001.8])
    crank.close()


def test_a_file_of_version_1_is_taken_over_with_its_messages_times_and_id(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(VERSION_1)
    old.close()
    crank = Crank(path)
    crank.wall.now_s = 2000.0
    assert (crank.journal.uuid, crank.journal.next_id, crank.journal.rows) == ("abc", 8, 3)
    assert (crank.held("x"), crank.parked()) == ([2], [1])
    assert ages(crank) == [1000, 500]
    crank.provider.ask_held("x", 0)
    crank.provider.cycle()
    [held] = crank.provider.take_held("x") or []
    assert crank.provider.age_s(held) == 1000
    crank.put()
    crank.provider.cycle()
    crank.boot.now_s += 3.0
    crank.wall.now_s += DAY_S
    [new] = crank.take()
    assert (crank.provider.age_s(new), new.id) == (3, 8)
    crank.provider.hold("x", [new])
    crank.provider.cycle()
    assert crank.held("x") == [2, 8]
    crank.close()
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT value FROM vigiloconn_meta WHERE key = 'schema'").fetchone() == ("3",)
        assert SCHEMA_VERSION == 3
        assert reader.execute("SELECT * FROM tobus").fetchall() == [
            (4, '{"type":"event","n":4}'), (5, '{"type":"event","n":5}'),
        ]  # fmt: skip
    reader.close()
