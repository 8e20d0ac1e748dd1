"""What handing on a result costs Nagios: without a connector, by the feed, by the commands. Knows a real Nagios."""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from bench.report import Report
from bench.support import open_bus
from bench.trial import Bench
from tests.nagios.objects import passive_host, service
from tests.nagios.process import GROUP, PROGRAM, NagiosProcess
from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

WAYS = ("nothing", "feed", "command")
_EXCHANGES = ("event", "state", "perf", "status")
_DEADLINE_S = 60.0
_INTERVAL_S = 4
#: More than these a second the commands can't do on two cores.
_MOST_BY_COMMAND = 100
#: Of CPU a result, Nagios and its children beside none.
_MOST_MS_MORE = 0.15
#: A plugin that costs as little as one can, with one metric.
_PLUGIN = r"""define command {
    command_name    cheap
    command_line    /bin/echo 'OK - fine|time=0.012s\;1\;2\;0\;10'
}
"""


@dataclass(frozen=True)
class Load:
    """So many services, each checked every `interval_s`."""

    services: int
    interval_s: int
    seconds: float = 10.0


class Outcome(NamedTuple):
    """Of one trial; a result is one check of a service."""

    rate: float
    nagios_ms: float
    """CPU of Nagios, its workers, and all that they began, a result."""
    connector_ms: float
    latency_s: float
    """Median of the services' check latencies at the end."""
    worst_latency_s: float
    missing: int
    """Results that Nagios had written, or its commands had sent, and that are not on the bus."""


class _Trial:
    """A Nagios, and a connector where there is one."""

    def __init__(self, nagios: NagiosProcess, connector: ConnectorProcess | None, jobs_a_result: int) -> None:
        self.nagios = nagios
        self._connector = connector
        self._jobs_a_result = jobs_a_result

    def results(self) -> float:
        """Return how many checks Nagios' workers have begun."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.nagios.directory / "rw" / "nagios.qh"))
            link.sendall(b"#wproc wpstats\0")
            with link.makefile("rb") as stream:
                text = stream.read().decode()
        return sum(map(int, re.findall(r"jobs_started=(\d+)", text))) / self._jobs_a_result

    def nagios_s(self) -> float:
        """Return the CPU of Nagios, its workers, and of their children that have ended."""
        top = psutil.Process(self.nagios.pid)
        total = 0.0
        for process in (top, *top.children()):
            total += sum(process.cpu_times()[:2])
        # What workers began is their children, and what the workers are is Nagios' own.
        return total + sum(sum(worker.cpu_times()[2:4]) for worker in top.children())

    def connector_s(self) -> float:
        return self._connector.cpu_s() if self._connector else 0.0

    def latencies_s(self) -> list[float]:
        """Return the check latency of each service, as the status file has it, in order."""
        text = self.nagios.status_path.read_text(encoding="utf-8", errors="replace")
        blocks = re.findall(r"^servicestatus \{\n(.*?)^\t\}$", text, re.MULTILINE | re.DOTALL)
        return sorted(float(found[1]) for block in blocks if (found := re.search(r"check_latency=(\S+)", block)))


def run(node: RabbitNode, directory: Path, way: str, load: Load) -> Outcome:
    """Let a Nagios work for so long, by one of `WAYS`."""
    with _trial(node, directory, way, load) as trial:
        # Each service is checked once before it counts.
        time.sleep(load.interval_s + 2)
        before = trial.results(), trial.nagios_s(), trial.connector_s(), time.monotonic()
        time.sleep(load.seconds)
        after = trial.results(), trial.nagios_s(), trial.connector_s(), time.monotonic()
        results, nagios_s, connector_s, elapsed_s = (end - begin for begin, end in zip(before, after, strict=True))
        latencies = trial.latencies_s()
        trial.nagios.stop()
        missing = _missing(node, trial.nagios.directory / "feed") if way == "feed" else 0
    return Outcome(
        results / elapsed_s, nagios_s / results * 1e3, connector_s / results * 1e3, latencies[len(latencies) // 2],
        latencies[-1], missing,
    )  # fmt: skip


@contextmanager
def _trial(node: RabbitNode, directory: Path, way: str, load: Load) -> Iterator[_Trial]:
    feed_path = directory / "nagios" / "feed"
    with ExitStack() as stack:
        connector = None
        if way != "nothing":
            with open_bus(node) as bus:
                for name in _EXCHANGES:
                    bus.declare_exchange(name)
                    bus.delete_queue(name)
                    bus.declare_queue(name, name)
            connector = ConnectorProcess(
                directory / "connector", log_level="WARNING",
                bus={"hosts": node.address, "user": node.user, "password": node.password},
                connector={
                    "socket_group": GROUP, "self_monitoring_nagios_exchange": "status",
                    "self_monitoring_perf_exchange": "status",
                },
                nagios={"follow": feed_path} if way == "feed" else {},
            )  # fmt: skip
            stack.callback(connector.close)
            connector.start()
        (directory / "nagios").mkdir()
        nagios = NagiosProcess(
            directory / "nagios", _objects(load),
            socket_path=connector.socket_path if connector and way == "command" else None,
            feed_path=feed_path if way == "feed" else None,
            main="service_inter_check_delay_method=s\nmax_service_check_spread=1\nstatus_update_interval=5\n"
            "log_passive_checks=0\nmax_concurrent_checks=0\ncheck_external_commands=1\n",
        )  # fmt: skip
        stack.callback(nagios.close)
        nagios.start()
        yield _Trial(nagios, connector, 2 if way == "command" else 1)


def _objects(load: Load) -> str:
    services = "".join(
        service(f"service{number}", plugin="x", interval_s=load.interval_s).replace("plugin!x", "cheap")
        for number in range(load.services)
    )
    return _PLUGIN + passive_host(()) + services


def _missing(node: RabbitNode, feed_path: Path) -> int:
    """Return how many of the file's records are not on the bus, once nothing more comes."""
    written = feed_path.read_bytes().count(b"\nDATATYPE::")
    with open_bus(node) as bus:
        try:
            wait_until(lambda: bus.queue_depth("state") >= written, _DEADLINE_S, "all results are on the bus", 0.1)
        except AssertionError:
            pass
        return written - bus.queue_depth("state")


