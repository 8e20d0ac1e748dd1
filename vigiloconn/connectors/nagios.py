"""The Nagios connector: lines from a socket and files to the bus, commands from there to Nagios. Wiring, no more."""

from __future__ import annotations

import logging

from vigiloconn.client import VigiloClient, vigiloclient_factory
from vigiloconn.conffile import NagiosConfFile
from vigiloconn.errors import SettingsError
from vigiloconn.handlers.backup import backupprovider_factory
from vigiloconn.handlers.follow import filefollowers_factory
from vigiloconn.handlers.nagios import nagioscommand_factory
from vigiloconn.handlers.publisher import buspublisher_factory
from vigiloconn.options import Settings
from vigiloconn.socket import SocketListener
from vigiloconn.status import statuspublisher_factory
from vigiloconn.supervisor import Handler, Supervisor

log = logging.getLogger(__name__)


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Make the parts, connect them, and give them to the supervisor.

    They start from the journal outwards: journal, client, publisher, what feeds them. They stop the other way round:
    what was read from the socket is still committed and sent, the publisher waits a moment for confirms, the client
    says goodbye, and the journal discards what was confirmed and closes.
    """
    provider = backupprovider_factory(settings)
    publisher = buspublisher_factory(settings, provider)
    client = vigiloclient_factory(settings)
    client.add_handler(provider)
    client.add_handler(publisher)
    listener: list[Handler] = []
    if settings.nagios.listen_unix:
        runtime = settings.runtime
        listener = [SocketListener(
            settings.nagios.listen_unix, provider, group=runtime.socket_group, gather_s=runtime.commit_delay_ms / 1000
        )]  # fmt: skip
    followers = filefollowers_factory(settings, provider)
    commands = _build_commands(settings, client) if settings.nagios.nagios_pipe else []
    # The first that has a figure gives it its bare name: `received` is from the bus, where there is a way back.
    feeds = [*listener, *followers]
    status = statuspublisher_factory(settings, provider, [publisher, provider, client, *commands[::-1], *feeds])
    client.add_handler(status)
    for handler in (provider, client, publisher, *feeds, *commands, status):
        supervisor.add(handler)


def _build_commands(settings: Settings, publisher: VigiloClient) -> list[Handler]:
    """Make the parts of the way back. They stop before `publisher`: dead letters go through `publisher`.

    A client of its own: a broker under an alarm stops reading from a connection that publishes.
    """
    if not settings.bus.queue:
        raise SettingsError(
            f"{settings.path or 'defaults'}: [connector-nagios] nagios_pipe: commands for it come from a queue:"
            " expected [bus] queue as well, got none"
        )
    client = vigiloclient_factory(settings, role="consume")
    if not settings.nagios.nagios_config:
        log.info("nagios_config is not set: messages of all hosts pass to Nagios")
        return [client, nagioscommand_factory(settings, None, client=client, publisher=publisher)]
    hosts = NagiosConfFile(settings.nagios.nagios_config)
    return [hosts, client, nagioscommand_factory(settings, hosts, client=client, publisher=publisher)]
