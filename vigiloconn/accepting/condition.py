"""How the journal is, in words and figures for an operator. Knows what is bad, not what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vigiloconn.accepting.intake import Intake
from vigiloconn.accepting.obstacle import Obstacle
from vigiloconn.interfaces import Level, Problem
from vigiloconn.journal.store import DbRetry, OpenReport
from vigiloconn.options import ConnectorSettings

#: A writer that waits for longer than this is a problem. A moment's wait is how the pace of writers is set.
_WAIT_TOLD_S = 2.0


class Condition:
    """Looks at the journal and at what wants to come into it. `clock` gives monotonic seconds."""

    def __init__(
        self,
        journal: DbRetry,
        settings: ConnectorSettings,
        intake: Intake,
        obstacle: Obstacle,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._intake = intake
        self._obstacle = obstacle
        self._clock = clock

    def problems(self, report: OpenReport | None, why_waiting: Callable[[], str]) -> list[Problem]:
        """Return what an operator should know; `report` is of the opening, None while the journal is not open."""
        return [*self._of_room(), *self._of_opening(report), *self._of_messages(why_waiting)]

    def details(self, report: OpenReport | None) -> dict[str, Any]:
        """Return what a person wants to know, name -> what JSON can hold."""
        return {
            "path": str(self._journal.path),
            "uuid": self._journal.uuid,
            "held": self._journal.held_exchanges(),
            "dropped": dict(self._intake.dropped),
            "writers_waiting": len(self._intake.waiting_since),
            "set_aside": str(report.set_aside) if report is not None and report.set_aside else None,
        }

    def _of_room(self) -> Iterator[Problem]:
        journal, settings = self._journal, self._settings
        if obstacle := self._obstacle.problem():
            yield obstacle
        elif journal.all_rows >= settings.journal_max_messages or journal.all_bytes >= settings.journal_max_bytes:
            text = f"the journal is full: {journal.all_rows} messages, {journal.all_bytes} bytes, parked ones included"
            yield Problem("journal-full", Level.CRITICAL, text)

    def _of_opening(self, report: OpenReport | None) -> Iterator[Problem]:
        if report is not None and report.set_aside is not None:
            text = f"the journal was damaged and is set aside as {report.set_aside}"
            yield Problem("journal-damaged", Level.CRITICAL, text)
        if report is not None and report.volatile:
            text = "the journal is in memory only (backup_file = :memory:)"
            yield Problem("journal-volatile", Level.WARNING, text)

    def _of_messages(self, why_waiting: Callable[[], str]) -> Iterator[Problem]:
        since = self._intake.waiting_since
        if since and (waited_s := self._clock() - since[0]) >= _WAIT_TOLD_S:
            text = f"{len(since)} writers have to wait, one of them for {waited_s:.0f} s: {why_waiting()}"
            yield Problem("writers-blocked", Level.WARNING, text)
        if parked := self._journal.parked_rows:
            yield Problem("messages-parked", Level.WARNING, f"{parked} messages are parked")
        if dropped := sum(self._intake.dropped.values()):
            text = f"{dropped} messages were dropped as when_full says"
            yield Problem("messages-dropped", Level.WARNING, text)
