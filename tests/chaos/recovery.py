"""How soon the flow is back after a cure. Knows arrivals and clocks, not what was cured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable

from tests.chaos.consumer import Delivery
from tests.chaos.judge import singles
from tests.chaos.lines import Line, name_of
from tests.chaos.stage import HEARTBEAT_S

#: One heartbeat for noticing, one for the delay before the next try.
PROMISED_S = 2.0 * HEARTBEAT_S
#: What a machine with two cores that broker, connector, writers and consumer share may take in addition: connecting,
#: starting the connector, and the consumer's own reconnection.
ALLOWED_S = 3.0
#: What has gathered goes first; the rate is a tenth of what the connector does alone.
BACKLOG_PER_S = 2000.0
_LOOK_S = 0.02
_NEVER_S = 60.0


class Arrivals:
    """When the newest line of each kind arrived. Fed by the consumer's thread."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._newest: dict[str, dict[str, int]] = {}
        self._names: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        """Return how many different lines have arrived."""
        return len(self._names)

    def __contains__(self, line: Line) -> bool:
        return (line.writer, line.number) in self._names

    def take(self, delivery: Delivery) -> None:
        """Note an arrival."""
        try:
            bodies = singles(delivery.body)
        except (ValueError, json.JSONDecodeError):
            return
        with self._lock:
            newest = self._newest.setdefault(delivery.exchange, {})
            for body in bodies:
                if (name := name_of(body)) is not None:
                    self._names.add(name)
                    newest[name[0]] = max(newest.get(name[0], 0), name[1])
            self._lock.notify_all()

    def has_passed(self, exchange: str, marks: dict[str, int]) -> bool:
        """Answer whether a line beyond one of `marks` (writer -> number) has come in `exchange`."""
        newest = self._newest.get(exchange, {})
        return any(newest.get(writer, 0) > number for writer, number in marks.items())

    def wait_passed(self, exchange: str, marks: dict[str, int], timeout_s: float) -> bool:
        """Wait for `has_passed`."""
        with self._lock:
            return self._lock.wait_for(lambda: self.has_passed(exchange, marks), timeout_s)


class Lag:
    """A thread that notes by how much the machine makes this process late, in all since the last look."""

    def __init__(self) -> None:
        self._late_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)
        self._thread.start()

    def take_s(self) -> float:
        """Return the seconds lost since the last call."""
        late_s, self._late_s = self._late_s, 0.0
        return late_s

    def finish(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        before_s = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            now_s = time.monotonic()
            self._late_s += max(0.0, now_s - before_s - 2 * _LOOK_S)
            before_s = now_s


def wait_back(
    arrivals: Arrivals, marks: dict[str, int], exchanges: Iterable[str], backlog: int, lag: Lag
) -> tuple[float, str]:
    """Wait until lines beyond `marks` arrive; return after how many seconds the last exchange was back, and what is
    wrong with that, "" for nothing."""
    started_s = time.monotonic()
    lag.take_s()
    for exchange in exchanges:
        left_s = _NEVER_S - (time.monotonic() - started_s)
        if not arrivals.wait_passed(exchange, marks, max(0.0, left_s)):
            return _NEVER_S, f"{exchange}: nothing that was written after the cure has come within {_NEVER_S:g} s"
    return verdict_on_time(time.monotonic() - started_s, backlog, lag)


def verdict_on_time(
    took_s: float, backlog: int, lag: Lag, backlog_per_s: float = BACKLOG_PER_S
) -> tuple[float, str]:
    """Return `took_s`, and what is wrong with it, "" for nothing."""
    bound_s = PROMISED_S + ALLOWED_S + backlog / backlog_per_s + lag.take_s()
    if took_s <= bound_s:
        return took_s, ""
    return took_s, (
        f"the flow was back after {took_s:.1f} s: expected at most {bound_s:.1f} (two heartbeats {PROMISED_S:g}, a "
        f"busy machine {ALLOWED_S:g}, a backlog of {backlog} and lag {bound_s - PROMISED_S - ALLOWED_S:.1f})"
    )
