"""One run: the stage is set, the plan's faults strike, everything heals, the judge looks. Knows the order of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.chaos.cluster import Cluster
from tests.chaos.commands import CommandsFlow
from tests.chaos.faults import STOP_S
from tests.chaos.figures import Usage
from tests.chaos.judge import Span, Verdict
from tests.chaos.outward import LinesFlow
from tests.chaos.plan import LINES, Episode, Plan, Strike
from tests.chaos.recovery import Lag
from tests.chaos.stage import CLUSTER, Stage
from tests.support.rabbit import RabbitError, RabbitNode

#: How often the process is looked at while nothing strikes.
_LOOK_S = 5.0

Note = Callable[[str], None]


class Flow(Protocol):
    """What goes through the connector in a run, and what must come of it."""

    def begin(self, stage: Stage) -> None:
        """Make what has to be there before the connector starts."""

    def pour(self) -> None:
        """Let it flow, as soon as the connector takes it."""

    def wait_back(self, lag: Lag) -> tuple[float, str]:
        """Wait until what is sent from now on arrives; return the seconds, and what is wrong with them."""

    def settle(self) -> list[str]:
        """Send no more and wait for the rest; return what is wrong. The connector runs."""

    def end(self) -> None:
        """The connector has stopped: take what is left. Harmless when called twice."""

    def judge(self, barred: list[Span]) -> Verdict:
        """Return what is to be said of it."""


@dataclass(slots=True)
class Report:
    """What came of a run."""

    plan: Plan
    verdict: Verdict
    slowest_s: float = 0.0
    starts: int = 0
    usage: Usage = field(default_factory=Usage)

    def __str__(self) -> str:
        v = self.verdict
        parts = [
            f"seed {self.plan.seed}: {'FAILED' if v.findings else 'ok'}", self.plan.direction,
            f"{len(self.plan.strikes)} faults",
            f"{v.obligations} obligations, {v.delivered} delivered, {v.repeats} repeats, {v.parked} parked, "
            f"{v.expired} expired, {v.unwanted} unwanted, {v.refused} refused",
            *([f"counted {v.counted}"] if v.counted else []),
            f"back after {self.slowest_s:.1f} s at most", f"{self.starts} lives", str(self.usage),
        ]
        return "; ".join(parts)


class Run:
    """Plays one plan."""

    def __init__(self, plan: Plan, cluster: Cluster, directory: Path, note: Note) -> None:
        self._plan = plan
        self._stage = Stage(cluster, directory, plan.shape)
        self._flow: Flow = LinesFlow(plan) if plan.direction in (LINES, CLUSTER) else CommandsFlow(plan)
        self._note = note
        self._findings: list[str] = []
        self._barred: list[Span] = []
        self._barred_since: float | None = None
        self._usage = Usage()
        self._slowest_s = 0.0

    def play(self) -> Report:
        """Play the plan to its end. What goes wrong is in the report; an error here is the harness's own."""
        with ExitStack() as stack:
            stage, flow = stack.enter_context(self._stage), self._flow
            self._lag = Lag()
            stack.callback(self._lag.finish)
            stack.callback(flow.end)
            flow.begin(stage)
            stage.keeper.start()
            flow.pour()
            self._recover()
            for episode in self._plan.episodes:
                self._play(episode)
            self._recover()
            self._findings += flow.settle()
            self._look()
            if (status := stage.keeper.stop(STOP_S)) != 0:
                self._findings.append(f"the last stop: expected status 0 within {STOP_S:g} s, got {status}")
            flow.end()
            verdict = flow.judge(self._barred)
            verdict.findings[:0] = self._findings
            self._judge_ends(verdict)
            return Report(self._plan, verdict, self._slowest_s, stage.keeper.starts, self._usage)

    def _play(self, episode: Episode) -> None:
        struck: list[Strike] = []
        try:
            for strike in episode.strikes:
                time.sleep(strike.after_s)
                self._note(f"  {strike}, for {strike.hold_s:.1f} s")
                if not strike.fault.lets_pass and self._barred_since is None:
                    self._barred_since = time.monotonic()
                struck.append(strike)
                self._do(strike.fault.hurt, strike)
                if strike.fault.flows_on:
                    self._recover()
            time.sleep(max(strike.hold_s for strike in episode.strikes))
        finally:
            for strike in reversed(struck):
                self._do(strike.fault.cure, strike)
        if episode.is_followed_by_calm:
            self._recover()
        self._rest(episode.rest_s)

    def _rest(self, rest_s: float) -> None:
        until_s = time.monotonic() + rest_s
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            self._look()

    def _look(self) -> None:
        controls = self._stage.controls
        stall_s, controls.stall_s = controls.stall_s, 0.0
        self._usage.look(self._stage.connector.process.pid, stall_s)

    def _do(self, act: Callable[[Stage, object], None], strike: Strike) -> None:
        try:
            act(self._stage, strike.argument)
        except AssertionError as exc:
            self._findings.append(f"{strike}: {exc}")

    def _recover(self) -> None:
        took_s, trouble = self._flow.wait_back(self._lag)
        self._note(f"  back after {took_s:.1f} s" + (f": {trouble}" if trouble else ""))
        self._slowest_s = max(self._slowest_s, took_s)
        if trouble:
            self._findings.append(trouble)
        if self._barred_since is not None:
            self._barred.append(Span(self._barred_since, time.monotonic()))
            self._barred_since = None
        self._look()

    def _judge_ends(self, verdict: Verdict) -> None:
        may_fail = any(strike.fault.may_fail_start for strike in self._plan.strikes)
        ends = [status for _, status in self._stage.keeper.surprises if not (may_fail and status == 1)]
        verdict.complain("ends of the connector that nobody asked for, by their status", ends)


def heal(node: RabbitNode) -> None:
    """Bring a broker back from whatever a run that was broken off has left. Raises `RabbitError`."""
    try:
        node.reset()
        node.ctl("set_disk_free_limit", "50MB")
    except (RabbitError, OSError):
        node.restart()
        node.reset()
