"""Measure the connector on a private broker, beside baselines of the same run (python -m bench).

Usage:
  bench [--quick] [SECTION ...]

SECTION is publish, latency, outage (which needs publish), or command; all without one.

Options:
  --quick   Smaller numbers: about a minute in all. Ratios are rougher.

Exit status 1 when a target was missed. Absolute figures move from run to run and machine to machine; the
ratios are what to look at.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from docopt import docopt

from bench import command, latency, outage, publish
from bench.support import Report
from tests.support.rabbit import RabbitNode

_SECTIONS = ("publish", "latency", "outage", "command")


def main() -> int:
    """Run the sections that are asked for."""
    options = docopt(__doc__)
    wanted = options["SECTION"] or list(_SECTIONS)
    unknown = set(wanted) - set(_SECTIONS)
    if unknown:
        print(f"SECTION: expected {', '.join(_SECTIONS)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    quick = options["--quick"]
    report = Report(lambda text: print(text, flush=True))
    report.note(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with RabbitNode() as node, tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        normal = 0.0
        if "publish" in wanted or "outage" in wanted:
            count, rounds = (30_000, 1) if quick else (100_000, 3)
            publish.end_to_end(report, node, place, count, rounds)
            normal = publish.measure(report, node, place, count, rounds)
        if "latency" in wanted:
            latency.measure(report, node, place, 3 if quick else 20)
        if "outage" in wanted:
            outage.measure(
                report, node, place, 200_000 if quick else 3_600_000, 150_000 if quick else 1_000_000, normal
            )
        if "command" in wanted:
            command.measure(report, node, place, 20_000 if quick else 100_000)
    if report.missed:
        print(f"\nmissed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
