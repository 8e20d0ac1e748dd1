"""A time limit for work that may not want to end. Knows a thread, a signal and the hub, nothing of the work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey

from vigiloconn.kit.greenlets import Ended

_FIRST_INTERRUPT_S = 0.5
_INTERRUPT_EVERY_S = 1.0

#: The interpreter's own: gevent's would wait for the hub that may be stuck.
_allocate_lock = monkey.get_original("_thread", "allocate_lock")
_start_thread = monkey.get_original("_thread", "start_new_thread")


class Interrupted(Ended):
    """Raised into work that does not end: no error of its own, and no `except Exception` holds it."""


class TimeLimit:
    """One native thread that goes three steps, each for work that the step before can't end:

    1. At the limit `on_passed` is called on the hub. That is enough for work that waits on gevent.
    2. Half a second later, and then every second, SIGALRM raises `Interrupted` in the greenlet that does not let the
       hub run: a busy loop in Python. Needs the main thread, which is where signals are, and that nobody else
       uses SIGALRM.
    3. `last_resort_s` after the limit the process ends, with nothing closed in order: work that swallows what is
       raised, or that is in a call into C which does not return.

    Out of reach are a C call that keeps the interpreter's lock to itself, and a process that is stopped or in
    uninterruptible disk sleep.
    """

    def __init__(self, limit_s: float, last_resort_s: float, exit_status: int) -> None:
        self._limit_s = limit_s
        self._last_resort_s = last_resort_s
        self._exit_status = exit_status
        self._is_over = False
        self._left = _allocate_lock()

    @contextmanager
    def holding(self, on_passed: Callable[[], None]) -> Iterator[None]:
        """Count from here; the third step can come until the `with` block is left."""
        # Neither is work: the hub, and the greenlet that waits for the end.
        never = (gevent.get_hub(), gevent.getcurrent())

        def on_alarm(number: int, frame: object) -> None:
            if not self._is_over and gevent.getcurrent() not in never:
                raise Interrupted

        def passed() -> None:
            if not self._is_over:
                self._is_over = True
                on_passed()

        has_signals = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGALRM, on_alarm) if has_signals else None
        self._left.acquire()
        _start_thread(self._watch, (lambda: never[0].loop.run_callback_threadsafe(passed), has_signals))
        try:
            yield
        finally:
            self._left.release()
            if has_signals:
                signal.signal(signal.SIGALRM, before)

    def work_ended(self) -> None:
        """Leave out the first two steps: there is nothing to end any more, only to close."""
        self._is_over = True

    def _watch(self, ask_the_hub: Callable[[], None], has_signals: bool) -> None:
        if self._left.acquire(True, self._limit_s):
            return
        ask_the_hub()
        end_s = time.monotonic() + self._last_resort_s
        pause_s = _FIRST_INTERRUPT_S
        while (remaining_s := end_s - time.monotonic()) > 0:
            if self._left.acquire(True, min(pause_s, remaining_s)):
                return
            if has_signals and not self._is_over:
                os.kill(os.getpid(), signal.SIGALRM)
            pause_s = _INTERRUPT_EVERY_S
        # No logging: the stuck thread may hold its lock.
        os.write(2, b"not done within %d s and not to be interrupted: the process is ended\n" % self._limit_s)
        os._exit(self._exit_status)
