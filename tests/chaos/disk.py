"""A small disk for the journal, which something else fills. Knows mounts and files."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

_CHUNK = bytes(65536)
_PAGE = 4096


def can_mount() -> bool:
    """Answer whether this process may mount file systems."""
    return os.geteuid() == 0 and subprocess.run(
        ["unshare", "--mount", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode == 0


class SmallDisk:
    """A file system of some megabytes at `path`. A context manager that takes it away, also while it is in use."""

    def __init__(self, path: Path, size_mb: int) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", path], check=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            chunk = _CHUNK
            while chunk:
                try:
                    file.write(chunk)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    chunk = b"" if len(chunk) <= _PAGE else bytes(_PAGE)

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount. Harmless when called twice."""
        if os.path.ismount(self.path):
            subprocess.run(["umount", "-l", self.path], check=True)
