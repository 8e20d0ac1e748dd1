"""What every connector gets beside its own parts: an eye on itself, a control socket, systemd. Wiring only."""

from __future__ import annotations

import time
from typing import NamedTuple

from vigiloconn.control.flow import backlog_text
from vigiloconn.control.health import Health
from vigiloconn.control.inquiry import Inquiry
from vigiloconn.control.lookout import JournalFile
from vigiloconn.control.mending import Mending
from vigiloconn.control.metrics import Metrics
from vigiloconn.control.notify import Notifier
from vigiloconn.control.operator import Operator
from vigiloconn.control.place import control_path
from vigiloconn.control.report import Insight, Report
from vigiloconn.control.server import ControlServer
from vigiloconn.control.state import StateLog
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.handlers.publisher import BusPublisher
from vigiloconn.kit.histogram import Histogram
from vigiloconn.kit.spans import span
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor


class Operating(NamedTuple):
    """What others may ask of, and add to."""

    server: ControlServer
    report: Report


def add_notifier(supervisor: Supervisor) -> Notifier:
    """Let systemd be told how it goes. Call it before anything else is added."""
    notifier = Notifier()
    supervisor.add(notifier)
    return notifier


def add_control(settings: Settings, supervisor: Supervisor, notifier: Notifier | None = None) -> Operating:
    """Watch the parts that were added before, and let them be asked about. Call it once, after all others."""
    journals = [part for part in supervisor.handlers if isinstance(part, BackupProvider)]
    inquiry = Inquiry(lambda: supervisor.handlers)
    state_log = StateLog(lambda: backlog_text(*report.backlog(), span))
    insight = _insight(settings, supervisor)
    report = Report(settings.service_name, supervisor, inquiry, state_log, insight)
    health = Health(
        lambda timeout_s: all(journal.is_alive(timeout_s) for journal in journals),
        lambda: "; ".join(refusal for journal in journals if (refusal := journal.refusal())),
    )
    server = _server(settings)
    server.get("/", report.page)
    server.get("/status", report.status)
    server.get("/history", report.history)
    server.get("/metrics", Metrics(report.document, insight.acceptance, insight.confirm).answer)
    server.get("/healthz", health.healthz)
    server.get("/readyz", health.readyz)
    publishers = [part for part in supervisor.handlers if isinstance(part, BusPublisher)]
    if len(journals) == len(publishers) == 1:
        mending = Mending(journals[0], publishers[0], settings)
        server.count_too(mending.stats)
        for target, function in mending.paths().items():
            server.post(target, function)
    supervisor.add(server)
    notifier = notifier or Notifier({})
    notifier.is_alive = health.is_alive

    def watch(now_s: float) -> None:
        report.watch(now_s)
        notifier.tell_status(report.line())

    supervisor.add(Operator(inquiry, state_log, watch, notifier.stopping))
    return Operating(server, report)


def _server(settings: Settings) -> ControlServer:
    runtime = settings.runtime
    path = control_path(runtime.control, runtime.backup_file, settings.nagios.listen_unix)
    return ControlServer(path, group=runtime.socket_group, http=runtime.http, is_named=runtime.control is not None)


def _insight(settings: Settings, supervisor: Supervisor) -> Insight:
    journals = [part for part in supervisor.handlers if isinstance(part, BackupProvider)]
    publishers = [part for part in supervisor.handlers if isinstance(part, BusPublisher)]
    table = settings.runtime.backup_table
    paths = [journal.journal.path for journal in journals if not journal.journal.volatile]
    return Insight(
        oldest_s=lambda: max([
            *(journal.oldest_in_memory_s() for journal in journals), *(one.oldest_s() for one in publishers), 0.0,
        ]),
        ages=tuple(JournalFile(path, table, time.monotonic, with_parked=False) for path in paths),
        files=tuple(JournalFile(path, table, time.monotonic, with_parked=True) for path in paths),
        acceptance=journals[0].acceptance if journals else Histogram(),
        confirm=publishers[0].confirm_age if publishers else Histogram(),
    )  # fmt: skip
