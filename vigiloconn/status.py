"""What a connector tells of itself on the bus: its state and its figures.

Knows handlers by their `stats()` and `problems()`, and the two kinds of messages that it sends.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from vigiloconn.control.inquiry import Inquiry, merge_figures
from vigiloconn.control.state import LEVELS, describe_state
from vigiloconn.errors import BusDown
from vigiloconn.interfaces import SELF_MONITORING_KEY, Answer, Batch, Sink
from vigiloconn.kit.memory import process_memory
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import Publication, Settings
from vigiloconn.serialize import encode, route_key
from vigiloconn.supervisor import Handler

__all__ = [
    "REQUIRED", "StatusPublisher", "describe_state", "machine_name", "merge_figures", "process_memory",
    "statuspublisher_factory",
]

log = logging.getLogger(__name__)

#: Figures that are sent in any case, 0 where no source counts them.
REQUIRED = ("sent", "received", "queue", "backup", "backup_in_buf", "backup_out_buf")
FIRST_DELAY_S = 10.0

#: Figures in memory that an exchange of their own has not confirmed: some two hours' worth.
_MAX_UNANSWERED = 4000
#: The longest that a silent name server delays the first report; no other part of the connector waits for it.
_RESOLVE_S = 30.0


class StatusPublisher(Handler):
    """Sends the figures of its sources every `status_period`, and their state then and whenever it changes.

    Figures go into `sink`, the journal, also while the bus is away, so that a graph has no hole after an
    outage. A journal without room never holds this part up: one batch waits for room, those after it are
    skipped and counted. The state goes past the journal: it is sent only while connected, and one that no
    queue wants is dropped.

    Figures that have an exchange or a TTL of their own (`self_monitoring_perf_exchange`) can't go through the
    journal, where the type alone decides both. They wait in memory while the bus is away: an outage leaves no
    hole, a restart during an outage does.

    Of sources that give a figure of the same name the first one added keeps the name, the others' get the
    handler's name before it (`journal_parked`). So add the part whose `sent` and `received` are meant first: the
    publisher; and a consumer of the bus before the socket (without a consumer `received` counts lines).

    `service` is the settings' where it is None; with an empty one the state is that of the host. Counters in
    `stats()`: states_sent, figures_skipped.
    """

    name = "status"

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        sources: Iterable[Handler] = (),
        *,
        service: str | None = None,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        runtime = settings.runtime
        self.service = (runtime.status_service or settings.service_name) if service is None else service
        self._figure_prefix = self.service or settings.service_name
        self._sink = sink
        parts = list(sources)
        self._inquiry = Inquiry(lambda: parts)
        self._host = runtime.hostname
        self._period_s = runtime.status_period_s
        self._first_delay_s = first_delay_s
        self._perf = runtime.self_monitoring_perf_exchange or settings.publication("perf")
        self._goes_as_perf = self._perf == settings.publication("perf")
        self._nagios = runtime.self_monitoring_nagios_exchange or settings.publication("nagios")
        self._due: float | None = None
        self._has_reported = False
        self._putting: gevent.Greenlet[..., Any] | None = None
        self._unanswered: list[Answer] = []
        self._state_wanted = False
        self._state_result: Answer | None = None
        # In order until told otherwise: a connector that begins in any other state says so at once.
        self._told: object = _signature(0, "running")
        self._states_sent = 0
        self._figures_skipped = 0
        self._refused_log = RateLimitedLog(log, period_s=600.0)
        self._skipped_log = RateLimitedLog(log, period_s=600.0)
        self._wake = Event()
        self._stopping = False

    # -- life ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        if self._due is None:
            self._due = time.monotonic() + self._period_s
        while not self._stopping:
            self._wake.wait(max(0.0, self._due - time.monotonic()))
            self._wake.clear()
            if self._stopping:
                return
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + self._period_s
                self._has_reported = self._state_wanted = True
                self._send_figures()
            self._send_state()

    def stop_service(self) -> None:
        self._stopping = True
        self._wake.set()

    def connection_initialized(self) -> None:
        if not self._has_reported:
            self._due = time.monotonic() + self._first_delay_s
        self._wake.set()

    def connection_lost(self) -> None:
        # What the others know of us is from before the outage, which was a state too: tell them after it.
        self._told = None

    def tick(self) -> None:
        self._wake.set()

    def stats(self) -> dict[str, float]:
        return {"states_sent": self._states_sent, "figures_skipped": self._figures_skipped}

    # -- what there is to tell ----------------------------------------------------------------------------------

    def state(self) -> tuple[int, str]:
        """Return 0 and `OK: running`, or the worst level of all problems and their texts, the worst first."""
        return describe_state(found.problem for found in self._inquiry.problems())

    def figures(self) -> dict[str, float]:
        """Return every figure that is reported, name -> number."""
        return {**dict.fromkeys(REQUIRED, 0), **self._inquiry.figures(), **process_memory()}

    def _resolved_host(self) -> str:
        if self._host is not None:
            return self._host
        # On this greenlet: gevent's resolver asks on a thread, so nobody else waits.
        self._host = gevent.with_timeout(_RESOLVE_S, machine_name, timeout_value=None)
        return self._host or socket.gethostname()

    # -- figures ---------------------------------------------------------------------------------------------

    def _send_figures(self) -> None:
        now, host = int(time.time()), self._resolved_host()
        messages = [
            {
                "type": "perf", "timestamp": now, "host": host, "routing_key": SELF_MONITORING_KEY,
                "datasource": f"{self._figure_prefix}-{name}", "value": _number(value),
            }
            for name, value in self.figures().items()
        ]  # fmt: skip
        if self._goes_as_perf:
            self._put(messages)
        else:
            self._send_past_journal(messages)

    def _put(self, messages: Sequence[dict[str, Any]]) -> None:
        if self._putting is not None and not self._putting.dead:
            self._skip(len(messages), "the journal takes no messages")
            return
        items = [(route_key(message), encode(message)) for message in messages]
        batch = Batch(items, sum(len(body) for _, body in items))
        # On a greenlet of nobody's: `put` may wait for room, and must not be ended in the middle by a restart.
        self._putting = self.supervisor.spawn(self._sink.put, batch, name=f"{self.name}: figures")

    def _send_past_journal(self, messages: Sequence[dict[str, Any]]) -> None:
        waiting = []
        for result in self._unanswered:
            if not result.ready():
                waiting.append(result)
            elif result.exception is not None:
                self._refused_log("figures were not taken: %s", result.exception)
        self._unanswered = waiting
        if len(waiting) + len(messages) > _MAX_UNANSWERED:
            self._skip(len(messages), f"{len(waiting)} wait for exchange {self._perf.exchange}")
            return
        for message in messages:
            try:
                self._unanswered.append(self._send(self._perf, message))
            except BusDown as exc:
                self._skip(1, str(exc))

    def _skip(self, count: int, reason: str) -> None:
        self._figures_skipped += count
        self._skipped_log("%d figures skipped: %s", count, reason)

    # -- state -----------------------------------------------------------------------------------------------

    def _send_state(self) -> None:
        """Send the state if it is due or has changed, and can be on its way now."""
        connection = self.client.connection
        if connection is None or connection.blocked or not self._is_state_answered():
            # Later, and then the state of that moment.
            return
        code, text = self.state()
        signature = _signature(code, text)
        if not self._state_wanted and signature == self._told:
            return
        host = self._resolved_host()
        target = f"{host};{self.service}" if self.service else host
        message = {
            "type": "nagios", "timestamp": int(time.time()),
            "cmdname": f"PROCESS_{'SERVICE' if self.service else 'HOST'}_CHECK_RESULT",
            "value": f"{target};{code};{LEVELS[code]}: {text}", "routing_key": SELF_MONITORING_KEY,
        }  # fmt: skip
        try:
            self._state_result = self._send(self._nagios, message)
        except BusDown as exc:
            self._refused_log("the state was not sent: %s", exc)
            return
        self._state_wanted = False
        self._told = signature
        self._states_sent += 1

    def _is_state_answered(self) -> bool:
        """Answer whether the latest state is off our hands; a second one never waits behind it."""
        result = self._state_result
        if result is None:
            return True
        if not result.ready():
            return False
        if result.exception is not None:
            self._refused_log("the state was not taken: %s", result.exception)
        self._state_result = None
        return True

    def _send(self, to: Publication, message: dict[str, Any]) -> Answer:
        ttl_ms = to.ttl_s * 1000 if to.ttl_s else None
        return self.client.send(to.exchange, SELF_MONITORING_KEY, message, ttl_ms=ttl_ms)


# -- pure ------------------------------------------------------------------------------------------------------


def _signature(code: int, text: str) -> object:
    """Return what makes two states the same: a count that grows is no change, or a backlog would send one a second."""
    return code, re.sub(r"\d+", "#", text)


def _number(value: float) -> float:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# -- this machine and process ------------------------------------------------------------------------------------


def machine_name() -> str:
    """Return the machine's name, fully qualified where that is known. May wait for a name server."""
    name = socket.getfqdn()
    # A hosts file that gives our name to the loopback makes "localhost" of every machine.
    return socket.gethostname() if name.partition(".")[0] == "localhost" else name


def statuspublisher_factory(settings: Settings, sink: Sink, sources: Iterable[Handler] = ()) -> StatusPublisher:
    """Return a publisher of the state and the figures of `sources`, as `settings` say. `sink` is the journal's
    provider; give it to the publishing client (`add_handler`) and to the supervisor, the latter last."""
    return StatusPublisher(settings, sink, sources)
