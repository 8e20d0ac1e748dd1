"""The table of sections: what `python -m bench NAME` measures."""

from __future__ import annotations

from collections.abc import Callable

from bench import backlog, batches, command, factors, follow, fullspeed, handler, idle, nagios, peers, rates
from bench.trial import Bench

Section = Callable[[Bench], None]

#: In the order in which they run. A section is a function of `bench/NAME.py` that says `report.section` first.
SECTIONS: dict[str, Section] = {
    "rates": rates.measure,
    "full": fullspeed.measure,
    "batches": batches.measure,
    "idle": idle.measure,
    "factors": factors.measure,
    "command": command.measure,
    "handler": handler.measure,
    "nagios": nagios.measure,
    "backlog": backlog.measure,
    "follow": follow.measure,
}
#: Need programs and packages of other people: `make bench-peers` installs them. Not among those that run by default.
WITH_OTHERS: dict[str, Section] = {"peers": peers.measure}
