"""Takes syslog messages over TCP (RFC 6587, one a line) and sends each as an event: a source with many clients.

    vigilo-connector run examples.syslog:build --config FILE

A client is not read from while the journal has no room, so nothing that was taken is lost: TCP makes it wait.
"""

from __future__ import annotations

import re
import socket
import time

from vigiloconn.connectors.parts import add_journal, add_status
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.handlers.source import Source
from vigiloconn.options import Settings
from vigiloconn.settings.own import setting, text, whole
from vigiloconn.supervisor import Supervisor

SETTINGS = (
    setting("address", text, "address to listen on", default="127.0.0.1"),
    setting("port", whole(1, 65535), "TCP port to listen on", default="6514"),
)

_LINE = re.compile(r"<(\d{1,3})>(?:1 )?(.*)", re.DOTALL)
_STATES = ("CRITICAL", "CRITICAL", "CRITICAL", "CRITICAL", "WARNING", "OK", "OK", "OK")
_MAX_LINE_BYTES = 8192


def event_of(line: bytes, client: str) -> dict[str, object]:
    """Return the event that a line stands for: its severity is the state. RFC 5424, section 6.2.1."""
    found = _LINE.fullmatch(line.decode("utf-8", "replace").strip())
    severity = int(found[1]) % 8 if found else 6
    message = found[2] if found else line.decode("utf-8", "replace").strip()
    return {
        "type": "event", "timestamp": int(time.time()), "host": client, "service": "syslog",
        "state": _STATES[severity], "message": message,
    }  # fmt: skip


class SyslogSource(Source):
    """Listens, and reads each client on a greenlet of its own."""

    name = "syslog"

    def __init__(self, journal: BackupProvider, address: str, port: int) -> None:
        super().__init__(journal)
        self._address = (address, port)
        self._listener: socket.socket | None = None

    def start_service(self) -> None:
        # Here and not in the constructor: `check` builds a connector, too, and must open nothing.
        self._listener = socket.create_server(self._address)

    def produce(self) -> None:
        assert self._listener is not None
        self._listener.settimeout(0.5)
        while not self.is_stopping:
            try:
                link, (client, *_) = self._listener.accept()
            except TimeoutError:
                continue
            self.spawn(self._read, link, client)

    def _read(self, link: socket.socket, client: str) -> None:
        with link, link.makefile("rb") as lines:
            try:
                while line := lines.readline(_MAX_LINE_BYTES):
                    self.put([event_of(line, client)])
            except OSError:
                return  # the client is gone; what it sent in whole lines is taken

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    journal = add_journal(settings, supervisor)
    supervisor.add(SyslogSource(journal, settings.own["address"], settings.own["port"]))
    add_status(settings, supervisor, journal)
