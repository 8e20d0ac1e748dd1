"""Files of commands: whole ones, for Nagios alone, and none but our own."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vigiloconn.nagios.commandfiles import KEEP_S, CommandFiles

FORGED = "x;1\n[0] SHUTDOWN_PROGRAM;y.commands"


@pytest.fixture
def files(tmp_path: Path) -> CommandFiles:
    """With its directory."""
    made = CommandFiles(tmp_path / "commands")
    made.discard(made.write([b"x\n"], os.getegid()))
    return made


def test_files_are_kept_while_nagios_may_still_read_them_and_then_deleted(tmp_path: Path) -> None:
    files = CommandFiles(tmp_path / "commands")
    old = files.write([b"x\n"], os.getegid())
    other = tmp_path / "commands" / "somebody-elses"
    other.touch()
    now = time.time()
    assert files.sweep(now) == 0
    assert CommandFiles(tmp_path / "commands").sweep(now + 120) == 1
    assert old.exists()
    files.sweep(now + KEEP_S + 60)
    assert not old.exists()
    assert other.exists()


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    files = CommandFiles(tmp_path / "commands")
    seen: list[list[Path]] = []

    def commands() -> Iterator[bytes]:
        yield b"x\n"
        seen.append(files.left())

    path = files.write(commands(), os.getegid())  # type: ignore[arg-type]
    assert seen == [[]]
    assert files.left() == [path]
    (tmp_path / "commands" / "1-1.part").touch()
    files.sweep(time.time() + KEEP_S + 60)
    assert list((tmp_path / "commands").iterdir()) == []


def test_names_that_are_not_ours_are_neither_told_nor_deleted(files: CommandFiles) -> None:
    own = files.write([b"x\n"], os.getegid())
    foreign = [
        FORGED, "other.commands", "1.commands", "-1.commands", "1-1.commands.commands", "1-1.Commands", "a1-1.commands",
        "1-1.commands\n", "\u0661-1.commands", f"{'1' * 31}-1.commands", "old.part",
    ]
    for name in foreign:
        (files.directory / name).touch()
    assert files.left() == [own]
    assert files.sweep(time.time() + KEEP_S + 60) == 0
    assert sorted(path.name for path in files.directory.iterdir()) == sorted(foreign)


def test_what_is_no_file_of_ours_under_a_name_of_ours_is_left_alone(files: CommandFiles, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("[0] SHUTDOWN_PROGRAM\n")
    (files.directory / "1-1.commands").symlink_to(victim)
    other = tmp_path / "other"
    other.touch()
    os.link(other, files.directory / "1-2.commands")
    os.mkfifo(files.directory / "1-3.commands")
    (files.directory / "1-4.commands").mkdir()
    (files.directory / "1-5.commands").symlink_to(tmp_path / "nowhere")
    assert files.left() == []
    assert files.sweep(time.time() + KEEP_S + 60) == 0
    assert len(list(files.directory.iterdir())) == 5
    assert victim.read_text() == "[0] SHUTDOWN_PROGRAM\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another user")
def test_a_file_of_another_user_is_left_alone(files: CommandFiles) -> None:
    other = files.write([b"x\n"], os.getegid())
    os.chown(other, 12345, -1)
    own = files.write([b"y\n"], os.getegid())
    assert files.left() == [own]
    files.sweep(time.time() + KEEP_S + 60)
    assert list(files.directory.iterdir()) == [other]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to any group")
def test_a_directory_of_another_group_is_given_to_that_of_the_pipe(files: CommandFiles) -> None:
    path = files.write([b"x\n"], 12345)
    assert path.stat().st_gid == files.directory.stat().st_gid == 12345
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o2770


def test_files_are_given_oldest_first(files: CommandFiles) -> None:
    written = [files.write([b"x\n"], os.getegid()) for _ in range(12)]
    assert files.left() == written
    assert all(path.stat().st_size == 2 for path in written)


def test_a_directory_that_is_missing_has_nothing_left(tmp_path: Path) -> None:
    missing = CommandFiles(tmp_path / "missing")
    assert missing.left() == []
    assert missing.sweep() == 0
    missing.discard(tmp_path / "missing" / "1-1.commands")
    assert not (tmp_path / "missing").exists()


def test_a_file_that_can_not_be_written_leaves_nothing(files: CommandFiles) -> None:
    def commands() -> Iterator[bytes]:
        yield b"x\n"
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        files.write(commands(), os.getegid())  # type: ignore[arg-type]
    assert list(files.directory.iterdir()) == []


def test_a_file_waits_from_a_minute_to_an_hour(files: CommandFiles) -> None:
    path = files.write([b"x\n"], os.getegid())
    written = path.stat().st_mtime
    assert [files.sweep(written + age_s) for age_s in (60.0, 60.5, KEEP_S)] == [0, 1, 1]
    assert path.exists()
    assert files.sweep(written + KEEP_S + 0.5) == 0
    assert not path.exists()


def test_the_directory_and_what_is_in_it_are_the_groups(tmp_path: Path) -> None:
    for made in (CommandFiles(tmp_path / "new"), CommandFiles(tmp_path / "new" / "deeper")):
        path = made.write([b"x\n"], os.getegid())
        assert stat.S_IMODE(made.directory.stat().st_mode) & 0o777 == 0o770
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
