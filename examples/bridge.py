"""Takes messages from one bus to an exchange of another, in order; each is acknowledged once the other bus has it.

    vigilo-connector run examples.bridge:build --config FILE

`[bus]` is consumed, `[bus:far]`, with the same keys, is published to.
"""

from __future__ import annotations

from typing import Any

from vigiloconn.client import VigiloClient
from vigiloconn.connectors.parts import add_consumer, add_publisher
from vigiloconn.handlers.message import Envelope, MessageHandler
from vigiloconn.options import Settings
from vigiloconn.settings.own import optional_text, setting, text
from vigiloconn.supervisor import Supervisor

SETTINGS = (
    setting("exchange", text, "exchange of the other bus"),
    setting("site", optional_text, "what is put into each message as `site`", required=False),
)


class Bridge(MessageHandler):
    """Sends what has come together, and waits for all confirms: one round trip for many messages."""

    name = "bridge"

    def __init__(self, far: VigiloClient, exchange: str, site: str | None) -> None:
        super().__init__()
        self._far = far
        self._exchange = exchange
        self._site = site

    def process_messages(self, batch: list[dict[str, Any]], envelopes: list[Envelope]) -> None:
        answers = [
            self._far.send(
                self._exchange, envelope.routing_key, self._changed(message), mandatory=True, headers=envelope.headers,
            )
            for message, envelope in zip(batch, envelopes, strict=True)
        ]  # fmt: skip
        for answer in answers:
            # Waits while the other bus is away. A refusal is raised here: then they go again, one by one.
            answer.get()

    def _changed(self, message: dict[str, Any]) -> dict[str, Any]:
        return message if self._site is None else {**message, "site": self._site}


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    far = add_publisher(settings.on_bus("far"), supervisor)
    add_consumer(settings, supervisor, Bridge(far, settings.own["exchange"], settings.own["site"]))
