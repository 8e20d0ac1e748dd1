"""Sends what comes from its queue to another exchange, and acknowledges it once the broker has confirmed that.

    vigilo-connector run examples.echo:build --config FILE

`[bus] queue` and `subscriptions` say what it takes, `[connector-echo] exchange` where it goes.
"""

from __future__ import annotations

from typing import Any

from vigiloconn.client import VigiloClient
from vigiloconn.connectors.parts import add_consumer, add_publisher
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.options import Settings
from vigiloconn.settings.own import setting, text
from vigiloconn.supervisor import Supervisor

SETTINGS = (setting("exchange", text, "name of the exchange that messages go to"),)


class Echo(MessageHandler):
    """One message at a time; a refusal is tried again, and ends in the dead letter queue."""

    name = "echo"

    def __init__(self, publisher: VigiloClient, exchange: str) -> None:
        super().__init__()
        self._publisher = publisher
        self._exchange = exchange

    def process_message(self, message: dict[str, Any]) -> None:
        # Waits through an outage too: what is not confirmed is not acknowledged, and nothing is lost. `mandatory`
        # makes the broker refuse what no queue would get.
        self._publisher.send(self._exchange, "echo", message, mandatory=True).get()


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    publisher = add_publisher(settings, supervisor)
    add_consumer(settings, supervisor, Echo(publisher, settings.own["exchange"]), publisher)
