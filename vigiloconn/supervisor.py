"""Lives: the one base class of parts, and the supervisor that spawns, restarts and stops them.

Knows handlers and time, nothing of buses, sockets or journals.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
from gevent import Greenlet
from gevent.event import Event

from vigiloconn.interfaces import Client, Problem
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.exits import EXIT_FAILED
from vigiloconn.kit.greenlets import Ended, Job, failure_of
from vigiloconn.kit.traces import without_traces

log = logging.getLogger(__name__)

#: More crashes of one handler than this within the period mean that a restart does not cure it.
MAX_CRASHES = 5
CRASH_PERIOD_S = 60.0
#: Least time that a handler gets to end, also when the budget of the stop is used up.
_KILL_GRACE_S = 0.2


class Life(NamedTuple):
    """How a handler fares."""

    state: str
    """`prepared`, `running`, `crashed` (and soon begun again), or `ended`."""
    since_s: float
    """Monotonic seconds when that began."""
    crashes: int
    """Over all its lives."""


class Handler:
    """A part of a connector: a plain object whose `run()` is one life of a supervised greenlet.

    The supervisor calls `start_service` of all once, then spawns `run()`; a life that ends with an exception
    is followed by another one after a back-off. A client tells its handlers when the connection comes
    and goes. All methods but `run` are called on other greenlets: they must be short and must not
    block (set an event, and let `run()` do the work).
    """

    name: str = "handler"
    client: Client
    """Set by `VigiloClient.add_handler`."""
    supervisor: Supervisor
    """Set by `Supervisor.add`."""

    def start_service(self) -> None:
        """Prepare. May raise `StartError`: then the process does not start."""

    def run(self) -> None:
        """Work until told to stop. Returning in order ends this part; raising makes the supervisor restart it."""
        raise NotImplementedError

    def stop_service(self) -> None:
        """Ask `run()` to end. Returns at once; must be harmless when called twice."""

    def close(self) -> None:
        """Release what is held. Called once, after `run()` has ended, at the stop of the process."""

    def connection_initialized(self) -> None:
        """The bus is there. Called before anything is read from it: wake your own greenlet, call nothing
        that waits for the broker's answer."""

    def connection_lost(self) -> None:
        """The bus is gone. What was sent and is unconfirmed must be taken for not sent."""

    def connection_blocked(self, blocked: bool) -> None:
        """The broker says that it takes no publishes for now (True), or that it does again (False)."""

    def stats(self) -> dict[str, float]:
        """Return the figures that this part counts, name -> number."""
        return {}

    def problems(self) -> list[Problem]:
        """Return what an operator should know now."""
        return []

    def details(self) -> dict[str, Any]:
        """Return what a person wants to know beside figures and problems, name -> what JSON can hold."""
        return {}

    def tick(self) -> None:
        """Check that things move. Called about once a second while connected; must not block."""

    def outstanding(self) -> int:
        """Return how many answers the broker owes. While it owes some, that the connection lives proves nothing."""
        return 0

    def drain(self, timeout_s: float) -> None:
        """Send nothing more on this connection and wait until nothing is unanswered, at most `timeout_s`.
        The connection ends right after."""

    def reload(self) -> None:
        """Read again what is distributed in files (SIGHUP). Settings are not: they need a restart."""


