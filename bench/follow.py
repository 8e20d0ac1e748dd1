"""A file that waits: records of Nagios' templates into the journal without a broker; memory and disk it takes."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from bench.procfs import usage
from bench.support import DEADLINE_S, connector
from bench.trial import Bench
from tests.support.connector import ROOT, ConnectorProcess

_AT_ONCE = 10_000
_LOOK_S = 0.05
#: What each result is: code, state type, messages that come of it.
_STATES = {"all events": ("2", "SOFT", 3), "no events": ("0", "HARD", 2)}
_TEMPLATE_PATH = ROOT / "conf/nagios/vigilo-feed.cfg"


def measure(bench: Bench) -> None:
    """Two million records with one metric each, where it has to be quick a tenth."""
    count = 200_000 if bench.quick else 2_000_000
    bench.report.section("follow", f"{count} records of Nagios' templates wait in a file; there is no broker")
    for name, (code, state_type, messages) in _STATES.items():
        _measure(bench, name, count, _records(count, code, state_type), count * messages)


def _measure(bench: Bench, name: str, count: int, records: Iterator[str], messages: int) -> None:
    report, directory = bench.report, bench.names.fresh()
    directory.mkdir()
    path = directory / "feed"
    with open(path, "w", encoding="ascii") as file:
        file.writelines(records)
    size = path.stat().st_size
    nagios = {"follow": path, "follow_reclaim": "punch"}
    with connector(bench.node, directory, bus={"hosts": "127.0.0.1:1"}, nagios=nagios) as process:
        began, pid = time.monotonic(), process.process.pid
        before, first = usage(pid), _position(process)
        while (position := _position(process)) < size:
            if time.monotonic() - began > DEADLINE_S:
                raise AssertionError(f"byte {position} of {size} after {DEADLINE_S:.0f} s\n{process.log_text()}")
            time.sleep(_LOOK_S)
        seconds, after = time.monotonic() - began, usage(pid)
        # Its own figures are there too.
        if (found := _query(process, "SELECT count(*) FROM tobus WHERE msg LIKE '%\"host\":\"host%'")) != messages:
            raise AssertionError(f"expected {messages} messages, got {found}\n{process.log_text()}")
    taken = count * (size - first) / size
    report.figure(f"{name}: taken", taken / seconds, "records/s", at_least=20_000)
    report.figure(f"{name}: CPU", (after.cpu_s - before.cpu_s) / taken * 1e6, "us a record")
    report.figure(f"{name}: memory, growth", after.rss_mb - before.rss_mb, "MB", at_most=20)
    left_mb = path.stat().st_blocks * 512 / 1e6
    report.figure(f"{name}: file of {size / 1e6:.0f} MB, on the disk in the end", left_mb, "MB", at_most=2)


def _records(count: int, code: str, state_type: str) -> Iterator[str]:
    """Return the records of so many results, as the shipped template has them."""
    settings = _TEMPLATE_PATH.read_text(encoding="utf-8")
    [template] = re.findall(r"^service_perfdata_file_template=(.*)$", settings, re.MULTILINE)
    constant = {"SERVICESTATEID": code, "SERVICESTATE": "OK", "SERVICESTATETYPE": state_type,
                "SERVICEOUTPUT": "PING OK - Packet loss = 0%, RTA = 0.80 ms"}  # fmt: skip
    varying = {"TIMET": "{time}", "LASTSERVICECHECK": "{time}", "HOSTNAME": "host{host}",
               "SERVICEDESC": "service {service}", "HOSTADDRESS": "192.0.2.{address}",
               "SERVICEPERFDATA": "rta={host}.8ms;100;500;0"}  # fmt: skip
    template = template.replace(r"\t", "\t").replace(r"\n", "\n") + "\n"
    template = re.sub(r"\$(\w+)\$", lambda macro: {**constant, **varying}.get(macro[1], "0"), template)
    for start in range(0, count, _AT_ONCE):
        yield "".join([
            template.format(time=1_700_000_000 + n // 500, host=n % 500, service=n % 2000, address=n % 250)
            for n in range(start, min(count, start + _AT_ONCE))
        ])


def _position(process: ConnectorProcess) -> int:
    """Return how far the file is read, as the journal has it."""
    found = _query(process, "SELECT text FROM vigiloconn_kept WHERE name LIKE 'follow:%'")
    return int(json.loads(found)["position"]) if found else 0


def _query(process: ConnectorProcess, sql: str) -> Any:
    with closing(sqlite3.connect(f"file:{process.journal_path}?mode=ro", uri=True, timeout=10.0)) as reader:
        found = reader.execute(sql).fetchone()
    return found[0] if found else None
