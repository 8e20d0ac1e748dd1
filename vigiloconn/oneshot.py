"""A client that connects, does one piece of work, disconnects and ends. Knows work, a lock and a time limit.

A script patches the standard library first:

    from gevent import monkey; monkey.patch_all()
    from vigiloconn.oneshot import oneshotclient_factory
    from vigiloconn.options import load_settings

    def work(client, text):
        client.send("events", "greeting", {"type": "event", "message": text}).get()

    once = oneshotclient_factory(load_settings("settings.ini"))
    once.set_handler(work, "hello")
    raise SystemExit(once.run())
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event

from vigiloconn.client import VigiloClient
from vigiloconn.errors import StartError
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_LOCKED, EXIT_TIMEOUT
from vigiloconn.kit.greenlets import failure_of
from vigiloconn.kit.lockfile import LockFile, LockHeld
from vigiloconn.kit.timelimit import Interrupted, TimeLimit
from vigiloconn.options import Settings
from vigiloconn.supervisor import Handler, Supervisor

log = logging.getLogger(__name__)

#: What can't be interrupted is ended with its process, this long after the orderly stop should have been over.
_LAST_RESORT_S = 2.0


class OneShotClient:
    """Connects, calls one function, disconnects in order.

    The time limit (`[connector] timeout`) counts from `run()`: waiting for the bus and for confirms is part of it.
    It ends any work, in order where that can be done: `kit/timelimit.py` tells how, and what is out of reach.
    """

    def __init__(self, settings: Settings) -> None:
        self.client: VigiloClient
        self._client = self.client = _AccountableClient(
            settings.bus, name="client (once)", connection_name=f"{settings.service_name} once"
        )
        self._warnings = settings.warnings
        self._lock_file = settings.runtime.lock_file
        self._timeout_s = settings.runtime.timeout_s
        stop_timeout_s = settings.runtime.stop_timeout_s
        self._supervisor = Supervisor(stop_timeout_s=stop_timeout_s)
        self._work: _Work | None = None
        self._limit = TimeLimit(self._timeout_s, stop_timeout_s + _LAST_RESORT_S, EXIT_TIMEOUT)

    def set_handler(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function(client, *args)` once connected, on a greenlet of its own.

        It may wait for confirms (`client.send(...).get()`) and open channels (`client.connection.open_channel()`).
        What it returns is ignored.
        """
        self._work = _Work(function, args, self._client, self._limit)

    def run(self) -> int:
        """Do the work and return the exit status. Once only.

        0: it returned, and every message that it sent is confirmed; 1: it raised, a message was refused
        without the work looking at its result, a signal came, or the work could not begin; 3: the
        time limit passed first; 4: another process holds the lock.
        """
        try:
            if self._work is None:
                raise StartError("no work to do: call set_handler before run")
            if not monkey.is_module_patched("socket"):
                raise StartError("the standard library is not patched: call gevent.monkey.patch_all() first of all")
            for warning in self._warnings:
                log.warning("%s", warning)
            with LockFile.held(self._lock_file), self._limit.holding(self._limit_passed), self._signals(self._work):
                return self._run(self._work)
        except LockHeld as exc:
            log.error("%s", exc)
            return EXIT_LOCKED
        except StartError as exc:
            log.error("%s", exc)
            return EXIT_FAILED

    def _run(self, work: _Work) -> int:
        self.client.add_handler(work)
        # The work ends first, then the client closes its connection.
        self._supervisor.add(self.client)
        self._supervisor.add(work)
        return self._supervisor.run()

    @contextmanager
    def _signals(self, work: _Work) -> Iterator[None]:
        """SIGTERM and SIGINT stop, also in the middle of work that does not give way."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = gevent.get_hub().loop

        def on_stop(number: int, frame: object) -> None:
            loop.run_callback_threadsafe(self._stop_asked, number)
            if gevent.getcurrent() is work.greenlet:
                raise Interrupted

        before = {number: signal.signal(number, on_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_asked(self, number: int) -> None:
        if not self._supervisor.stopping:
            log.warning("stopped by %s before the work was done", signal.Signals(number).name)
            self._supervisor.stop(EXIT_FAILED)

    def _limit_passed(self) -> None:
        if self._supervisor.stopping:
            return
        reason = "; ".join(problem.text for problem in self.client.problems()) or "the work goes on"
        log.error("not done within %g s: %s", self._timeout_s, reason)
        self._supervisor.stop(EXIT_TIMEOUT)


class _Work(Handler):
    """Calls the function once, as soon as the bus is there, and stops everything after it."""

    name = "work"

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], client: _AccountableClient, limit: TimeLimit
    ) -> None:
        self.greenlet: object = None
        self._function = function
        self._args = args
        self._answers = client
        self._limit = limit
        self._connected = Event()
        self._ended = False

    def connection_initialized(self) -> None:
        self._connected.set()

    def run(self) -> None:
        self.greenlet = gevent.getcurrent()
        self._connected.wait()
        status = self._call()
        self._ended = True
        self._limit.work_ended()
        self.supervisor.stop(status)

    def stop_service(self) -> None:
        if isinstance(self.greenlet, gevent.Greenlet) and not self._ended:
            self.greenlet.kill(block=False)

    def _call(self) -> int:
        """Call the function and return the exit status. Whatever it lets out, it is not called again."""
        name = getattr(self._function, "__qualname__", repr(self._function))
        refused: list[BaseException] = []

        def work() -> None:
            self._function(self.client, *self._args)
            refused.extend(self._answers.wait_answers())

        error = failure_of(work)
        if isinstance(error, SystemExit):
            log.error("%s ended with exit status %s", name, error.code)
            return EXIT_FAILED if error.code else EXIT_DONE
        if error is not None:
            log.error("%s failed", name, exc_info=error)
        for refusal in refused:
            log.error("%s sent a message that was not taken: %s", name, refusal)
        return EXIT_FAILED if error is not None or refused else EXIT_DONE


class _Answer(AsyncResult):  # type: ignore[type-arg]  # not subscriptable when it runs
    """The result of a `send` that knows whether somebody has looked at it."""

    is_seen = False

    def get(self, *args: Any, **kwargs: Any) -> Any:
        self.is_seen = True
        return super().get(*args, **kwargs)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.is_seen = True
        return super().wait(*args, **kwargs)


class _AccountableClient(VigiloClient):
    """Knows what of its messages is unanswered, so that a process does not end with half of them sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: set[_Answer] = set()

    def send(
        self, exchange: str, routing_key: str, message: Mapping[str, Any] | bytes, **options: Any
    ) -> AsyncResult[None]:
        result = super().send(exchange, routing_key, message, **options)
        answer = _Answer()
        self._open.add(answer)

        def settle(source: AsyncResult[None]) -> None:
            answer(source)
            if source.successful():
                self._open.discard(answer)

        result.rawlink(settle)
        return answer

    def wait_answers(self) -> list[BaseException]:
        """Return once every message is answered: the errors of those that were refused and nobody looked at."""
        unseen = [answer for answer in self._open if not answer.is_seen]
        for answer in list(self._open):
            answer.wait()
        return [answer.exception for answer in unseen if answer.exception is not None]


def oneshotclient_factory(settings: Settings) -> OneShotClient:
    """Return a client for one piece of work, on the brokers that `settings` name."""
    return OneShotClient(settings)
