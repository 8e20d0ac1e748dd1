"""A file in pieces of whole lines: each line once, none before its newline, whatever its length."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vigiloconn.sources.identity import Mark, fingerprint, has_before, parse_mark
from vigiloconn.sources.pieces import FileChanged, FileReader

LIMIT = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.touch()
    return found


@pytest.fixture
def reader(path: Path) -> Iterator[FileReader]:
    opened = FileReader(os.open(path, os.O_RDONLY), 0, LIMIT)
    yield opened
    opened.close()


def add(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def lines(reader: FileReader) -> tuple[list[bytes], int]:
    """Return all whole lines that are there, and how many were too long."""
    found: list[bytes] = []
    too_long = 0
    while (piece := reader.read()) is not None:
        found += piece.lines
        too_long += len(piece.too_long)
        if piece.position != reader.position:
            reader.advance(piece)
    return found, too_long


def test_a_line_is_taken_with_its_newline_and_not_before(path: Path, reader: FileReader) -> None:
    add(path, b"one\ntw")
    assert lines(reader) == ([b"one"], 0)
    assert (reader.position, reader.unread_bytes()) == (4, 2)
    add(path, b"o\n\nthree\n")
    assert lines(reader) == ([b"two", b"", b"three"], 0)


def test_what_is_not_advanced_over_is_read_again(path: Path, reader: FileReader) -> None:
    add(path, b"one\n")
    assert reader.read() == reader.read()


@pytest.mark.parametrize("length", [LIMIT + 1, 200_000, 10 << 20])
def test_a_line_over_the_limit_is_skipped_to_its_newline_and_counted(
    path: Path, reader: FileReader, length: int
) -> None:
    add(path, b"before\n" + b"x" * (length - 1))
    assert lines(reader) == ([b"before"], 0)
    assert reader.position == len(b"before\n")
    add(path, b"x\nafter\n")
    assert lines(reader) == ([b"after"], 1)


def test_a_line_of_just_the_limit_is_taken(path: Path, reader: FileReader) -> None:
    add(path, b"x" * LIMIT + b"\n" + b"y" * (LIMIT + 1) + b"\n")
    assert lines(reader) == ([b"x" * LIMIT], 1)


def test_many_lines_come_in_pieces_whose_positions_are_their_ends(path: Path, reader: FileReader) -> None:
    numbers = [b"%d" % number for number in range(100_000)]
    add(path, b"\n".join(numbers) + b"\n")
    assert lines(reader) == (numbers, 0)
    assert reader.position == os.stat(path).st_size


def test_zeros_that_a_power_cut_or_an_emptied_file_leaves_before_a_line_are_no_part_of_it(
    path: Path, reader: FileReader
) -> None:
    add(path, b"one\n" + b"\0" * 50 + b"two\n\0three\n")
    assert lines(reader) == ([b"one", b"two", b"three"], 0)


@pytest.mark.parametrize("change", [
    lambda path: os.truncate(path, 2), lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(b"two\nthree\n"),
])  # fmt: skip
def test_a_file_that_was_emptied_or_written_over_is_noticed(
    path: Path, reader: FileReader, change: Callable[[Path], object]
) -> None:
    add(path, b"one\n")
    lines(reader)
    change(path)
    with pytest.raises(FileChanged):
        reader.read()


def test_a_mark_is_kept_as_text_and_a_text_that_is_none_is_told(path: Path) -> None:
    mark = Mark(1, 2**63, 3, fingerprint(b"abc"), 4, "boot")
    assert parse_mark(mark.text()) == mark
    assert [parse_mark(text) for text in (None, "", "nonsense", "{}", '{"device":"x"}')] == [None] * 5


@pytest.mark.parametrize(("data", "is_it"), [
    (b"one\n", True), (b"one\ntwo\n", True), (b"ONE\ntwo\n", False), (b"one", False), (b"", False),
])  # fmt: skip
def test_a_file_is_the_one_that_was_read_if_it_has_the_same_before_the_position(
    path: Path, data: bytes, is_it: bool
) -> None:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    assert has_before(fd, Mark(0, 0, 4, fingerprint(b"one\n"), 0)) is is_it
    os.close(fd)
