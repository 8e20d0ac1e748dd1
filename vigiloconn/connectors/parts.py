"""The groups of parts that most custom connectors are made of, each in one call.

They are what a `build(settings, supervisor)` does by hand otherwise; every part stays an ordinary one. Call
`add_publisher` or `add_journal` first, then what uses them, `add_status` last: the order of the calls is that of
the start, and the stop goes the other way round. What a producer has put when its `run()` ends is still accepted
and, while the bus is there, sent.

A connector of several buses hands `settings.on_bus("NAME")` to those that are to use `[bus:NAME]`.
"""

from __future__ import annotations

from vigiloconn.client import VigiloClient, vigiloclient_factory
from vigiloconn.handlers.backup import BackupProvider, backupprovider_factory
from vigiloconn.handlers.follow import filefollowers_factory
from vigiloconn.handlers.message import MessageHandler, messagehandler_factory
from vigiloconn.handlers.publisher import buspublisher_factory
from vigiloconn.options import Settings
from vigiloconn.status import statuspublisher_factory
from vigiloconn.supervisor import Supervisor


def add_publisher(settings: Settings, supervisor: Supervisor) -> VigiloClient:
    """Return a client for single messages, `send(exchange, routing_key, message).get()`, without a journal."""
    client = vigiloclient_factory(settings)
    supervisor.add(client)
    return client


def add_journal(settings: Settings, supervisor: Supervisor) -> BackupProvider:
    """Return where a producer puts its batches: what is accepted there reaches the bus, whatever happens.

    Its `client` publishes, and serves for single messages as well.
    """
    provider = backupprovider_factory(settings)
    publisher = buspublisher_factory(settings, provider)
    client = vigiloclient_factory(settings)
    client.add_handler(provider)
    client.add_handler(publisher)
    for part in (provider, client, publisher):
        supervisor.add(part)
    return provider


def add_followers(settings: Settings, supervisor: Supervisor, provider: BackupProvider) -> None:
    """Take the lines of the files that `follow` of `[connector-NAME]` names, each once, through `provider`.

    `follow_reclaim` beside it says what becomes of them. Raises `SettingsError`.
    """
    for follower in filefollowers_factory(settings, provider):
        supervisor.add(follower)


def add_consumer(
    settings: Settings, supervisor: Supervisor, handler: MessageHandler, publisher: VigiloClient | None = None
) -> None:
    """Let `handler` consume the queue that `[bus]` names.

    Dead letters go through `publisher`; without one, a client is made for them where `dead_letter` is on. The
    consumer has a connection of its own in any case: a broker under an alarm stops reading from one that
    publishes. Raises `SettingsError` when no queue is named.
    """
    if publisher is None and settings.bus.dead_letter:
        publisher = add_publisher(settings, supervisor)
    client = vigiloclient_factory(settings, role="consume")
    messagehandler_factory(settings, handler, client=client, publisher=publisher)
    supervisor.add(client)
    supervisor.add(handler)


def add_status(settings: Settings, supervisor: Supervisor, provider: BackupProvider) -> None:
    """Report the state of the connector and the figures of everything that was added before, through `provider`."""
    status = statuspublisher_factory(settings, provider, supervisor.handlers)
    provider.client.add_handler(status)
    supervisor.add(status)
