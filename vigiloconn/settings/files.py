"""Files that an operator writes, as text. Knows the disk and the encoding, not what a file means."""

from __future__ import annotations

import grp
import shlex
import stat
from pathlib import Path

from vigiloconn.errors import SettingsError


def read_text(path: Path) -> str:
    """Return the text of a file. Raises `SettingsError`, for what is not UTF-8 with its line."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"{path}: can't be read: {exc.strerror}{_way_in(path, exc)}") from exc
    return _decode(data, path)


def read_secret(path: Path) -> str:
    """Return the first line of a file. Raises `ValueError`, which quotes nothing of it."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except OSError as exc:
        raise ValueError(f"{path} can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        # Without its cause, which quotes what it could not decode.
        raise ValueError(f"{path}: expected UTF-8 text") from None


def exposure(path: Path) -> str | None:
    """Return what to warn of where a file that holds a password can be read by all users; None where it can't."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not mode & stat.S_IROTH:
        return None
    return f"{path} holds a password and can be read by all users of this host: chmod o-rwx {shlex.quote(str(path))}"


def _way_in(path: Path, exc: OSError) -> str:
    """Return who may read a file that this user may not; nothing where that is not what is wrong."""
    if not isinstance(exc, PermissionError):
        return ""
    try:
        found = path.stat()
        group = f", or in the group {grp.getgrgid(found.st_gid).gr_name}" if found.st_mode & stat.S_IRGRP else ""
    except (OSError, KeyError):
        # The directory is closed too, or the group has no name.
        group = ""
    return f": be root{group}"


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        # Without its cause, which quotes the whole file.
        raise SettingsError(f"{path}: line {line}: expected UTF-8, got another encoding") from None
