"""A file that waits: records of Nagios' templates into the journal without a broker; memory and disk it takes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.procfs import usage
from bench.support import DEADLINE_S, connector
from bench.trial import Bench
from tests.support.connector import ConnectorProcess

_AT_ONCE = 10_000
_LOOK_S = 0.05
_STATES = {"all events": ("SOFT", 5), "no events": ("HARD", 5)}


def measure(bench: Bench) -> None:
    """Two million records with one metric each, where it has to be quick a tenth."""
    count = 200_000 if bench.quick else 2_000_000
    bench.report.section("follow", f"{count} records of Nagios' templates wait in a file; there is no broker")
    for name, (state_type, changed_at) in _STATES.items():
        _measure(bench, name, count, state_type, changed_at)


def _measure(bench: Bench, name: str, count: int, state_type: str, changed_at: int) -> None:
    report, directory = bench.report, bench.names.fresh()
    directory.mkdir()
    path = directory / "feed"
    with open(path, "w", encoding="ascii") as file:
        for chunk in _records(count, state_type, changed_at):
            file.write(chunk)
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
    taken = count * (size - first) / size
    report.figure(f"{name}: taken", taken / seconds, "records/s", at_least=20_000)
    report.figure(f"{name}: CPU", (after.cpu_s - before.cpu_s) / taken * 1e6, "us a record")
    report.figure(f"{name}: memory, growth", after.rss_mb - before.rss_mb, "MB", at_most=20)
    left_mb = path.stat().st_blocks * 512 / 1e6
    report.figure(f"{name}: file of {size / 1e6:.0f} MB, on the disk in the end", left_mb, "MB", at_most=2)


def _records(count: int, state_type: str, changed_at: int) -> Iterator[str]:
    for start in range(0, count, _AT_ONCE):
        yield "".join([
            f"\nDATATYPE::SERVICEPERFDATA\tTIMET::{1_700_000_000 + n // 500}\tHOSTNAME::host{n % 500}"
            f"\tHOSTADDRESS::192.0.2.{n % 250}\tSERVICEDESC::service {n % 2000}\tSERVICESTATEID::0\tSERVICESTATE::OK"
            f"\tSERVICESTATETYPE::{state_type}\tSERVICEATTEMPT::1\tSERVICEISVOLATILE::0"
            f"\tLASTSERVICESTATECHANGE::{changed_at}\tLASTSERVICECHECK::{1_700_000_000 + n // 500}"
            "\tSERVICEOUTPUT::PING OK - Packet loss = 0%, RTA = 0.80 ms|"
            f"\tSERVICEPERFDATA::rta={n % 1000}.8ms;100;500;0\tEND::1\n"
            for n in range(start, min(count, start + _AT_ONCE))
        ])


def _position(process: ConnectorProcess) -> int:
    """Return how far the file is read, as the journal has it."""
    where = f"file:{Path(process.journal_path)}?mode=ro"
    with closing(sqlite3.connect(where, uri=True, timeout=10.0)) as reader:
        found = reader.execute("SELECT text FROM vigiloconn_kept WHERE name LIKE 'follow:%'").fetchone()
    return int(json.loads(found[0])["position"]) if found else 0
