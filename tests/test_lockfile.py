"""Lock files, on a real file system; what `lock_file` of a script does with them stands in test_oneshot."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vigiloconn.errors import StartError
from vigiloconn.journal.store import DbRetry
from vigiloconn.kit.lockfile import LockFile, LockHeld


def test_who_holds_it_and_what_to_do_stand_in_the_error(tmp_path: Path) -> None:
    first, second = (LockFile(str(tmp_path / "lock"), name="door", advice=": knock") for _ in range(2))
    first.acquire()
    with pytest.raises(LockHeld, match=rf"door .*/lock is held by process {os.getpid()}: knock"):
        second.acquire()
    first.release()


def test_a_lock_for_its_owner_alone_is_that_whatever_the_umask_and_whoever_made_it_before(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        (tmp_path / "old").touch(mode=0o666)
        for name in ("new", "old"):
            lock = LockFile(str(tmp_path / name), mode=0o600)
            lock.acquire()
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            lock.release()
    finally:
        os.umask(old_mask)


def test_a_fifo_in_the_place_of_a_lock_is_an_error_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(StartError, match="expected a regular file"):
        LockFile(str(tmp_path / "lock")).acquire()


def test_another_name_of_a_file_is_no_lock(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, tmp_path / "lock")
    with pytest.raises(StartError, match="expected a regular file"):
        LockFile(str(tmp_path / "lock")).acquire()
    assert victim.read_text() == "precious"


def test_a_link_in_the_place_of_a_journals_lock_is_refused_and_what_it_names_stays_as_it_is(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "journal.lock").symlink_to(victim)
    with pytest.raises(StartError, match=r"journal lock .*/journal\.lock can't be opened"):
        DbRetry(tmp_path / "journal").open()
    assert victim.read_text() == "precious"
