"""What `check` can see of this host: what settings name and is not there, or not as it should be. Looks, and changes
nothing."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vigiloconn.control.place import control_path
from vigiloconn.options import Settings


def surroundings(settings: Settings, *, has_journal: bool = True) -> Iterator[str]:
    """Give a line for each thing on this host that will keep the connector from its work, as this user sees it."""
    runtime, nagios = settings.runtime, settings.nagios
    if runtime.socket_group:
        yield from _group("[connector] socket_group", runtime.socket_group)
    if has_journal and runtime.backup_file != ":memory:":
        yield from _place("[connector] backup_file", runtime.backup_file)
    if nagios.listen_unix and settings.connector == "nagios":
        yield from _place("[connector-nagios] listen_unix", nagios.listen_unix)
    control = control_path(runtime.control, runtime.backup_file, nagios.listen_unix)
    if runtime.control and control is not None:
        yield from _place("[connector] control", str(control))
    if nagios.nagios_pipe:
        yield from _pipe(nagios.nagios_pipe)
    if nagios.nagios_config and not os.access(nagios.nagios_config, os.R_OK):
        yield f"[connector-nagios] nagios_config {nagios.nagios_config}: {_why_unreadable(nagios.nagios_config)}"
    for path in nagios.follow:
        yield from _followed(path)
    for section, bus in (("bus", settings.bus), *((f"bus:{name}", bus) for name, bus in settings.buses.items())):
        for key, names in (("hosts", bus.hosts), ("subscriptions", [each.exchange for each in bus.subscriptions])):
            for name in names:
                if re.search(r"[;\s]", name):
                    yield f"[{section}] {key}: {name!r} is one name: several are told apart by commas"


def _group(place: str, name: str) -> Iterator[str]:
    try:
        found = grp.getgrnam(name)
    except KeyError:
        yield f"{place}: this host has no group {name!r}"
        return
    if os.geteuid() != 0 and found.gr_gid not in {os.getegid(), *os.getgroups()}:
        yield f"{place}: user {_user()} is not in group {name!r} and can't give the socket to it"


def _place(setting: str, path: str) -> Iterator[str]:
    directory = Path(os.path.realpath(path)).parent
    if os.path.isdir(path):
        yield f"{setting}: {path} is a directory: expected the name of a file in one"
    elif not directory.is_dir():
        yield f"{setting}: directory {directory} does not exist (systemd's StateDirectory makes the default one)"
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield f"{setting}: directory {directory} is not writable for user {_user()}"


def _pipe(path: str) -> Iterator[str]:
    setting = "[connector-nagios] nagios_pipe"
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        yield f"{setting} {path}: {exc.strerror}: Nagios makes it when it starts, where it checks external commands"
        return
    if not stat.S_ISFIFO(mode):
        yield f"{setting} {path}: expected a FIFO, found something else: commands would be written to nobody"
    elif not os.access(path, os.W_OK):
        yield f"{setting} {path}: not writable for user {_user()}"


def _followed(path: str) -> Iterator[str]:
    setting = f"follow {path}"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # the connector waits for its writer to make it
    except OSError as exc:
        yield f"{setting}: {exc.strerror}"
        return
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "something else"
        yield f"{setting}: expected a file that lines are appended to, found {kind}"
    elif not os.access(path, os.R_OK):
        yield f"{setting}: not readable for user {_user()}"


def _why_unreadable(path: str) -> str:
    return f"not readable for user {_user()}" if os.path.exists(path) else "there is no such file"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"id {os.geteuid()}"
