"""Posts states from the bus to Icinga 2's `process-check-result`, several hosts at a time, each host's in order.

    vigilo-connector run examples.icinga:build --config FILE

Takes messages of type `state`, as they are made from a socket's lines.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from vigiloconn.connectors.parts import add_consumer
from vigiloconn.errors import BadMessage, NotNow, Retry
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.options import Settings
from vigiloconn.settings.own import optional_text, seconds, secret, setting, text
from vigiloconn.settings.values import Secret
from vigiloconn.supervisor import Supervisor

SETTINGS = (
    setting("url", text, "Icinga's API", default="https://localhost:5665"),
    setting("user", text, "its user"),
    setting("password", secret, "the user's password"),
    setting("ca_file", optional_text, "certificate of Icinga's authority (PEM)", required=False),
    setting("timeout", seconds, "how long one request may take", default="10", unit="s"),
)


class IcingaPoster(MessageHandler):
    """One request a message, 20 at a time."""

    name = "icinga poster"
    workers = 20

    def __init__(self, url: str, user: str, password: Secret, ca_file: str | None, timeout_s: float) -> None:
        super().__init__()
        self._url = url.rstrip("/") + "/v1/actions/process-check-result"
        self._login = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
        self._tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
        self._timeout_s = timeout_s
        self.time_limit_s = 2 * timeout_s

    def order_key(self, message: dict[str, Any]) -> object:
        return message.get("host")

    def process_message(self, message: dict[str, Any]) -> None:
        self._post(result_of(message))

    def _post(self, result: dict[str, Any]) -> None:
        headers = {
            "Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Basic {self._login}",
        }  # fmt: skip
        request = urllib.request.Request(self._url, json.dumps(result).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=self._tls) as answer:
                answer.read()
        except urllib.error.HTTPError as exc:
            raise outcome_of(exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            # Nobody answers: nothing else will go through either. Consumption pauses, and `probe` finds out when.
            raise NotNow(f"{self._url}: {exc}") from exc

    def probe(self) -> None:
        """Icinga is back when it answers, whatever it says."""
        try:
            urllib.request.urlopen(self._url, timeout=self._timeout_s, context=self._tls).close()
        except urllib.error.HTTPError:
            pass


def outcome_of(error: urllib.error.HTTPError) -> Exception:
    """Return what an answer other than 200 means for the message."""
    text = f"Icinga answers {error.code} {error.reason}"
    if error.code in (429, 503):
        wait_s = error.headers.get("Retry-After", "")
        return Retry(text, after_s=float(wait_s) if wait_s.isdigit() else None)
    if error.code in (401, 403):
        return NotNow(text, after_s=60)  # the operator has to mend it; no message is at fault
    if error.code < 500:
        return BadMessage(text)  # 404: no such host or service
    return Retry(text)


def result_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the request's body. Raises `BadMessage`."""
    try:
        host, service = message["host"], message.get("service")
        result = {"exit_status": int(message["code"]), "plugin_output": str(message["message"])}
    except (KeyError, TypeError, ValueError) as exc:
        raise BadMessage(f"expected host, code and message of a state: {exc!r}") from exc
    if service:
        return {"type": "Service", "service": f"{host}!{service}", **result}
    return {"type": "Host", "host": host, **result}


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    own = settings.own
    poster = IcingaPoster(own["url"], own["user"], own["password"], own["ca_file"], own["timeout"])
    add_consumer(settings, supervisor, poster)
