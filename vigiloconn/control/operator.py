"""The connector's eye on itself: once a second it looks at all parts, and says in the log what is wrong.

Knows when to look; what is found is others' to keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gevent.event import Event

from vigiloconn.control.inquiry import Inquiry
from vigiloconn.control.state import StateLog
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.supervisor import Handler

LOOK_S = 1.0


class Operator(Handler):
    """Looks at the parts, and calls `watchers` after each look with monotonic seconds, `on_stop` when the stop begins:
    add it after the others, and it hears of that first.

    That it looks late shows how long others keep the loop from turning: `stall_s` is the longest delay of the last
    minute, `stalls_s` the sum of all. Gauge in `stats()`: loop_stall; counter: loop_stalled.
    """

    name = "operator"

    def __init__(
        self,
        inquiry: Inquiry,
        state_log: StateLog,
        watchers: Callable[[float], None] = lambda now_s: None,
        on_stop: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state_log = state_log
        self.stalls_s = 0.0
        self._inquiry = inquiry
        self._watchers = watchers
        self._on_stop = on_stop
        self._clock = clock
        self._worst: list[tuple[float, float]] = []
        self._over = Event()

    def run(self) -> None:
        due_s = self._clock()
        while not self._over.wait(max(0.0, due_s - self._clock())):
            now_s = self._clock()
            self._note_delay(now_s, now_s - due_s)
            self.look(now_s)
            now_s = self._clock()
            due_s = now_s + seconds_to_beat(now_s, LOOK_S)

    def look(self, now_s: float) -> None:
        """Look at all parts once."""
        self.state_log.look(self._inquiry.problems())
        self._watchers(now_s)

    def stop_service(self) -> None:
        if not self._over.is_set():
            self._on_stop()
        self._over.set()

    def stats(self) -> dict[str, float]:
        return {"loop_stall": round(self.stall_s, 4), "loop_stalled": round(self.stalls_s, 4)}

    @property
    def stall_s(self) -> float:
        """The longest time of the last minute for which the loop did not turn, in seconds."""
        since_s = self._clock() - 60.0
        return max((delay_s for at_s, delay_s in self._worst if at_s >= since_s), default=0.0)

    def _note_delay(self, now_s: float, delay_s: float) -> None:
        delay_s = max(0.0, delay_s)
        self.stalls_s += delay_s
        self._worst = [(at_s, worst_s) for at_s, worst_s in self._worst if at_s >= now_s - 60.0 and worst_s > delay_s]
        self._worst.append((now_s, delay_s))
