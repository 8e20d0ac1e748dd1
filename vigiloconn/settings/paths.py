"""What a connector is called, and where its files are by default. Imports nothing heavy: `send` needs it each time."""

from __future__ import annotations

from vigiloconn.errors import SettingsError

CONFIG_ROOT = "/etc/vigilo"
STATE_ROOT = "/var/lib/vigilo"


def connector_name(connector: str, instance: int | None = None) -> str:
    """Return the NAME of paths: `connector-nagios`, with instance 2 `connector-nagios-2`.

    Raises `SettingsError` for a name that can't be a directory's, and for an instance below 0.
    """
    if not connector or "/" in connector or "\0" in connector:
        raise SettingsError(f"connector: expected a name without '/', got {connector!r}")
    if instance is None:
        return f"connector-{connector}"
    if instance < 0:
        raise SettingsError(f"--id: expected a whole number, 0 or more, got {instance}")
    return f"connector-{connector}-{instance}"


def service_name(connector: str, instance: int | None = None) -> str:
    """Return the service of self-monitoring: `vigilo-connector-nagios-1`, also where no instance is given.

    That is how the Twisted connectors report themselves: services and graphs that exist go on.
    """
    return f"vigilo-{connector_name(connector, 1 if instance is None else instance)}"


def default_settings(connector: str, instance: int | None = None) -> str:
    """Return the path of the settings file that is read where none is named."""
    return f"{CONFIG_ROOT}/{connector_name(connector, instance)}/settings.ini"


def default_socket(connector: str, instance: int | None = None) -> str:
    """Return the path of the UNIX socket that Nagios writes to."""
    return f"{STATE_ROOT}/{connector_name(connector, instance)}/send.sock"


def default_journal(connector: str, instance: int | None = None) -> str:
    """Return the path of the journal's file."""
    return f"{STATE_ROOT}/{connector_name(connector, instance)}/backup.sqlite"
