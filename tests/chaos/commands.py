"""Messages from the bus to a handler that notes them in a file, or to a command pipe. Knows what each has to leave."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

from tests.chaos.feeder import Feeder
from tests.chaos.judge import Span, Verdict
from tests.chaos.pipereader import PipeReader
from tests.chaos.plan import PIPE, Plan
from tests.chaos.recovery import BACKLOG_PER_S, Lag, verdict_on_time
from tests.chaos.stage import QUEUE, Stage
from tests.support.wait import wait_until

_DRAIN_S = 60.0
_NEVER_S = 60.0
_START_S = 20.0
_COMMAND = "PROCESS_SERVICE_CHECK_RESULT"
_LINE = re.compile(rb"\[1\.0\] PROCESS_SERVICE_CHECK_RESULT;h;s;0;(\d+)\.")


class CommandsFlow:
    """A feeder before the connector, and what the connector did with each number behind it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._to_pipe = plan.direction == PIPE
        self._feeder: Feeder | None = None
        self._reader: PipeReader | None = None
        self._calm_repeats = 0
        # With one message ahead each costs the time of a way there and back.
        self._backlog_per_s = 500.0 if plan.shape.bus["prefetch_count"] == 1 else BACKLOG_PER_S

    def begin(self, stage: Stage) -> None:
        self._stage = stage
        stage.on_bus(lambda bus: bus.declare_queue(QUEUE))
        if self._to_pipe:
            self._reader = stage.reader = PipeReader(stage.directory / "nagios.cmd")

    def pour(self) -> None:
        stage, plan = self._stage, self._plan
        self._feeder = Feeder(stage.node, stage.vhost, QUEUE, self._make, plan.feed_pause_s, plan.seed)
        wait_until(lambda: len(self._done()) > 50, _START_S, "the first messages are done")
        done = self._done()
        self._calm_repeats = len(done) - len(set(done))

    def wait_back(self, lag: Lag) -> tuple[float, str]:
        assert self._feeder is not None
        lag.take_s()
        started_s, mark = time.monotonic(), self._feeder.number
        backlog = max(0, mark - len(set(self._done())))
        try:
            wait_until(lambda: max(self._done(), default=0) > mark, _NEVER_S, "a message from after the cure")
        except AssertionError as exc:
            return _NEVER_S, str(exc)
        return verdict_on_time(time.monotonic() - started_s, backlog, lag, self._backlog_per_s)

    def settle(self) -> list[str]:
        assert self._feeder is not None
        self._feeder.finish()
        wanted = set(self._feeder.obligations)
        try:
            wait_until(lambda: wanted <= set(self._done()), _DRAIN_S, "every message is done", 0.1)
            wait_until(lambda: self._stage.depth(QUEUE) == 0, _DRAIN_S, "the queue is empty", 0.1)
        except AssertionError as exc:
            return [str(exc)[:500]]
        return []

    def end(self) -> None:
        if self._feeder is not None:
            self._feeder.finish()
        if self._reader is not None:
            self._reader.finish()

    def judge(self, barred: list[Span]) -> Verdict:
        assert self._feeder is not None
        done, obligations = self._done(), self._feeder.obligations
        firsts = list(dict.fromkeys(done))
        verdict = Verdict(obligations=len(obligations), delivered=len(set(done) & set(obligations)))
        verdict.repeats = len(done) - len(firsts)
        verdict.complain("messages lost", sorted(set(obligations) - set(done)))
        verdict.complain("messages that nobody sent", [n for n in firsts if not 0 < n <= self._feeder.number])
        early = [f"{after} after {before}" for before, after in itertools.pairwise(firsts) if after < before]
        # A broker that hears of a loss after we are back puts what it takes back behind what it has sent since.
        if len(early) > self._losses():
            verdict.complain("messages out of order", early)
        verdict.complain("commands that nobody sent", self._foreign())
        if self._calm_repeats:
            verdict.findings.append(f"{self._calm_repeats} messages came again before the first fault")
        self._judge_repeats(verdict)
        # Unacknowledged ones are back in the queue now.
        for queue in (QUEUE, f"{QUEUE}.dead"):
            if depth := self._stage.depth(queue):
                verdict.findings.append(f"{depth} messages in queue {queue} at the end, all of them done")
        return verdict

    def _losses(self) -> int:
        """Return how many connections and lives there were at most."""
        return self._stage.proxy.connections_ever() + self._stage.keeper.starts

    def _judge_repeats(self, verdict: Verdict) -> None:
        """What was under way may come again: no more than the prefetch for each connection or life that was lost."""
        losses = self._losses()
        bound = losses * int(str(self._plan.shape.bus["prefetch_count"]))
        if verdict.repeats > bound:
            verdict.findings.append(f"{verdict.repeats} repeats: expected at most {bound} after {losses} losses")

    def _make(self, number: int) -> dict[str, Any]:
        if self._to_pipe:
            return {"type": "nagios", "timestamp": 1, "cmdname": _COMMAND, "value": f"h;s;0;{number}."}
        return {"type": "event", "n": number}

    def _done(self) -> list[int]:
        """Return the numbers that are done, in the order in which that was."""
        if self._reader is not None:
            return [int(match[1]) for line in list(self._reader.commands) if (match := _LINE.fullmatch(line))]
        # Lines with a `#` say how large a batch was.
        return [int(line) for line in _whole_lines(self._stage.directory / "done.txt") if line[0] != "#"]

    def _foreign(self) -> list[bytes]:
        if self._reader is None:
            return []
        return [line for line in self._reader.commands if not _LINE.fullmatch(line)]


def _whole_lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []
