"""Lines from writers to the bus. Knows the journal's tables, where it has to say what is waiting and what is parked."""

from __future__ import annotations

import time

from tests.chaos import judge
from tests.chaos.consumer import Collector, Delivery
from tests.chaos.figures import total_figures
from tests.chaos.filewriter import FileWriter
from tests.chaos.judge import Evidence, Span, Verdict
from tests.chaos.lines import KINDS
from tests.chaos.outside import OutsideWriter
from tests.chaos.plan import Plan
from tests.chaos.recovery import Arrivals, Lag, wait_back
from tests.chaos.stage import EXCHANGES, EXPIRED, STATUS, Stage
from tests.chaos.writers import Account, ObligedWriter, Written
from tests.support.wait import wait_until

#: How long a journal may take to empty itself once nothing is in its way.
_DRAIN_S = 60.0
_START_S = 20.0
#: Figures come each second, the first of a life ten seconds after it has connected.
_FIGURES_S = 15.0
_COUNTERS = ("expired", "dropped", "parked", "unroutable")


class LinesFlow:
    """Writers, a collector on the bus, and the judge of what it took."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._drops_unwanted = plan.shape.connector.get("when_unroutable") == "drop"
        self._account = Account()
        self._arrivals = Arrivals()
        self._writers: list[ObligedWriter | FileWriter] = []
        self._collector: Collector | None = None

    def begin(self, stage: Stage) -> None:
        self._stage = stage
        stage.declare()
        # Its messages count as accepted when they are taken in, which the judge of times to live can't know.
        self._untimed = [kind for kind in KINDS if kind not in self._plan.ttl_s]
        stage.outside = OutsideWriter(stage.connector.journal_path, self._account, self._untimed, self._plan.seed)
        queues = [*EXCHANGES, STATUS, EXPIRED]
        self._collector = Collector(stage.cluster.nodes, stage.vhost, queues, self._arrivals.take)

    def pour(self) -> None:
        wait_until(self._is_listening, _START_S, "the connector listens")
        path = self._stage.connector.socket_path
        self._writers = [ObligedWriter(plan, path, self._account) for plan in self._plan.writers]
        if self._plan.shape.reclaims and self._untimed:
            file = FileWriter(self._stage.followed_path, self._untimed, self._account, self._plan.seed)
            self._writers.append(file)

    def wait_back(self, lag: Lag) -> tuple[float, str]:
        backlog = max(0, len(self._account.written) - len(self._arrivals))
        return wait_back(self._arrivals, dict(self._account.newest), EXCHANGES, backlog, lag)

    def settle(self) -> list[str]:
        wrong = []
        if any([not writer.finish(_DRAIN_S) for writer in self._writers]):  # noqa: C419 - each has to finish
            wrong.append(f"a writer waited for its last answer for more than {_DRAIN_S:g} s")
        if any(isinstance(writer, FileWriter) for writer in self._writers):
            wait_until(self._stage.is_file_taken, _DRAIN_S, "the followed file is read to its end", 0.1)
        try:
            wait_until(lambda: self._stage.waiting_rows() == 0, _DRAIN_S, "no message waits in the journal", 0.1)
        except AssertionError:
            waiting = self._stage.waiting_rows()
            wrong.append(f"{waiting} messages wait in the journal {_DRAIN_S:g} s after the last line")
        if any(self._may_be_counted(written) for written in self._account.obligations()):
            wrong += self._wait_figures()
        return wrong

    def end(self) -> None:
        for writer in self._writers:
            writer.finish(0.0)
        if self._collector is not None:
            self._collector.finish()

    def judge(self, barred: list[Span]) -> Verdict:
        assert self._collector is not None
        taken, plan = self._collector.deliveries, self._plan
        verdict = judge.judge(Evidence(
            self._account.written,
            [d for d in taken if d.exchange in EXCHANGES],
            self._stage.parked(),
            [d for d in taken if d.exchange == EXPIRED],
            plan.ttl_s, barred,
            may_park=any(strike.fault.may_park for strike in plan.strikes),
            drops_unwanted=self._drops_unwanted,
            has_given_before=not self._stage.cluster.is_alone,
        ))
        verdict.refused = len(self._account.refusals)
        verdict.counted = total_figures((d for d in taken if d.exchange == STATUS), _COUNTERS)
        if not any(strike.fault.may_refuse for strike in plan.strikes):
            verdict.complain("lines refused without a cause", [text for _, text in self._account.refusals])
        if self._stage.keeper.starts == 1:
            self._judge_counters(verdict)
        return verdict

    def _may_be_counted(self, written: Written) -> bool:
        return written.line not in self._arrivals and (self._drops_unwanted or written.line.kind in self._plan.ttl_s)

    def _judge_counters(self, verdict: Verdict) -> None:
        """In one life nothing is missing that was not counted; a killed one takes its last figures with it."""
        for end, messages in (("expired", verdict.expired), ("unroutable", verdict.unwanted)):
            counted = verdict.counted.get(end, 0)
            if messages > counted:
                verdict.findings.append(f"{messages} messages have ended as {end}, and {counted} are counted")

    def _wait_figures(self) -> list[str]:
        """Wait for figures that were made after all was done."""
        since = time.monotonic() + 1.0
        assert self._collector is not None
        deliveries = self._collector.deliveries

        def has_come() -> bool:
            return any(_is_figure(delivery) and delivery.at > since for delivery in reversed(deliveries[-200:]))

        try:
            wait_until(has_come, _FIGURES_S, "figures of the connector", 0.1)
        except AssertionError as exc:
            return [str(exc)]
        return []

    def _is_listening(self) -> bool:
        try:
            self._stage.connector.writer().close()
        except OSError:
            return False
        return True


def _is_figure(delivery: Delivery) -> bool:
    return delivery.exchange == STATUS and b'"perf"' in delivery.body