class Supervisor:
    """Runs a connector's handlers and decides what a crash means.

    `clock` gives monotonic seconds and `wait` sleeps for up to that many seconds or until the event
    is set; tests inject both.
    """

    def __init__(
        self,
        *,
        stop_timeout_s: float = 5.0,
        max_crashes: int = MAX_CRASHES,
        crash_period_s: float = CRASH_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[Event, float], Any] = lambda event, seconds: event.wait(seconds),
    ) -> None:
        self.stop_timeout_s = stop_timeout_s
        self.open_connection: Callable[..., Any] | None = None
        """What clients connect with in place of their own way: tests put a bus in memory here."""
        self.exit_status = 0
        self.crashes = 0
        self._max_crashes = max_crashes
        self._crash_period_s = crash_period_s
        self._clock = clock
        self._wait = wait
        self._handlers: list[Handler] = []
        self._started: list[Handler] = []
        self._lives: dict[Handler, Greenlet[..., Any]] = {}
        self._life: dict[Handler, Life] = {}
        self._helpers: dict[Greenlet[..., Any], Handler | None] = {}
        self._stopping = Event()
        self._share_ends_s = 0.0
        self._deadline = 0.0

    @property
    def stopping(self) -> bool:
        """True once a stop was asked for."""
        return self._stopping.is_set()

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """The handlers, in the order in which they were added."""
        return tuple(self._handlers)

    def life_of(self, handler: Handler) -> Life:
        """Tell how a handler fares."""
        return self._life.get(handler, Life("prepared", self._clock(), 0))

    def add(self, handler: Handler) -> None:
        """Take care of `handler`. They start in the order in which they are added, and stop in the reverse
        order: add what others depend on first."""
        handler.supervisor = self
        self._handlers.append(handler)

    def spawn(
        self, function: Callable[..., Any], *args: Any, name: str, owner: Handler | None = None
    ) -> Greenlet[..., Any]:
        """Run `function` in a greenlet that ends with its owner. If it raises, its owner's life ends too
        and is begun again under the owner's restart policy."""
        greenlet: Greenlet[..., Any] = Job(function, *args)
        greenlet.name = name
        self._helpers[greenlet] = owner
        greenlet.link(self._helper_ended)
        greenlet.start()
        return greenlet

    def run(self) -> int:
        """Start all handlers, wait until `stop()`, stop them in order. Returns the exit status.

        Raises `StartError`, or what else a handler raised, when one can't begin; those that were prepared are closed.
        """
        try:
            # All are prepared before any lives: the first to live would act on what others have not opened yet.
            for handler in self._handlers:
                handler.start_service()
                self._started.append(handler)
            for handler in self._handlers:
                self._lives[handler] = self._spawn_life(handler)
        except BaseException:
            self._stopping.set()
            self._stop_all()
            raise
        self._stopping.wait()
        self._stop_all()
        return self.exit_status

    def stop(self, status: int = 0) -> None:
        """Ask for the orderly stop. Safe to call from a signal handler's greenlet, and more than once;
        the first status above 0 wins."""
        if not self._stopping.is_set():
            self._deadline = self._clock() + self.stop_timeout_s
        self.exit_status = self.exit_status or status
        self._stopping.set()

    def remaining_s(self) -> float:
        """Return the seconds that are left of the stop's budget; the whole budget before a stop."""
        if not self._stopping.is_set():
            return self.stop_timeout_s
        return max(0.0, self._deadline - self._clock())

    def share_s(self) -> float:
        """Return the seconds that are left of the stop for the part that is asked to stop now; then it is ended."""
        return max(0.0, min(self.remaining_s(), self._share_ends_s - self._clock()))

    def _spawn_life(self, handler: Handler) -> Greenlet[..., Any]:
        greenlet: Greenlet[..., Any] = Job(self._live, handler)
        greenlet.name = handler.name
        greenlet.start()
        return greenlet

    def _live(self, handler: Handler) -> None:
        """Run one life after the other until one ends in order or the stop comes."""
        crash_times: deque[float] = deque()
        delays = backoff_delays(0.1, 10.0)
        delay_s = 0.0
        while True:
            try:
                # The pause is inside, too: a helper that fails a moment after its owner is thrown in here.
                if delay_s:
                    self._wait(self._stopping, delay_s)
                    if self._stopping.is_set():
                        return
                self._note(handler, "running")
                handler.run()
                self._note(handler, "ended")
                return
            except (Ended, KeyboardInterrupt):
                raise
            # Of an author's code: a stray gevent.Timeout, SystemExit or GreenletExit must not end a life for good.
            except BaseException as exc:
                if self._stopping.is_set():
                    log.warning("%s failed while stopping", handler.name, exc_info=True)
                    return
                self._kill_helpers(handler)
                self._note(handler, "crashed", 1)
                if self._is_too_much(handler, crash_times, exc):
                    self.stop(EXIT_FAILED)
                    return
                if len(crash_times) == 1:
                    delays = backoff_delays(0.1, 10.0)
                delay_s = next(delays)
                log.error("%s crashed, restarted in %.1f s", handler.name, delay_s, exc_info=True)

    def _note(self, handler: Handler, state: str, crashes: int = 0) -> None:
        self._life[handler] = Life(state, self._clock(), self.life_of(handler).crashes + crashes)

    def _is_too_much(self, handler: Handler, crash_times: deque[float], exc: BaseException) -> bool:
        """Count a crash; answer whether there were too many within the period."""
        self.crashes += 1
        now = self._clock()
        crash_times.append(now)
        while crash_times[0] < now - self._crash_period_s:
            crash_times.popleft()
        if len(crash_times) <= self._max_crashes:
            return False
        log.critical(
            "%s crashed %d times within %.0f s, the last time with %r: stopping",
            handler.name, len(crash_times), self._crash_period_s, exc, exc_info=True,
        )
        return True

    def _helper_ended(self, greenlet: Greenlet[..., Any]) -> None:
        owner = self._helpers.pop(greenlet, None)
        if isinstance(greenlet.value, gevent.GreenletExit):
            without_traces(greenlet.value)
        if greenlet.exception is None:
            return
        life = self._lives.get(owner) if owner is not None else None
        if life is None:
            log.error("%s failed: %r", greenlet.name, greenlet.exception)
            return
        # The owner hears of it as an exception in its own run(), so one restart policy serves both.
        life.kill(greenlet.exception, block=False)

    def _kill_helpers(self, owner: Handler | None = None, everyone: bool = False) -> None:
        doomed = [g for g, o in self._helpers.items() if everyone or o is owner]
        gevent.killall(doomed, block=False)

    def _stop_all(self) -> None:
        if not self._deadline:
            self._deadline = self._clock() + self.stop_timeout_s
        living = [handler for handler in self._started if handler in self._lives]
        for left, handler in zip(range(len(living), 0, -1), reversed(living), strict=True):
            # An equal share of what is left: one that hangs must not use up the time of those that save data.
            share_s = max(_KILL_GRACE_S, self.remaining_s() / left)
            self._share_ends_s = self._clock() + share_s
            # The others still have their data to save.
            if failed := failure_of(handler.stop_service):
                log.error("%s could not be asked to stop", handler.name, exc_info=failed)
            life = self._lives[handler]
            life.join(timeout=share_s)
            if not life.dead:
                log.warning("%s did not stop in time and was ended", handler.name)
                life.kill(block=True, timeout=_KILL_GRACE_S)
            self._kill_helpers(handler)
        self._kill_helpers(everyone=True)
        for handler in reversed(self._started):
            if failed := failure_of(handler.close):
                log.error("%s could not be closed", handler.name, exc_info=failed)
                self.exit_status = self.exit_status or EXIT_FAILED
