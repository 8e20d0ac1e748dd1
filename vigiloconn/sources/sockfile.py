"""The file of a UNIX socket: where it may stand, who may write to it, and whether an old one is still in use."""

from __future__ import annotations

import grp
import logging
import os
import stat

from gevent import socket as gsocket

from vigiloconn.errors import StartError
from vigiloconn.kit.limits import MAX_SOCKET_PATH_BYTES

log = logging.getLogger(__name__)

_BACKLOG = 512


def check_path(path: str) -> None:
    """Raise `StartError` when a socket can't be made at `path`."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > MAX_SOCKET_PATH_BYTES:
        raise StartError(
            f"socket {path}: the path has {size_bytes} bytes, UNIX sockets take {MAX_SOCKET_PATH_BYTES}: shorten it"
        )
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise StartError(f"socket {path}: expected a directory {directory}: create it, or change the socket's path")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StartError(f"socket {path}: directory {directory} is not writable for this user")


def group_id_of(group: str | None) -> int | None:
    """Return the id of the group that is named. Raises `StartError` when this host has none of that name."""
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise StartError(f"socket_group: expected a group of this host, got {group!r}") from exc


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises `StartError` for anything else that stands there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError(f"socket {path}: expected nothing or a socket there: move the file away")
        with gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_STREAM) as probe:
            # At once: with a full backlog the connection would wait, and then somebody is listening.
            probe.settimeout(0.0)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        log.info("removing %s, which a process that is gone has left", path)
        os.unlink(path)
        return
    except BlockingIOError:
        pass
    except OSError as exc:
        raise StartError(f"socket {path}: can't tell whether it is in use: {exc.strerror}") from exc
    raise StartError(f"socket {path}: another process is listening there: stop it, or change the socket's path")


def bind(path: str, group_id: int | None) -> gsocket.socket:
    """Return a socket that listens at `path`, mode 0660, of the group. Raises `StartError`."""
    listener = gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_STREAM)
    # Not even for an instant open to others: the owner's only, until the group is set.
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as exc:
        listener.close()
        raise StartError(f"socket {path}: can't be created: {exc.strerror}") from exc
    finally:
        os.umask(mask)
    try:
        if group_id is not None:
            os.chown(path, -1, group_id)
        os.chmod(path, 0o660)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        os.unlink(path)
        raise StartError(f"socket {path}: its group or mode can't be set: {exc.strerror}") from exc
    return listener


def inode(path: str) -> tuple[int, int] | None:
    """Return (device, inode) of what stands at `path`, None for nothing."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def trouble(path: str, ours: tuple[int, int] | None) -> str:
    """Return what is wrong with the file of our socket, whose (device, inode) is `ours`; "" where nothing is.

    While the socket is open no other file can have its inode.
    """
    found = inode(path)
    if found == ours:
        return ""
    if found is None:
        return f"socket {path} was removed: no new writer reaches this process: start it again"
    return f"socket {path} is another file now: new writers do not reach this process: start it again"
