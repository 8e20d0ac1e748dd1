"""Fuzz: random lines, settings, messages and a broker's frames.

Usage:
    fuzzing [--seed=N] [--count=N] [--first=N] [--only=NAME]

Options:
    --seed=N     what decides every case (default: drawn, and printed)
    --count=N    inputs of each kind [default: 1000000]
    --first=N    number of the first case [default: 0]
    --only=NAME  lines, settings, messages or frames

The exit status is 1 when something was found.
"""

from __future__ import annotations

import logging
import random
import resource
import signal
import sys
from collections.abc import Mapping

from docopt import docopt

from tests.chaos.fuzz import Case, Outcome, fuzz

_MOST_BYTES = 2 << 30


def main() -> int:
    from gevent import monkey

    monkey.patch_all()
    # Only now: they import the program, which has to find the patches in place.
    from tests.chaos import fuzz_frames, fuzz_lines, fuzz_messages, fuzz_settings

    cases: Mapping[str, Case] = {
        "lines": fuzz_lines.case, "settings": fuzz_settings.case, "messages": fuzz_messages.case,
        "frames": fuzz_frames.case,
    }
    options = docopt(__doc__ or "")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Whatever asks for more is a finding, and must not take the machine with it.
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    seed = int(options["--seed"] or random.SystemRandom().randrange(10**6))
    print(f"fuzz: seed {seed}, {options['--count']} of each kind", flush=True)
    wanted = [options["--only"]] if options["--only"] else list(cases)
    outcomes = [fuzz(name, cases[name], seed, int(options["--count"]), int(options["--first"])) for name in wanted]
    for outcome in outcomes:
        show(outcome)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def show(outcome: Outcome) -> None:
    """Print what came of it, with the way to each finding."""
    print(outcome, flush=True)
    for found in outcome.findings:
        case = f"--seed={found.seed} --first={found.number} --count=1 --only={outcome.name}"
        print(f"  ! {found.count} times {found.text}\n    again: python -m tests.chaos.fuzzing {case}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
