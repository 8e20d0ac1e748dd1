"""What every connector gets beside its own parts: a control socket. Wiring, and nothing else."""

from __future__ import annotations

from vigiloconn.control.health import Health
from vigiloconn.control.place import control_path
from vigiloconn.control.server import ControlServer
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor


def add_control(settings: Settings, supervisor: Supervisor) -> ControlServer:
    """Let the parts that were added before be asked about, by the control socket. Call it once, after all others."""
    runtime = settings.runtime
    path = control_path(runtime.control, runtime.backup_file, settings.nagios.listen_unix)
    server = ControlServer(
        path, group=runtime.socket_group, http=runtime.http, is_named=runtime.control is not None,
    )  # fmt: skip
    journals = [part for part in supervisor.handlers if isinstance(part, BackupProvider)]
    health = Health(
        lambda timeout_s: all(journal.is_alive(timeout_s) for journal in journals),
        lambda: "; ".join(refusal for journal in journals if (refusal := journal.refusal())),
    )
    server.get("/healthz", health.healthz)
    server.get("/readyz", health.readyz)
    supervisor.add(server)
    return server
