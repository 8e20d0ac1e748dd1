"""Who may use the journal's files, and what is done with what others have put in their place."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journals import append, reopened
from vigiloconn.errors import StartError
from vigiloconn.journal.store import DbRetry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.lstat().st_mode)) for path in directory.iterdir()}


def test_all_files_are_for_their_owner_alone_whatever_the_umask(path: Path) -> None:
    journal = reopened(path)
    append(journal, 10)
    names = {f"backup.sqlite{suffix}" for suffix in ("", "-wal", "-shm", ".lock", ".reserve")}
    assert modes(path.parent) == dict.fromkeys(names, "0o600")
    journal.close()


def test_what_an_old_program_left_open_to_others_is_closed_to_them(path: Path) -> None:
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode = wal")
    old.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
    old.commit()
    Path(f"{path}.lock").touch(mode=0o666)
    assert set(modes(path.parent).values()) != {"0o600"}
    journal = reopened(path)
    assert set(modes(path.parent).values()) == {"0o600"}
    old.close()
    journal.close()


def test_a_damaged_file_that_is_set_aside_is_closed_to_others_too(path: Path) -> None:
    path.write_bytes(os.urandom(4096))
    Path(f"{path}-wal").write_bytes(b"x" * 100)
    journal = reopened(path)
    assert sum(".damaged-" in name for name in modes(path.parent)) == 2
    assert set(modes(path.parent).values()) == {"0o600"}
    journal.close()


def test_a_link_in_the_place_of_the_reserve_is_replaced_and_what_it_names_stays_as_it_is(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    reserve = Path(f"{path}.reserve")
    reserve.symlink_to(victim)
    journal = reopened(path)
    assert victim.read_text() == "precious"
    assert not reserve.is_symlink()
    assert reserve.stat().st_size == 1 << 20
    journal.close()


def test_a_hard_link_in_the_place_of_the_reserve_is_not_written_to(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    os.link(victim, f"{path}.reserve")
    reopened(path).close()
    assert victim.read_text() == "precious"


def test_a_journal_can_still_be_named_by_a_link(path: Path) -> None:
    link = path.with_name("link.sqlite")
    link.symlink_to(path)
    journal = reopened(link)
    append(journal, 1)
    journal.close()
    journal = reopened(path)
    assert journal.rows == 1
    journal.close()


def test_a_directory_in_the_place_of_the_file_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartError, match="expected a file"):
        DbRetry(path).open()
