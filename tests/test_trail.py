"""Which file a followed path leads to, on real files: whatever became of them, nothing is left out or read again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cycle import Hand
from vigiloconn.sources import trail as module
from vigiloconn.sources.identity import Mark, parse_mark
from vigiloconn.sources.pieces import FileChanged
from vigiloconn.sources.trail import Trail

LINE = b"%-60d\n"


class Walk:
    """A trail, walked as the connector does it, and the lines that it came by."""

    def __init__(
        self, path: Path, mark: Mark | None = None, boot_id: str = "boot", others: tuple[str, ...] = ()
    ) -> None:
        self.clock = Hand(0.0)
        self.trail = Trail(str(path), max_line_bytes=100, others=others, boot_id=boot_id, clock=self.clock)
        self.trail.resume_from(mark)
        self.lines: list[int] = []
        self.left = 0

    def go(self) -> list[int]:
        """Read all that can be read, second looks included; return the numbers on the lines."""
        trail, self.lines = self.trail, []
        for _ in range(1000):
            if trail.reader is None and not trail.begin():
                return self.lines
            assert trail.reader is not None
            try:
                piece = trail.reader.read()
            except FileChanged:
                trail.start_over()
                continue
            if piece is not None:
                self.lines += map(int, piece.lines)
                trail.reader.advance(piece)
                trail.advance()
            elif trail.move_on():
                self.left += 1
            elif trail._second_look_s is not None and self.clock.now_s < trail._second_look_s:
                self.clock.now_s = trail._second_look_s
            else:
                return self.lines
        raise AssertionError("it comes to no end")

    @property
    def mark(self) -> Mark:
        """What would be kept now."""
        assert self.trail.reader is not None
        return self.trail.mark(self.trail.reader.position, self.trail.reader.tail)

    def end(self) -> Mark:
        """End this life; return what the next one finds."""
        mark = parse_mark(self.mark.text())
        assert mark is not None
        self.trail.close()
        return mark


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perf"


class Writer:
    """Appends numbered lines; each writing a second after the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.now_s = 1_000_000

    def write(self, lines: int, path: Path | None = None) -> list[int]:
        numbers = list(range(self.count, self.count + lines))
        self.count += lines
        with open(path or self.path, "ab") as file:
            file.writelines(LINE % number for number in numbers)
        self.touch(path or self.path)
        return numbers

    def touch(self, path: Path) -> None:
        self.now_s += 1
        os.utime(path, (self.now_s, self.now_s))


@pytest.fixture
def writer(path: Path) -> Writer:
    return Writer(path)


def renamed(path: Path, suffix: str = ".1") -> Path:
    target = path.with_name(path.name + suffix)
    path.rename(target)
    return target


# While it is followed.


