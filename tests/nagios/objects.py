"""Objects of a private Nagios: hosts and services that are checked as a test says. Knows Nagios' object files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

HOST, ADDRESS = "host1", "192.0.2.7"

_COMMON = """\
define timeperiod {
    timeperiod_name always
    alias           always
    sunday          00:00-24:00
    monday          00:00-24:00
    tuesday         00:00-24:00
    wednesday       00:00-24:00
    thursday        00:00-24:00
    friday          00:00-24:00
    saturday        00:00-24:00
}
define command {
    command_name    nothing
    command_line    /bin/true
}
define contact {
    contact_name                    nobody
    host_notification_commands      nothing
    service_notification_commands   nothing
    host_notification_period        always
    service_notification_period     always
}
define command {
    command_name    plugin
    command_line    /bin/sh {directory}/plugins/$ARG1$
}
"""
_CHECK = """\
    check_command           {command}
    max_check_attempts      {attempts}
    check_period            always
    contacts                nobody
    active_checks_enabled   {is_active:d}
    check_interval          {interval_s}
    retry_interval          {interval_s}
"""


def _check(plugin: str, attempts: int, interval_s: int) -> str:
    command = f"plugin!{plugin}" if plugin else "nothing"
    return _CHECK.format(command=command, attempts=attempts, is_active=interval_s > 0, interval_s=interval_s or 60)


def host(name: str = HOST, *, plugin: str = "", attempts: int = 1, interval_s: int = 0) -> str:
    """Return a host. `plugin` names what checks it (see `set_plugin`), every `interval_s` or when a command says so."""
    check = _check(plugin, attempts, interval_s)
    return f"define host {{\n    host_name {name}\n    alias {name}\n    address {ADDRESS}\n{check}}}\n"


def service(name: str, on: str = HOST, *, plugin: str = "", attempts: int = 1, interval_s: int = 0) -> str:
    """Return a service of the host `on`, as `host` does."""
    check = _check(plugin, attempts, interval_s)
    return f"define service {{\n    host_name {on}\n    service_description {name}\n{check}}}\n"


def common(directory: Path) -> str:
    """Return what hosts and services need, for a Nagios in `directory`."""
    return _COMMON.replace("{directory}", str(directory))


def set_plugin(directory: Path, plugin: str, status: int, output: str | bytes) -> None:
    """Say how the checks by `plugin` end from now on."""
    raw = output.encode() if isinstance(output, str) else output
    new = directory / f"{plugin}.new"
    new.write_bytes(b"cat <<'THE-END'\n%s\nTHE-END\nexit %d\n" % (raw, status))
    new.chmod(0o644)
    os.replace(new, directory / "plugins" / plugin)


def passive_host(services: Iterable[str]) -> str:
    """Return the host `HOST` with these services, all of them waiting for results from outside."""
    return host() + "".join(map(service, services))
