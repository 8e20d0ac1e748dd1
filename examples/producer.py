"""Measures this machine's load every few seconds and sends it as performance data: a source that is no socket.

    vigilo-connector run examples.producer:build --config FILE

`[connector-producer]` takes `period` (seconds, 10 by default) and `host` (the machine's name by default). Values are
journaled like lines of the socket: while the bus is away they wait on the disk.
"""

from __future__ import annotations

import os
import socket
import time

from vigiloconn.connectors.parts import add_journal, add_status
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.handlers.source import Source
from vigiloconn.options import Settings
from vigiloconn.settings.own import optional_text, seconds, setting
from vigiloconn.supervisor import Supervisor

SETTINGS = (
    setting("period", seconds, "how often the load is measured", default="10", unit="s"),
    setting("host", optional_text, "host that the values are of; without it the machine's name", required=False),
)


class LoadProbe(Source):
    """Puts three values every `period_s`."""

    name = "load probe"

    def __init__(self, journal: BackupProvider, host: str, period_s: float) -> None:
        super().__init__(journal)
        self._host = host
        self._period_s = period_s

    def produce(self) -> None:
        while not self.wait(self._period_s):
            # Blocks while a full journal has no room, and with it the measuring: there is no queue that could grow.
            self.put(
                {"type": "perf", "timestamp": int(time.time()), "host": self._host, "datasource": name, "value": value}
                for name, value in zip(("load1", "load5", "load15"), os.getloadavg(), strict=True)
            )


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    own = settings.own
    journal = add_journal(settings, supervisor)
    supervisor.add(LoadProbe(journal, own["host"] or socket.gethostname(), own["period"]))
    add_status(settings, supervisor, journal)
