"""A connector that tells of itself: socket, journal, bus, status. Its socket is `send.sock` beside the journal."""

from __future__ import annotations

from pathlib import Path

from vigiloconn.client import vigiloclient_factory
from vigiloconn.handlers.backup import backupprovider_factory
from vigiloconn.handlers.publisher import buspublisher_factory
from vigiloconn.options import Settings
from vigiloconn.socket import SocketListener
from vigiloconn.status import StatusPublisher
from vigiloconn.supervisor import Supervisor


def build(settings: Settings, supervisor: Supervisor) -> None:
    """`[connector-status_connector] first_delay` [0.2 s], `state_of` [service] or host."""
    provider = backupprovider_factory(settings)
    publisher = buspublisher_factory(settings, provider)
    client = vigiloclient_factory(settings)
    listener = SocketListener(str(Path(settings.runtime.backup_file).with_name("send.sock")), provider)
    status = StatusPublisher(
        settings, provider, [publisher, listener, provider, client],
        service="" if settings.own.get("state_of") == "host" else None,
        first_delay_s=float(settings.own.get("first_delay", "0.2")),
    )
    for told in (provider, publisher, status):
        client.add_handler(told)
    for handler in (provider, client, publisher, listener, status):
        supervisor.add(handler)
