"""The Nagios connector: lines from a UNIX socket to the bus. Wiring, and nothing else."""

from __future__ import annotations

from vigiloconn.client import vigiloclient_factory
from vigiloconn.handlers.backup import backupprovider_factory
from vigiloconn.handlers.publisher import buspublisher_factory
from vigiloconn.options import Settings
from vigiloconn.socket import SocketListener
from vigiloconn.supervisor import Supervisor


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Make the parts, connect them, and give them to the supervisor.

    They start from the journal outwards and stop the other way round: what was read from the socket is
    committed before anything behind it ends, and the client closes the connection last but the journal.
    """
    provider = backupprovider_factory(settings)
    publisher = buspublisher_factory(settings, provider)
    client = vigiloclient_factory(settings)
    client.add_handler(provider)
    client.add_handler(publisher)
    handlers = [client, publisher, provider]
    if settings.nagios.listen_unix:
        handlers.append(
            SocketListener(settings.nagios.listen_unix, provider, group=settings.conn.socket_group)
        )
    for handler in handlers:
        supervisor.add(handler)
