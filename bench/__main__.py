"""Measure the connector on a private broker, beside baselines of the same run (python -m bench).

Usage:
  bench [--quick] [--rounds N] [--json FILE] [--svg DIR] [SECTION ...]
  bench --list

All sections but `peers` run where none is named; `peers` needs what `make bench-peers` installs.

Options:
  --quick      Smaller numbers and one round: some five minutes in all. Ratios are rougher.
  --rounds N   How often each trial is made [default: 3].
  --json FILE  Write the figures there too; what the file has of sections that do not run now stays.
  --svg DIR    Write plots of FILE's figures, or of this run's, as SVG.
  --list       Name the sections.

Exit status 1 when a target was missed or a section failed. Absolute figures move from run to run and machine to
machine; the ratios are what to look at.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from docopt import docopt

from bench.contestants import Names
from bench.plots import write_plots
from bench.report import Report
from bench.sections import SECTIONS, WITH_OTHERS
from bench.trial import Bench
from tests.support.rabbit import RabbitNode


def main() -> int:
    """Run the sections that are asked for."""
    options = docopt(__doc__)
    known = {**SECTIONS, **WITH_OTHERS}
    if options["--list"]:
        print("\n".join(known))
        return 0
    wanted = options["SECTION"] or list(SECTIONS)
    unknown = set(wanted) - set(known)
    if unknown:
        print(f"SECTION: expected {', '.join(known)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    # An end by SIGTERM cleans up as one by Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    report = Report(lambda text: print(text, flush=True))
    rounds = 1 if options["--quick"] else int(options["--rounds"])
    path = Path(options["--json"]) if options["--json"] else None
    failed = _measure(wanted, report, path, quick=options["--quick"], rounds=rounds)
    if options["--svg"]:
        write_plots(report.known(), Path(options["--svg"]))
    if report.missed:
        print(f"\nmissed: {', '.join(report.missed)}")
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if report.missed or failed else 0


def _measure(wanted: list[str], report: Report, path: Path | None, *, quick: bool, rounds: int) -> list[str]:
    """Run the sections, each on a node of its own; return the names of those that failed."""
    failed = []
    for name in wanted:
        with RabbitNode() as node, tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                {**SECTIONS, **WITH_OTHERS}[name](Bench(node, report, Names(Path(directory)), quick, rounds))
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                print(f"  FAILED: {error}", flush=True)
                report.sections.pop(name, None)
                failed.append(name)
        report.end_section(name)
        if path is not None:
            report.save(path)
    return failed


if __name__ == "__main__":
    sys.exit(main())
