"""Fixtures: a connector and a Nagios that know each other, on the session's broker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nagios.objects import passive_host
from tests.nagios.process import GROUP, NagiosProcess
from tests.support.bus import Bus
from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitNode

#: The connector's queue. The fixture makes it, so that nothing is published before it is there.
QUEUE = "connector-nagios"
#: Services of the private Nagios; most tests have one of their own, so that none sees what another left.
SERVICES = ("Load", "Disk", "Mail", "Web", "Text")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that Nagios' user can enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="vigiloconn-nagios-"))
    path.chmod(0o755)
    (path / "nagios").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def circle(
    rabbit: RabbitNode, vhost: str, bus: Bus, directory: Path
) -> Iterator[tuple[ConnectorProcess, NagiosProcess]]:
    """A running connector and a running Nagios; the queues `event`, `state` and `perf` keep what they send."""
    for exchange, queue in {"event": "event", "state": "state", "perf": "perf", "nagios": QUEUE}.items():
        bus.declare_queue(queue, bus.declare_exchange(exchange))
    bus.declare_exchange("status")
    home = directory / "connector"
    connector = ConnectorProcess(
        home,
        bus={
            "hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost,
            "queue": QUEUE, "subscriptions": "nagios:all,",
        },
        connector={
            "socket_group": GROUP if os.geteuid() == 0 else os.getgid(),
            "self_monitoring_nagios_exchange": "status", "self_monitoring_perf_exchange": "status",
        },
        nagios={
            "nagios_pipe": directory / "nagios" / "rw" / "nagios.cmd",
            "nagios_config": directory / "nagios" / "objects.cache",
            "accepted_commands": "PROCESS_SERVICE_CHECK_RESULT, PROCESS_HOST_CHECK_RESULT",
        },
    )
    nagios = NagiosProcess(directory / "nagios", passive_host(SERVICES), socket_path=connector.socket_path)
    try:
        connector.start()
        nagios.start()
        yield connector, nagios
    finally:
        nagios.close()
        connector.close()
