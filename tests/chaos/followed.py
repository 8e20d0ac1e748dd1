"""A followed file under kills: whatever ends the process, position and lines are from the same transaction.

    python -m tests.chaos.followed DIRECTORY SEED LIVES [keep|remove|punch] [full|normal]

A writer appends numbered lines, in parts of lines, and renames its file now and then. Meanwhile one life of journal and
follower comes after the other, each a fork of this process that is killed at a named point or at any moment. After each
the journal is looked at from outside; in the end it must have every line once and in order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.chaos import points
from tests.chaos.controls import Controls

#: A line's number is found in its text.
_LINE = "event|{number}|host|service|OK|{text}\n"
_LIFE_S = 0.6
_END_S = 60.0


class Broken(AssertionError):
    """Raised when a line is missing, is there twice, or the position is not behind the last one."""


def main(directory: Path, seed: int, lives: int, reclaim: str = "keep", synchronous: str = "full") -> str:
    """Run it all; return what happened, in one line. Raises `Broken`."""
    chance = random.Random(seed)
    controls = Controls(directory / "controls")
    controls.disarm()
    points.install(controls)
    path, journal = directory / "perf", directory / "backup.sqlite"
    first = _forked(lambda: live(path, journal, reclaim, synchronous))
    _wait_for_mark(journal)
    _has_died(first, 0)
    writer = _forked(lambda: write(path, random.Random(seed + 1), lives))
    kills = 0
    for _ in range(lives):
        life = _forked(lambda: live(path, journal, reclaim, synchronous))
        if chance.random() < 0.7:
            point = chance.choice(points.FOLLOWING + points.PUBLISHING[:7])
            controls.arm(points.number(point.name), chance.randint(1, 6))
            kills += _has_died(life, _LIFE_S)
            controls.disarm()
        else:
            kills += _has_died(life, chance.uniform(0.02, _LIFE_S))
        check(path, journal)
    os.waitpid(writer, 0)
    expected = json.loads((directory / "written").read_text())
    life = _forked(lambda: live(path, journal, reclaim, synchronous))
    deadline_s = time.monotonic() + _END_S
    while check(path, journal) < expected and time.monotonic() < deadline_s:
        time.sleep(0.05)
    _has_died(life, 0)
    if (found := check(path, journal)) != expected:
        raise Broken(f"{found} of {expected} lines are in the journal")
    return f"seed {seed}: {expected} lines, {lives} lives, {kills} kills, {controls.deaths:.0f} of them at a point"


def _wait_for_mark(journal: Path) -> None:
    """What is written before a path was ever looked at is nobody's promise."""
    deadline_s = time.monotonic() + _END_S
    while time.monotonic() < deadline_s:
        try:
            with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
                if reader.execute("SELECT 1 FROM vigiloconn_kept").fetchone():
                    return
        except sqlite3.OperationalError:
            pass  # there are no tables yet
        time.sleep(0.01)
    raise Broken("no mark is kept")


def write(path: Path, chance: random.Random, lives: int) -> None:
    """Append lines for about as long as the lives take."""
    number = 0
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    end_s = time.monotonic() + lives * _LIFE_S / 2
    while time.monotonic() < end_s:
        lines = b""
        for _ in range(chance.choice([1, 1, 3, 50, 400])):
            text = "x" * chance.choice([0, 10, 300])
            lines += _LINE.format(number=number, text=text).encode()
            number += 1
        cut = chance.randrange(len(lines))
        os.write(file, lines[:cut])
        time.sleep(chance.choice([0, 0.001, 0.02]))
        os.write(file, lines[cut:])
        if chance.random() < 0.03:
            _rotate(path)
            # A writer may go on in the old file for a moment.
            if chance.random() < 0.5:
                os.write(file, _LINE.format(number=number, text="late").encode())
                number += 1
            os.close(file)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        time.sleep(chance.choice([0, 0.002, 0.03]))
    path.with_name("written").write_text(str(number))


def _rotate(path: Path) -> None:
    count = sum(1 for _ in path.parent.glob("perf.*"))
    for at in range(count + 1, 0, -1):
        older = path.with_name(f"perf.{at}")
        if older.exists():
            older.rename(path.with_name(f"perf.{at + 1}"))
    path.rename(path.with_name("perf.1"))


def live(path: Path, journal: Path, reclaim: str, synchronous: str) -> None:
    """Be one life of journal and follower; there is no bus."""
    from gevent import monkey

    monkey.patch_all()
    from vigiloconn.handlers.backup import backupprovider_factory
    from vigiloconn.handlers.follow import filefollowers_factory
    from vigiloconn.options import parse_settings
    from vigiloconn.supervisor import Supervisor

    settings = parse_settings(
        f"[connector]\nbackup_file = {journal}\nsynchronous = {synchronous}\n"
        f"[connector-nagios]\nfollow = {path}\nfollow_reclaim = {reclaim}\n"
    )
    provider = backupprovider_factory(settings)
    supervisor = Supervisor()
    for part in (provider, *filefollowers_factory(settings, provider)):
        supervisor.add(part)
    supervisor.run()


def check(path: Path, journal: Path) -> int:
    """Return how many lines the journal has. Raises `Broken` where they are not the first ones, each once, or where
    the position is not right behind the last of them."""
    if not journal.exists():
        return 0
    with closing(sqlite3.connect(journal)) as reader, reader:
        try:
            # In one transaction, or a commit may come in between.
            reader.execute("BEGIN")
            bodies = reader.execute("SELECT msg FROM tobus ORDER BY id").fetchall()
            kept = reader.execute("SELECT text FROM vigiloconn_kept WHERE name LIKE 'follow:%'").fetchall()
        except sqlite3.OperationalError:
            return 0  # killed before it had tables
    numbers = [int(json.loads(body)["timestamp"]) for (body,) in bodies]
    if numbers != list(range(len(numbers))):
        wrong = next(at for at, number in enumerate(numbers) if number != at)
        raise Broken(f"line {wrong}: {numbers[wrong - 2:wrong + 3]}")
    if kept:
        _check_position(path, json.loads(kept[0][0]), len(numbers))
    elif numbers:
        raise Broken("lines and no position")
    return len(numbers)


def _check_position(path: Path, mark: dict[str, int], lines: int) -> None:
    for each in path.parent.glob("perf*"):
        try:
            if each.stat().st_ino == mark["inode"] and mark["position"]:
                with open(each, "rb") as file:
                    file.seek(max(0, mark["position"] - 1000))
                    before = file.read(min(1000, mark["position"]))
                last = int(before[:-1].rpartition(b"\n")[2].split(b"|")[1])
                if last != lines - 1:
                    raise Broken(f"the position is behind line {last}, the journal has {lines} lines")
        except FileNotFoundError:
            pass  # the writer renames


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def _has_died(child: int, after_s: float) -> bool:
    """Wait for a life; kill it when it has lasted long enough. True when it ended by a kill."""
    deadline_s = time.monotonic() + after_s
    while time.monotonic() < deadline_s:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if not os.WIFSIGNALED(status):
                raise Broken(f"a life ended by itself: status {status}")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
