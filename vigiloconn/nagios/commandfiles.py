"""Files of commands for Nagios' PROCESS_FILE. Knows a directory and a group, not what the commands mean."""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

#: Nagios deletes a file once it has read it. What is left after an hour never will be.
KEEP_S = 3600.0
_SUFFIX = ".commands"
#: While it is written: what has the other suffix is whole, whatever became of its writer.
_PART_SUFFIX = ".part"
#: Others may write into the directory, and what a name holds goes into a command.
_OWN_NAME = re.compile(r"[0-9]{1,30}-[0-9]{1,30}\.(?:commands|part)", re.ASCII)
_DIRECTORY_MODE = 0o2770
_FILE_MODE = 0o660


class CommandFiles:
    """Keeps files of commands in a directory of its own, for the group of the command pipe to read and delete.

    Only files that this user wrote under names of this form are its files: all others in there are left alone.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)

    def write(self, commands: Sequence[bytes], group_id: int) -> Path:
        """Write a new file and return its path. Raises `OSError`, and leaves nothing then."""
        self._prepare(group_id)
        # The time keeps names apart over restarts, the number within a clock tick.
        path = self.directory / f"{time.time_ns()}-{next(self._numbers)}{_SUFFIX}"
        part = path.with_suffix(_PART_SUFFIX)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                _share(fd, group_id, _FILE_MODE)
                file.writelines(commands)
            part.rename(path)
        except BaseException:
            self.discard(part)
            raise
        return path

    def discard(self, path: Path) -> None:
        """Delete a file, if it is still there."""
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("%s: can't be deleted: %s", path, exc.strerror)

    def left(self) -> list[Path]:
        """Return the files that Nagios has not deleted yet, those of an earlier process included, oldest first."""
        return self._files(_SUFFIX)

    def sweep(self, now_s: float | None = None) -> int:
        """Delete files that are an hour old and return how many are left over a minute after they were written.

        Younger ones stay, those of an earlier process too: Nagios may have been told of them, and not read them yet.
        """
        now_s = time.time() if now_s is None else now_s
        waiting = 0
        for path in self._files(_SUFFIX) + self._files(_PART_SUFFIX):
            try:
                age_s = now_s - path.lstat().st_mtime
            except OSError:
                continue  # Nagios has just deleted it.
            if age_s > KEEP_S:
                log.warning("%s: deleted, Nagios has not carried it out within an hour", path)
                self.discard(path)
            elif age_s > 60:
                waiting += 1
        return waiting

    def _files(self, suffix: str) -> list[Path]:
        try:
            with os.scandir(self.directory) as entries:
                return sorted(
                    Path(entry.path) for entry in entries if entry.name.endswith(suffix) and _is_own(entry)
                )
        except OSError:
            return []

    def _prepare(self, group_id: int) -> None:
        if self.directory.is_dir() and self.directory.stat().st_gid == group_id:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _share(fd, group_id, _DIRECTORY_MODE)
        finally:
            os.close(fd)


def _is_own(entry: os.DirEntry[str]) -> bool:
    if not _OWN_NAME.fullmatch(entry.name):
        return False
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False  # Nagios has just deleted it.
    # A second link: somebody may have given this name to another file of ours.
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _share(fd: int, group_id: int, mode: int) -> None:
    """Give a file to the group. The owner comes first: changing it clears bits of the mode."""
    if os.fstat(fd).st_gid != group_id:
        os.fchown(fd, -1, group_id)
    try:
        os.fchmod(fd, mode)
    except PermissionError:
        # A service manager may forbid the set-group-ID bit; each file is given to the group anyway.
        os.fchmod(fd, mode & 0o777)