def test_lines_are_read_as_they_come_and_a_file_that_is_not_there_is_waited_for(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    assert (walk.go(), walk.trail.trouble) == ([], "")
    assert writer.write(3) == walk.go()
    assert walk.go() == []
    assert writer.write(2) == walk.go()


def test_a_file_that_is_renamed_before_it_was_ever_seen_is_read_all_the_same(path: Path, writer: Writer) -> None:
    writer.write(1, path.with_name("perf.9"))  # from before
    walk = Walk(path)
    assert walk.go() == []
    mark = walk.trail.waiting_mark
    numbers = writer.write(1)
    renamed(path)
    numbers += writer.write(1)
    assert walk.go() == numbers
    assert walk.trail.waiting_mark is None
    assert mark is not None
    assert Walk(path, parse_mark(mark.text())).go() == numbers


def test_a_renamed_file_is_read_to_its_end_before_its_successor(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    first = writer.write(2)
    assert walk.go() == first
    old = renamed(path)
    late = writer.write(1, old)
    assert walk.go() == late
    path.touch()
    later = writer.write(1, old)
    assert walk.go() == later
    assert walk.left == 0
    latest, new = writer.write(1, old), writer.write(2)
    assert walk.go() == latest + new
    assert walk.left == 1


def test_what_comes_to_a_renamed_file_before_the_second_look_is_read(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    old = renamed(path)
    new = writer.write(1)
    trail = walk.trail
    assert trail.move_on() is None
    late = writer.write(1, old)
    walk.clock.now_s += 10
    assert trail.move_on() is None
    assert walk.go() == late + new


def test_a_file_that_is_renamed_twice_before_it_is_read_costs_nothing(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    numbers = writer.write(2)
    older = renamed(path)
    numbers += writer.write(2)
    renamed(older, ".2").rename(path.with_name("perf.2"))
    renamed(path)
    numbers += writer.write(2)
    assert walk.go() == numbers


def test_the_next_of_two_renamed_files_does_not_wait_for_a_third_one(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    renamed(path, ".2")
    numbers = writer.write(2)
    renamed(path)
    assert walk.go() == numbers


def test_a_deleted_file_is_read_to_its_end_while_it_is_open(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    rest = writer.write(2)
    path.unlink()
    new = writer.write(1)
    assert walk.go() == rest + new


def test_an_emptied_file_is_read_from_its_beginning_and_that_is_said(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(path)
    writer.write(5)
    walk.go()
    os.truncate(path, 0)
    assert walk.go() == []
    assert "was emptied or written anew: it is read from its beginning" in caplog.text
    assert writer.write(2) == walk.go()


def test_a_file_that_is_emptied_and_grows_past_the_position_at_once_is_noticed(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(2)
    walk.go()
    os.truncate(path, 0)
    assert writer.write(9) == walk.go()


def test_what_a_copy_saved_before_the_file_was_emptied_is_read_from_the_copy(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(3)
    walk.go()
    rest = writer.write(2)
    copy = path.with_name("perf.1")
    copy.write_bytes(path.read_bytes())
    writer.touch(copy)
    os.truncate(path, 0)
    assert walk.go() == rest
    assert writer.write(2) == walk.go()
    os.truncate(path, 0)
    assert writer.write(1) == walk.go()


def test_a_copy_with_nothing_more_in_it_is_not_read_again(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    path.write_bytes(b"1\n")
    assert walk.go() == [1]
    path.with_name("perf.1").write_bytes(path.read_bytes())
    os.truncate(path, 0)
    assert writer.write(1) == walk.go()


def test_where_a_link_leads_is_followed(path: Path, writer: Writer, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    walk = Walk(link)
    numbers = writer.write(2)
    assert walk.go() == numbers
    renamed(path)
    assert writer.write(2) == walk.go()


def test_a_link_that_leads_to_another_file_is_gone_after_when_the_old_one_is_read(
    path: Path, writer: Writer, tmp_path: Path
) -> None:
    link, other = tmp_path / "link", path.with_name("other")
    link.symlink_to(path)
    walk = Walk(link)
    writer.write(1)
    walk.go()
    rest = writer.write(1)
    link.unlink()
    link.symlink_to(other)
    # It leads nowhere yet.
    assert (walk.go(), walk.left) == (rest, 0)
    numbers = writer.write(1) + writer.write(1, other)
    assert (walk.go(), walk.left) == (numbers, 1)


def test_a_link_that_is_replaced_in_the_moment_of_a_look_is_found_by_the_next(
    path: Path, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", name)

    link = tmp_path / "link"
    link.symlink_to(path)
    walk = Walk(link)
    numbers = writer.write(1)
    assert walk.go() == numbers
    with monkeypatch.context() as patched:
        patched.setattr("os.path.realpath", gone)
        assert writer.write(1) == walk.go()
        assert walk.trail.find_name() == str(path)


# After a start.


def test_reading_goes_on_at_the_mark(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(3)
    walk.go()
    mark = walk.end()
    assert writer.write(2) == Walk(path, mark).go()


@pytest.mark.parametrize("suffixes", [(".1", ".2", ".3"), ("-20260103", "-20260102", "-20260101")])
def test_after_a_start_all_that_was_renamed_meanwhile_is_read_oldest_first(
    path: Path, writer: Writer, suffixes: tuple[str, ...]
) -> None:
    oldest = path.with_name("perf.9")
    writer.write(3, oldest)  # read never: it is older than the first start
    walk = Walk(path)
    writer.write(1)
    walk.go()
    mark = walk.end()
    numbers = writer.write(1)
    for suffix in reversed(suffixes):
        renamed(path, suffix)
        numbers += writer.write(2)
    assert Walk(path, mark).go() == numbers


def test_renamed_files_are_told_apart_by_number_within_one_tick_of_the_clock(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    mark = walk.end()
    numbers = []
    for number in (10, 9, 2, 1):
        renamed(path, f".{number}")
        numbers += writer.write(1)
    for each in path.parent.iterdir():
        os.utime(each, (1_000_001, 1_000_001))
    assert Walk(path, mark).go() == numbers


def test_a_number_that_came_back_does_not_make_another_file_the_one_that_was_read(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(path)
    writer.write(3)
    walk.go()
    mark = walk.end()
    path.unlink()
    numbers = writer.write(5)
    found = os.stat(path)
    walk = Walk(path, Mark(found.st_dev, found.st_ino, mark.position, mark.print, mark.began_ns, "boot"))
    assert walk.go() == numbers
    assert "was written anew" in caplog.text


def test_where_the_file_is_gone_what_was_written_since_is_read_and_the_loss_is_said(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(path)
    writer.write(3)
    walk.go()
    mark = walk.end()
    writer.write(1)
    lost = renamed(path, ".2")
    numbers = writer.write(2)
    renamed(path)
    numbers += writer.write(2)
    lost.unlink()
    assert Walk(path, mark).go() == numbers
    assert "is another file, and the one that was read is not found" in caplog.text


def test_a_file_that_a_reboot_has_cost_its_end_goes_on_at_its_end(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(path)
    writer.write(5)
    walk.go()
    mark = walk.end()
    os.truncate(path, 2 * len(LINE % 0))
    walk = Walk(path, mark, boot_id="another boot")
    assert walk.go() == []
    assert "is shorter since the machine was booted" in caplog.text
    assert writer.write(1) == walk.go()
    assert walk.mark.boot_id == "another boot"


def test_another_file_that_is_no_shorter_is_read_from_its_beginning_after_a_reboot_too(
    path: Path, writer: Writer
) -> None:
    walk = Walk(path)
    writer.write(2)
    walk.go()
    mark = walk.end()
    os.truncate(path, 0)
    numbers = writer.write(2)
    assert Walk(path, mark, boot_id="another boot").go() == numbers


def test_a_file_that_is_shorter_in_the_same_boot_is_another_one(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(5)
    walk.go()
    mark = walk.end()
    os.truncate(path, 0)
    numbers = writer.write(2)
    assert Walk(path, mark).go() == numbers


def test_a_compressed_file_is_named_and_the_others_are_read(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(path)
    writer.write(2)
    walk.go()
    mark = walk.end()
    writer.write(1)
    renamed(path, ".1.gz")
    numbers = writer.write(2)
    walk = Walk(path, mark)
    assert walk.go() == numbers
    assert walk.trail.unreadable == [f"{path}.1.gz"]
    assert f"{path}.1.gz was compressed before it was read" in caplog.text


def test_a_file_that_is_compressed_while_it_is_open_costs_nothing(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(2)
    walk.go()
    rest = writer.write(1)
    old = renamed(path)
    compressed = path.with_name("perf.1.gz")
    compressed.write_bytes(b"\x1f\x8b")
    os.utime(compressed, ns=(0, old.stat().st_mtime_ns))
    old.unlink()
    assert walk.go() == rest
    assert writer.write(2) == walk.go()
    assert walk.trail.unreadable == []


def test_only_renamed_files_of_this_path_are_taken_for_it(path: Path, writer: Writer) -> None:
    walk = Walk(path)
    writer.write(1)
    walk.go()
    mark = walk.end()
    renamed(path)
    for name in ("perfect", "perf2", "perf-hosts", "other"):
        writer.write(1, path.with_name(name))
    (path.parent / "perf.d").mkdir()
    numbers = writer.write(1)
    assert Walk(path, mark, others=(str(path.with_name("perf-hosts")),)).go() == numbers


def test_renamed_files_of_another_followed_path_are_its_own_by_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path, other = tmp_path / "link" / "perf", tmp_path / "link" / "perf-hosts"
    writer = Writer(path)
    walk = Walk(path, others=(str(other),))
    writer.write(1)
    walk.go()
    renamed(path)
    foreign = writer.write(1, other.with_name("perf-hosts.1")) + writer.write(1, other)
    numbers = writer.write(1)
    assert walk.go() == numbers
    # The longer name leaves what is the shorter one's alone, too.
    assert Walk(other, others=(str(path),)).go() == foreign[1:]


def test_what_was_given_back_in_place_is_passed_over(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 20)
        file.write(LINE % 7)
    assert Walk(path).go() == [7]


def test_a_file_that_was_given_back_as_a_whole_is_read_from_its_end(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 20)
    walk = Walk(path)
    assert (walk.go(), walk.mark.position) == ([], 1 << 20)


# What can't be read.


@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "a directory"), (lambda path: os.mkfifo(path), "a FIFO")])
def test_a_directory_or_a_fifo_is_named(path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(path)
    walk = Walk(path)
    assert walk.go() == []
    assert f"followed file {path}: expected a file that somebody appends lines to, found {kind}" in walk.trail.trouble


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_and_tried_again(path: Path, writer: Writer) -> None:
    numbers = writer.write(1)
    path.chmod(0)
    walk = Walk(path)
    assert walk.go() == []
    assert f"followed file {path}: not readable for user id" in walk.trail.trouble
    path.chmod(0o600)
    assert walk.go() == numbers
    assert walk.trail.trouble == ""


def test_an_error_is_said_once_and_forgotten_when_it_is_over(
    path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = writer.write(1)
    caplog.set_level(logging.INFO)

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    walk = Walk(path)
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "open", refuse)
        assert walk.go() == walk.go() == []
        assert "not readable" in walk.trail.trouble
    assert caplog.text.count("not readable") == 1
    assert walk.go() == numbers
    assert walk.trail.trouble == ""