def measure(bench: Bench) -> None:
    """Compare the ways at growing rates, then at as many checks as Nagios can begin."""
    report = bench.report
    report.section("nagios", "Nagios checks services; each result is a state and a metric on the bus")
    if not PROGRAM.exists():
        report.note(f"no {PROGRAM} here: `make nagios` installs it")
        return
    rates = (100,) if bench.quick else (50, 200, 500)
    seconds = 5.0 if bench.quick else 15.0
    for rate in rates:
        load = Load(services=rate * _INTERVAL_S, interval_s=_INTERVAL_S, seconds=seconds)
        # Beyond what the commands can do their figures say nothing.
        ways = [way for way in WAYS if way != "command" or rate <= _MOST_BY_COMMAND]
        found = {way: [_run(bench, way, load) for _ in range(bench.rounds)] for way in ways}
        _tell_costs(report, f"{rate} results/s", found)
    load = Load(services=2000, interval_s=1, seconds=seconds)
    best = {way: [_run(bench, way, load) for _ in range(bench.rounds)] for way in WAYS}
    for way, outcomes in best.items():
        report.figure(f"at most: {way}", [outcome.rate for outcome in outcomes], "results/s")
    feed, nothing = (median(outcome.rate for outcome in best[way]) for way in ("feed", "nothing"))
    report.figure("at most: feed beside nothing", feed / nothing, "x")


def _run(bench: Bench, way: str, load: Load) -> Outcome:
    # Nagios' user has to be able to enter it.
    with tempfile.TemporaryDirectory(prefix="bench-nagios-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        return run(bench.node, directory, way, load)


def _tell_costs(report: Report, at: str, found: dict[str, list[Outcome]]) -> None:
    for way, outcomes in found.items():
        report.figure(f"{at}: {way}: Nagios and children", [each.nagios_ms for each in outcomes], "ms CPU")
        if way != "nothing":
            report.figure(f"{at}: {way}: connector", [each.connector_ms for each in outcomes], "ms CPU")
        report.figure(f"{at}: {way}: check latency, worst", [each.worst_latency_s for each in outcomes], "s")
    base = median(each.nagios_ms for each in found["nothing"])
    for way in found:
        if way != "nothing":
            # A process of its own is a thousand times the cost of a line: a target for the feed only.
            limit = _MOST_MS_MORE if way == "feed" else None
            more = [each.nagios_ms - base for each in found[way]]
            report.figure(f"{at}: {way}: Nagios beside no connector", more, "ms CPU more", at_most=limit)
    report.figure(f"{at}: feed: results not on the bus", [each.missing for each in found["feed"]], "", at_most=0)
