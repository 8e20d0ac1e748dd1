"""A followed file into a real journal, without a broker: each line once, the position with its lines, never alone."""

from __future__ import annotations

import ctypes
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from tests.support.cycle import Crank
from vigiloconn.errors import SettingsError, StartError
from vigiloconn.handlers import follow as module
from vigiloconn.handlers.backup import backupprovider_factory
from vigiloconn.handlers.follow import FileFollower, filefollowers_factory
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction
from vigiloconn.options import parse_settings
from vigiloconn.sources import pieces, reclaim, rotated
from vigiloconn.sources.identity import Mark, parse_mark
from vigiloconn.supervisor import Supervisor


def line(number: int, size: int = 0) -> bytes:
    return b"event|%d|host|service|OK|%s\n" % (number, b"x" * size)


class House:
    """A journal and a follower, turned by hand; `restart()` is the next process on the same files."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.path = directory / "perf"
        self._journal = directory / "backup.sqlite"
        self._options = options
        self.start()

    def start(self) -> None:
        self.crank = Crank(self._journal)
        self.follower = FileFollower(
            str(self.path), self.crank.provider, boot_id="boot", monotonic=self.crank.monotonic, **self._options
        )  # type: ignore[arg-type]
        self.follower.start_service()

    def add(self, *numbers: int, size: int = 0) -> None:
        with open(self.path, "ab") as file:
            file.writelines(line(number, size) for number in numbers)

    def turn(self) -> None:
        """Take what is there, and let it be accepted."""
        for _ in range(20):
            has_taken = self.take()
            self.crank.provider.cycle()
            self.follower.give_back()
            self.crank.monotonic.now_s += 1.0
            if not (has_taken or self.follower._on_its_way or self.follower._trail._second_look_s):
                return
        raise AssertionError("it comes to no end")

    def take(self) -> bool:
        """Take what is there as far as one turn goes."""
        taking = gevent.spawn(self.follower.take)
        gevent.sleep(0)
        while not taking.ready():
            # There is more than the intake holds: it waits for the journal.
            self.crank.provider.cycle()
            gevent.sleep(0)
        return bool(taking.get())

    def stop(self) -> None:
        self.follower.close()
        self.crank.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """End it without a word; what was put and is not committed is gone."""
        self.follower.close()
        self.crank.journal._database.close()
        self.crank.journal._lock.release()
        self.start()

    def numbers(self) -> list[int]:
        """Return the numbers of the lines in the journal, in its order."""
        with sqlite3.connect(self._journal) as reader:
            rows = reader.execute("SELECT json_extract(msg, '$.timestamp') FROM tobus ORDER BY id").fetchall()
        reader.close()
        return [int(row[0]) for row in rows]

    def position(self) -> int:
        return self.mark().position

    def mark(self) -> Mark:
        with sqlite3.connect(self._journal) as reader:
            kept = "SELECT text FROM vigiloconn_kept WHERE name = ?"
            rows = reader.execute(kept, (f"follow:{self.path}",)).fetchall()
        reader.close()
        mark = parse_mark(rows[0][0])
        assert mark is not None
        return mark


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.stop()


def test_datasources_of_records_carry_their_service_where_the_settings_say_so(tmp_path: Path) -> None:
    path = tmp_path / "perf"
    settings = parse_settings(
        f"[connector]\nbackup_file = {tmp_path}/backup.sqlite\n[connector-nagios]\nfollow = {path}\n"
        "follow_with_service = True\n"
    )
    path.write_bytes(b"DATATYPE::SERVICEPERFDATA\tTIMET::1\tHOSTNAME::h\tSERVICEDESC::S\tSERVICEPERFDATA::a=1\n")
    crank = Crank(tmp_path / "backup.sqlite")
    (follower,) = filefollowers_factory(settings, crank.provider)
    follower.start_service()
    while follower.take():
        crank.provider.cycle()
    follower.close()
    crank.close()
    with closing(sqlite3.connect(tmp_path / "backup.sqlite")) as reader:
        assert reader.execute("SELECT json_extract(msg, '$.datasource') FROM tobus").fetchall() == [("S-a",)]


def test_lines_are_accepted_with_the_position_behind_them(house: House) -> None:
    house.add(1, 2)
    house.turn()
    assert (house.numbers(), house.position()) == ([1, 2], house.path.stat().st_size)
    house.restart()
    house.add(3)
    house.turn()
    assert house.numbers() == [1, 2, 3]


def test_after_a_kill_what_was_not_committed_is_taken_again_and_nothing_twice(house: House) -> None:
    house.add(1)
    house.turn()
    house.add(2)
    assert house.take()
    house.kill()
    house.turn()
    assert house.numbers() == [1, 2]


def test_the_position_moves_too_when_no_line_was_a_message(house: House) -> None:
    house.path.write_bytes(b"nonsense\n" * 3)
    house.turn()
    assert (house.numbers(), house.position(), house.follower.malformed) == ([], 27, 3)


def test_while_the_disk_is_full_lines_wait_in_the_file_whatever_their_policy(house: House) -> None:
    enough = house.crank.journal._space._free_bytes
    house.crank.journal._space._free_bytes = lambda directory: 0
    house.path.write_bytes(b"perf|1|h|load|1\n")
    house.take()
    house.crank.provider.cycle()
    assert house.follower.stats()["follow_position"] == 0
    assert house.follower.stats()["follow_lag_bytes"] == 16
    house.crank.monotonic.now_s += 5.0
    assert house.follower.stats()["follow_lag_s"] == 5.0
    house.crank.journal._space._free_bytes = enough
    house.turn()
    assert (house.position(), house.follower.stats()["follow_lag_bytes"]) == (16, 0)
    assert (house.crank.provider.stats()["dropped"], house.follower.stats()["follow_lag_s"]) == (0, 0.0)


def test_at_a_stop_with_a_full_journal_the_wait_for_room_ends_and_the_file_keeps_its_lines(house: House) -> None:
    house.crank.provider._intake.disk_is_full = True
    house.add(1)
    house.follower.supervisor = Supervisor()
    life = gevent.spawn(house.follower.run)
    gevent.sleep(0.01)
    assert not life.dead
    house.follower.stop_service()
    life.get(timeout=10)
    house.restart()
    house.turn()
    assert house.numbers() == [1]


def test_a_crash_between_two_lives_neither_loses_nor_repeats_a_line(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.add(1)
    with monkeypatch.context() as patched:
        patched.setattr(house.follower, "_count_bad", lambda piece, parsed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            house.take()
    house.add(2)
    house.turn()
    assert house.numbers() == [1, 2]


def test_what_a_reader_of_records_keeps_goes_with_the_position(house: House) -> None:
    fields = ("DATATYPE::HOSTPERFDATA\tTIMET::5\tHOSTNAME::h\tHOSTADDRESS::1.2.3.4\tHOSTSTATEID::1\tHOSTSTATE::DOWN\t"
              "HOSTSTATETYPE::HARD\tHOSTATTEMPT::1\tLASTHOSTSTATECHANGE::5\tLASTHOSTCHECK::5\tHOSTOUTPUT::x|\t"
              "HOSTPERFDATA::\tEND::1\n")  # fmt: skip
    house.path.write_text(fields)
    house.turn()
    assert house.crank.provider.kept("host:") == {"host:h": "1;HARD"}
    accepted = len(house.numbers())
    house.restart()
    with open(house.path, "a") as file:
        file.write(fields)
    house.turn()
    # The state, and no event any more: it was known before the start.
    assert len(house.numbers()) == accepted + 1


def test_a_rotation_is_followed_and_the_position_is_that_of_the_new_file(house: House) -> None:
    house.add(1, 2)
    house.turn()
    house.path.rename(house.path.with_name("perf.1"))
    house.add(3)
    house.turn()
    assert (house.numbers(), house.position()) == ([1, 2, 3], len(line(3)))
    house.restart()
    house.add(4)
    house.turn()
    assert house.numbers() == [1, 2, 3, 4]


def test_a_file_that_was_begun_is_known_before_anything_is_taken_from_it(house: House) -> None:
    house.add(1)
    house.turn()
    house.path.rename(house.path.with_name("perf.1"))
    house.path.write_bytes(b"event|2|no newline yet")
    house.turn()
    assert (house.mark().inode, house.position()) == (house.path.stat().st_ino, 0)


def test_what_comes_and_is_renamed_between_a_kill_and_a_start_is_read_though_nothing_was_read_before(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.turn()
    house.kill()
    house.add(1)
    house.path.rename(house.path.with_name("perf.1"))
    house.add(2)
    house.turn()
    assert (house.numbers(), caplog.records) == ([1, 2], [])


# Room.


def test_renamed_files_are_removed_when_they_are_done_and_what_was_taken_is_safe(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="remove")
    house.add(1)
    house.turn()
    old = house.path.with_name("perf.1")
    other = house.path.with_name("perf.0")
    house.path.rename(old)
    other.write_bytes(line(0))
    os.utime(other, (1, 1))
    house.add(2)
    house.turn()
    assert (old.exists(), other.exists(), house.path.exists()) == (False, True, True)
    assert house.numbers() == [1, 2]
    assert sorted(path.name for path in tmp_path.glob("perf*")) == ["perf", "perf.0"]
    house.stop()


def test_a_renamed_file_stays_until_the_journal_knows_of_its_successor(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="remove")
    house.add(1)
    house.turn()
    old = house.path.with_name("perf.1")
    house.path.rename(old)
    house.add(2)
    for _ in range(5):
        house.take()
        house.follower.give_back()
        house.crank.monotonic.now_s += 1.0
    assert (house.follower.path, old.exists()) == (str(house.path), True)
    house.turn()
    assert not old.exists()
    house.stop()


def test_a_file_that_was_done_when_the_process_was_killed_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, reclaim="remove")
    house.add(1)
    house.turn()
    old = house.path.with_name("perf.1")
    house.path.rename(old)
    house.add(2)
    with monkeypatch.context() as patched:
        patched.setattr(house.crank.provider, "is_synced", lambda: False)
        house.turn()
    assert (house.numbers(), old.exists()) == ([1, 2], True)
    house.kill()
    house.turn()
    assert not old.exists()
    # Nothing of it is left in the journal.
    house.add(3)
    house.turn()
    assert house.crank.provider.kept("followed:") == {}
    house.stop()


def test_a_number_that_came_back_does_not_remove_an_unread_file(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="remove")
    house.add(1)
    house.turn()
    old = house.path.with_name("perf.1")
    house.path.rename(old)
    house.add(2)
    house.crank.provider.is_synced = lambda: False  # type: ignore[method-assign]
    house.turn()
    # The same inode with other bytes in it, as a new file on the deleted one's number has them.
    old.write_bytes(line(7))
    house.kill()
    house.turn()
    assert old.exists()
    house.stop()


def test_a_file_that_is_renamed_again_as_it_is_removed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, reclaim="remove")
    house.add(1)
    house.turn()
    house.path.rename(house.path.with_name("perf.1"))
    house.add(2)
    listed = reclaim.rotated.renamed

    def late(path: str) -> list[rotated.Found]:
        monkeypatch.setattr(reclaim.rotated, "renamed", listed)
        return [each._replace(path=f"{each.path}.gone") for each in listed(path)]

    def arm() -> bool:
        monkeypatch.setattr(reclaim.rotated, "renamed", late)
        house.crank.provider.is_synced = lambda: True  # type: ignore[method-assign]
        return True

    house.crank.provider.is_synced = arm  # type: ignore[method-assign]
    house.turn()
    house.turn()
    assert sorted(path.name for path in tmp_path.glob("perf*")) == ["perf"]
    assert house.follower.problems() == []
    house.stop()


def blocks_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_what_was_taken_is_given_back_in_place_but_for_the_end_that_tells_which_file_it_is(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="punch")
    house.add(*range(3000), size=1000)
    size_bytes = house.path.stat().st_size
    house.turn()
    assert house.path.stat().st_size == size_bytes
    assert (64 << 10) <= blocks_bytes(house.path) <= (64 << 10) + (1 << 20) + 2 * 4096
    assert house.follower.reclaimed_bytes >= size_bytes - (64 << 10) - (1 << 20)
    house.kill()
    house.add(3000)
    house.turn()
    assert house.numbers() == list(range(3001))
    house.stop()


def test_what_was_written_since_the_file_was_emptied_is_not_given_back_before_it_is_read(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="punch")
    house.add(*range(2000), size=1000)
    while house.take():
        house.crank.provider.cycle()
    house.follower.reclaimed_bytes = 0
    house.follower._puncher = reclaim.Puncher()
    os.truncate(house.path, 0)
    house.add(*range(2000, 4900), size=1000)
    house.follower.give_back()
    assert house.follower.reclaimed_bytes == 0
    house.turn()
    assert house.numbers() == list(range(4900))
    assert house.follower.reclaimed_bytes >= 2900 * 1000 - (64 << 10) - (1 << 20)
    house.stop()


def test_a_file_that_was_emptied_is_given_back_from_its_beginning_again(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="punch")
    for start in (0, 3000):
        house.follower.reclaimed_bytes = 0
        house.add(*range(start, start + 3000), size=1000)
        house.turn()
        assert house.follower.reclaimed_bytes >= 3000 * 1000 - (64 << 10) - (1 << 20)
        os.truncate(house.path, 0)
        house.turn()
    assert house.numbers() == list(range(6000))
    house.stop()


def test_a_renamed_file_is_not_given_back_in_place_since_that_counts_as_writing(tmp_path: Path) -> None:
    house = House(tmp_path, reclaim="punch")
    # As much as the intake holds: none of it is accepted before the file is renamed.
    house.add(*range(1250), size=1000)
    old = house.path.with_name("perf.1")
    assert house.follower.take()
    house.path.rename(old)
    written_ns = old.stat().st_mtime_ns
    house.turn()
    assert (old.stat().st_mtime_ns, blocks_bytes(old) >= old.stat().st_size) == (written_ns, True)
    assert house.follower.problems() == []
    house.stop()


@pytest.mark.parametrize("way", ["remove", "punch"])
def test_nothing_is_given_back_before_what_was_taken_is_on_the_disk(tmp_path: Path, way: str) -> None:
    house = House(tmp_path, reclaim=way)
    house.crank.provider.is_synced = lambda: False  # type: ignore[method-assign]
    house.add(*range(3000), size=1000)
    house.turn()
    house.path.rename(house.path.with_name("perf.1"))
    house.add(1)
    house.turn()
    old = house.path.with_name("perf.1")
    assert blocks_bytes(old) >= old.stat().st_size
    house.stop()


def test_a_file_that_can_not_be_read_again_is_kept_and_followed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int, mark: Mark) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reclaim, "has_before", failing)
    house = House(tmp_path, reclaim="punch")
    house.add(*range(3000), size=1000)
    house.turn()
    assert house.numbers() == list(range(3000))
    assert "can't be read again: Input/output error" in house.follower.problems()[0].text
    house.stop()


def test_with_commits_that_are_not_synced_the_log_is_folded_before_anything_is_given_back(tmp_path: Path) -> None:
    journal = DbRetry(tmp_path / "j", synchronous="normal")
    journal.open()
    journal.apply(Transaction(kept={"a": "1"}))
    reader = sqlite3.connect(tmp_path / "j")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM vigiloconn_kept").fetchall()
    journal.apply(Transaction(kept={"a": "2"}))
    assert not journal.sync()
    reader.close()
    assert journal.sync()
    journal.close()
    volatile = DbRetry(":memory:")
    volatile.open()
    assert not volatile.sync()
    volatile.close()


def test_where_the_filesystem_can_not_give_back_it_is_said_once_and_all_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Without:
        @staticmethod
        def fallocate(*arguments: object) -> int:
            ctypes.set_errno(95)
            return -1

    monkeypatch.setattr(reclaim, "_libc", Without)
    house = House(tmp_path, reclaim="punch")
    for start in (0, 3000):
        house.add(*range(start, start + 3000), size=1000)
        house.turn()
    assert caplog.text.count("blocks can't be given back in place: Operation not supported") == 1
    [problem] = house.follower.problems()
    assert (problem.name, str(house.path) in problem.text) == ("follow-reclaim", True)
    assert house.numbers() == list(range(6000))
    house.stop()


# What is said.


def test_lines_that_are_too_long_or_torn_are_counted(house: House) -> None:
    house.path.write_bytes(b"x" * 70_000 + b"\n" + line(1) + b"event|2|torn")
    house.turn()
    house.path.rename(house.path.with_name("perf.1"))
    house.add(3)
    house.turn()
    figures = house.follower.stats()
    assert (figures["follow_too_long"], figures["follow_torn"], figures["follow_lines"]) == (1, 1, 2)
    assert house.numbers() == [1, 3]


def test_a_line_that_is_too_long_moves_the_position_by_itself(house: House) -> None:
    house.path.write_bytes(b"x" * 200_000 + b"\n")
    house.turn()
    assert (house.numbers(), house.position(), house.follower.too_long) == ([], 200_001, 1)


def test_a_file_that_is_missing_for_long_and_one_that_can_not_be_read_are_problems(house: House) -> None:
    house.turn()
    assert house.follower.problems() == []
    house.crank.monotonic.now_s += 100.0
    house.turn()
    assert [problem.name for problem in house.follower.problems()] == ["follow-missing"]
    house.path.mkdir()
    house.turn()
    [problem] = house.follower.problems()
    assert (problem.name, "found a directory" in problem.text) == ("follow-unreadable", True)
    house.path.rmdir()
    house.add(1)
    house.turn()
    assert (house.follower.problems(), house.numbers()) == ([], [1])


def test_a_file_that_was_compressed_too_soon_is_a_problem_until_it_is_taken_away(house: House) -> None:
    house.add(1)
    house.turn()
    house.follower.close()
    compressed = house.path.with_name("perf.1.gz")
    house.path.rename(compressed)
    os.utime(compressed)
    house.add(2)
    house.restart()
    house.turn()
    [problem] = house.follower.problems()
    assert (problem.name, str(compressed) in problem.text) == ("follow-compressed", True)
    compressed.unlink()
    assert (house.follower.problems(), house.numbers()) == ([], [1, 2])


def test_a_file_that_can_not_be_read_on_is_tried_again_from_where_it_was(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    house.add(1)
    house.turn()
    house.add(2)
    with monkeypatch.context() as patched:
        patched.setattr(pieces.os, "pread", fail)
        assert not house.take()
    [problem] = house.follower.problems()
    assert "can't be read: Input/output error; tried again" in problem.text
    house.turn()
    assert (house.follower.problems(), house.numbers()) == ([], [1, 2])


def test_a_path_that_leads_to_a_directory_or_a_fifo_does_not_start(house: House) -> None:
    os.mkfifo(house.path)
    with pytest.raises(StartError, match=f"followed file {house.path}: expected a file .* found a FIFO: name another"):
        house.follower.start_service()


def test_a_kept_position_that_can_not_be_read_is_said_and_the_file_is_read_from_its_beginning(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.add(1)
    house.turn()
    house.crank.journal._kept[f"follow:{house.path}"] = "nonsense"
    house.follower.start_service()
    assert "can't be read: it is read from its beginning" in caplog.text


# With its greenlet.


def test_a_line_that_is_written_is_noticed_without_a_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 1000.0)
    path = tmp_path / "perf"
    settings = parse_settings(f"[connector]\nbackup_file = {tmp_path}/b\n[connector-nagios]\nfollow = {path}\n")
    provider = backupprovider_factory(settings)
    [follower] = filefollowers_factory(settings, provider)
    supervisor = Supervisor()
    supervisor.add(provider)
    supervisor.add(follower)
    running = gevent.spawn(supervisor.run)
    with gevent.Timeout(20):
        while follower._missing_since_s is None:
            gevent.sleep(0.01)
        for number in range(3):
            with open(path, "ab") as file:
                file.write(line(number))
            while provider.accepted <= number:
                gevent.sleep(0.01)
        supervisor.stop()
        running.join()
    assert follower.lines == 3


def test_a_line_in_the_file_that_a_link_leads_to_by_now_is_noticed_without_a_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 1000.0)
    link, files = tmp_path / "link", [tmp_path / "first", tmp_path / "second"]
    settings = parse_settings(f"[connector]\nbackup_file = {tmp_path}/b\n[connector-nagios]\nfollow = {link}\n")
    provider = backupprovider_factory(settings)
    [follower] = filefollowers_factory(settings, provider)
    supervisor = Supervisor()
    supervisor.add(provider)
    supervisor.add(follower)
    for at, file in enumerate(files):
        file.write_bytes(line(2 * at))
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        if at == 0:
            running = gevent.spawn(supervisor.run)
        with gevent.Timeout(20):
            while provider.accepted <= 2 * at:
                # In place of the poll, which finds the other file.
                follower._wake.set()
                gevent.sleep(0.01)
            while follower._wake.is_set():
                gevent.sleep(0.01)
            with file.open("ab") as appended:
                appended.write(line(2 * at + 1))
            while provider.accepted <= 2 * at + 1:
                gevent.sleep(0.01)
    supervisor.stop()
    running.join()
    assert follower.lines == 4


# Settings.


def test_a_custom_connector_names_its_files_in_its_own_section() -> None:
    settings = parse_settings("[connector-x]\nfollow = /a, /b\nfollow_reclaim = punch\nother = 1\n", connector="x")
    assert (settings.nagios.follow, settings.nagios.follow_reclaim) == (("/a", "/b"), "punch")
    with pytest.raises(SettingsError, match=r"\[connector-x\] follow: expected absolute paths, got 'a'"):
        parse_settings("[connector-x]\nfollow = a\n", connector="x")


@pytest.mark.parametrize(("text", "why"), [
    ("follow = relative\n", "expected absolute paths"), ("follow = /a, /b, /a\n", "expected each file once"),
    ("follow = /a, /x/../a\n", "expected each file once"),
    ("follow_reclaim = delete\n", "expected keep, remove or punch"),
])  # fmt: skip
def test_a_bad_setting_names_what_was_expected(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse_settings(f"[connector-nagios]\n{text}")


def test_a_journal_in_memory_gives_nothing_back() -> None:
    settings = parse_settings(
        "[connector]\nbackup_file = :memory:\n[connector-nagios]\nfollow = /a\nfollow_reclaim = punch\n"
    )
    with pytest.raises(SettingsError, match="follow_reclaim: what was taken must be on disk"):
        filefollowers_factory(settings, backupprovider_factory(settings))
    kept = replace(settings, nagios=replace(settings.nagios, follow_reclaim="keep"))
    assert len(filefollowers_factory(kept, backupprovider_factory(kept))) == 1
