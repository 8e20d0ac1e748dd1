"""Chaos: seeded runs of faults, each held to the promise.

Usage:
    chaos [--seed=N] [--runs=N] [--only=DIRECTION] [--short] [--soak=N] [--rest=SECONDS] [--keep=DIR]

Options:
    --seed=N    seed of the first run; the next run has the next number (default: drawn, and printed)
    --runs=N    number of runs [default: 10]
    --only=DIRECTION  `lines` to the bus, messages to a `handler`, commands to a `pipe`, else the seed decides;
                or `cluster`: lines to quorum queues of three nodes, which takes minutes
    --short     as in `make test`: few faults, those that begin and end at once
    --soak=N    a long run of one process, which nothing ends: N times something strikes (default: 2 to 5, as drawn)
    --rest=SECONDS  how long nothing strikes in between [default: 30]
    --keep=DIR  where the files of failed runs are kept [default: .run/chaos]

The exit status is 1 when a run has failed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from docopt import docopt

from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.disk import can_mount
from tests.chaos.plan import Plan, Soak, draw_plan
from tests.chaos.runner import Report, Run, heal
from tests.chaos.stage import CLUSTER
from tests.support.rabbit import RabbitNode

#: Of a run that takes longer than two of these, what it used is told for each.
_COURSE_S = 300.0
_MARK = "VIGILOCONN_CHAOS_MOUNTS"


def main() -> int:
    options = docopt(__doc__ or "")
    if can_mount() and _MARK not in os.environ:
        # Mounts of our own end with the last of our processes, whatever ends them.
        command = ["unshare", "--mount", sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, _MARK: "1"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = int(options["--seed"] or random.SystemRandom().randrange(10**6))
    runs = int(options["--runs"])
    say(f"chaos: seed {seed}, {runs} runs")
    failed: list[Report] = []
    alike = [option for option in sys.argv[1:] if option.startswith(("--short", "--only=", "--soak=", "--rest="))]
    with ExitStack() as stack:
        if options["--only"] == CLUSTER:
            cluster = stack.enter_context(running_cluster())
        else:
            cluster = Cluster([stack.enter_context(RabbitNode())])
        for number in range(seed, seed + runs):
            plan = draw_plan(
                number, direction=options["--only"] or "", is_short=options["--short"],
                soak=Soak(int(options["--soak"]), float(options["--rest"])) if options["--soak"] else None,
                may_mount=_MARK in os.environ,
            )
            report = run_one(cluster, plan, Path(options["--keep"]), " ".join(alike))
            if report.verdict.findings:
                failed.append(report)
    say(f"{runs} runs, {len(failed)} failed" + (f": seeds {[report.plan.seed for report in failed]}" if failed else ""))
    return 1 if failed else 0


def run_one(cluster: Cluster, plan: Plan, keep: Path, options: str) -> Report:
    """Play one plan; print its line, and what is wrong with the way to see it again, with the same `options`."""
    place = Path(tempfile.mkdtemp(prefix="vigiloconn-chaos-"))
    began_s = time.monotonic()
    say(f"seed {plan.seed}: {plan.shape}")
    try:
        report = Run(plan, cluster, place / "run", say).play()
        took_s = time.monotonic() - began_s
        say(f"{report}; {took_s:.0f} s")
        if took_s > 2 * _COURSE_S:
            for line in report.usage.course(_COURSE_S):
                say(f"  {line}")
        if report.verdict.findings:
            kept = keep / str(plan.seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place / "run", kept, ignore=shutil.ignore_patterns("*.sock", "*.sqlite*", "*.cmd"))
            for finding in report.verdict.findings:
                say(f"  ! {finding}")
            arguments = f" ARGS='{options}'" if options else ""
            say(f"  again: make chaos SEED={plan.seed} RUNS=1 CLUSTER=0 FUZZ=0{arguments}; its files: {kept}")
    except BaseException:
        heal(cluster.nodes[0])
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
