"""The root greenlet of a connection to the bus: chooses the broker, connects, reads, tells its handlers.

Knows brokers, back-off and events; what travels on the connection is its handlers' job.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from vigiloconn import ipv6
from vigiloconn.bus.channels import ChannelPool
from vigiloconn.bus.connection import BusConnection, tls_context
from vigiloconn.bus.rotation import Rotation
from vigiloconn.bus.words import Outage
from vigiloconn.errors import BusDown, BusRefused, LeaveBroker
from vigiloconn.interfaces import Level, Problem
from vigiloconn.ipv6 import Endpoint
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.traces import without_traces
from vigiloconn.options import BusSettings, Settings
from vigiloconn.publishing.direct import DirectSender
from vigiloconn.serialize import encode
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

_TICK_S = 1.0
#: How long the way back to the preferred broker waits for what is in the window.
_DRAIN_S = 10.0
_CLOSE_S = 1.0
#: How long an answer may take once the stop was asked for.
_STOP_ANSWER_S = 1.0


class VigiloClient(Handler):
    """Keeps one connection to one of several brokers, for ever.

    Add handlers before the start: each is told when the connection is made (`connection_initialized`),
    lost and blocked. A login that is refused or a broker that is away is a state, never an end.
    """

    def __init__(self, settings: BusSettings, *, name: str, connection_name: str) -> None:
        self.name = name
        self.connection: BusConnection | None = None
        self.last_error: BusDown | BusRefused | None = None
        """Why the latest attempt or connection failed; None since it works again."""
        self.connections = 0
        self.settings = settings
        self._connection_name = connection_name
        self._handlers: list[Handler] = []
        self.channels = ChannelPool()
        self._direct = DirectSender(self.channels)
        endpoints = [ipv6.parse_endpoint(host, settings.default_port) for host in settings.hosts]
        # Within two heartbeats of its cure a broker is to be found: one for noticing, one for the delay.
        self._rotation = Rotation(endpoints, min(settings.max_reconnect_delay_s, settings.heartbeat_s))
        self._role = match[1] if (match := re.fullmatch(r"client \((.+)\)", name)) else name
        self._outage = Outage(self._role, settings.use_ssl, time.monotonic)
        self._attempt: BusConnection | None = None
        self._stop = Event()
        self._blocked_at: float | None = None
        self._returning = False
        self._made_at_s = 0.0
        self._next_try_s = 0.0

    def add_handler(self, handler: Handler) -> None:
        """Tell `handler` of the connection from now on; its `client` is this one."""
        handler.client = self
        self._handlers.append(handler)

    # -- life ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._forget_connection()
        self.supervisor.spawn(self._direct.run, name=f"{self.name}: direct", owner=self)
        while not self.supervisor.stopping:
            delay_s = self._live_once()
            if delay_s > 0 and not self.supervisor.stopping:
                self._next_try_s = time.monotonic() + delay_s
                self._stop.wait(delay_s)

    def stop_service(self) -> None:
        self._stop.set()
        connection = self.connection
        if self._attempt is not None:
            self._attempt.abort("closed by us")
        elif connection is not None:
            self.supervisor.spawn(connection.close, _CLOSE_S, name=f"{self.name}: close", owner=self)

    def send(
        self, exchange: str, routing_key: str, message: Mapping[str, Any] | bytes, **options: Any
    ) -> AsyncResult[None]:
        """Publish one message now or, while the bus is away, as soon as it is there; never blocks.

        A mapping is sent as JSON. It is kept in memory only: what must survive the process goes through a
        `BackupProvider`. `persistent=False` makes it transient on the broker. For the other options, the
        result and what is raised see `DirectSender.send`.
        """
        body = message if isinstance(message, bytes) else encode(message)
        return self._direct.send(exchange, routing_key, body, **options)

    @property
    def has_others(self) -> bool:
        """True where the settings name another broker to go to."""
        return self._rotation.has_others

    def note_success(self) -> None:
        """A handler has seen the broker do its work on this connection: its back-off starts anew."""
        self._rotation.note_success()

    def stats(self) -> dict[str, float]:
        return {"connected": float(self.connection is not None), "connections": self.connections}

    def details(self) -> dict[str, Any]:
        connection, error = self.connection, self.last_error
        now_s = time.monotonic()
        is_waiting = connection is None and self._attempt is None
        return {
            "broker": str(connection.endpoint) if connection is not None else None,
            "connected_for_s": round(now_s - self._made_at_s, 1) if connection is not None else None,
            "blocked": connection is not None and connection.blocked,
            "next_broker": str(self._rotation.current) if connection is None else None,
            "next_try_s": round(max(0.0, self._next_try_s - now_s), 1) if is_waiting else None,
            "last_error": str(error) if error is not None else None,
        }

    def problems(self) -> list[Problem]:
        if self.connection is not None:
            return self.channels.problems()
        error = self.last_error
        # A refused login does not mend itself as a broker that is away does.
        level = Level.CRITICAL if isinstance(error, BusRefused) else Level.WARNING
        return [Problem("bus-away", level, f"no connection to the bus: {error or 'not yet tried'}")]

    # -- one connection ----------------------------------------------------------------------------------------

    def _live_once(self) -> float:
        """Connect and read until the connection is lost. Returns the delay before the next attempt, in seconds."""
        endpoint = self._rotation.current
        make = self.supervisor.open_connection or BusConnection
        connection = make(endpoint, self.settings, dial=self._dial, name=self._connection_name)
        self._attempt = connection
        try:
            connection.connect()
        except (BusDown, BusRefused) as exc:
            return self._failed(exc, was_connected=False) if not self._stop.is_set() else 0.0
        finally:
            self._attempt = None
        if self._stop.is_set():
            connection.close(_CLOSE_S)
            return 0.0
        self._made(connection)
        watchers = [
            self.supervisor.spawn(self._watch, connection, name=f"{self.name}: watch", owner=self),
            self.supervisor.spawn(self._fail_back, connection, name=f"{self.name}: fail-back", owner=self),
        ]
        try:
            connection.read()
        except (BusDown, BusRefused) as exc:
            self.last_error = without_traces(exc)
        finally:
            gevent.killall(watchers, block=False)
            self._lost()
        assert self.last_error is not None
        if self._stop.is_set():
            return 0.0
        if self._returning:
            self._returning = False
            self._rotation.prefer()
            return 0.0
        return self._failed(self.last_error, was_connected=True)

    def _dial(self, endpoint: Endpoint, timeout_s: float) -> Any:
        def spawn(function: Callable[..., Any], *args: Any) -> Any:
            return self.supervisor.spawn(function, *args, name=f"{self.name}: dial", owner=self)

        return ipv6.connect(endpoint, timeout_s, spawn=spawn)

    def _failed(self, error: BusDown | BusRefused, *, was_connected: bool) -> float:
        said = self._outage.failed(error, self._rotation.current, was_connected=was_connected)
        self.last_error = without_traces(error)
        was_blocked, self._blocked_at = self._blocked_at is not None, None
        leave = was_blocked or isinstance(error, LeaveBroker)
        is_refused = isinstance(error, BusRefused) and error.code in (0, 403, 530)
        delay_s = self._rotation.failed(leave=leave, slow=is_refused and not self.channels.explains(error))
        if said is not None:
            log.warning("%s; next try, at %s, in %.1f s", said, self._rotation.current, delay_s)
        return delay_s

    def _made(self, connection: BusConnection) -> None:
        log.info("%s: connected to %s", self._role, connection.endpoint)
        self._outage.made()
        connection.on_blocked = self._on_blocked
        self.connection = connection
        self.connections += 1
        self._made_at_s = time.monotonic()
        self.last_error = None
        self._blocked_at = None
        self._direct.connection_initialized(connection)
        for handler in self._handlers:
            handler.connection_initialized()

    def _lost(self) -> None:
        self.connection = None
        self._direct.connection_lost()
        self.channels.connection_lost()
        for handler in self._handlers:
            handler.connection_lost()

    def _forget_connection(self) -> None:
        """After a crash of this greenlet the connection of its former life is still there."""
        if self.connection is not None:
            self.connection.abort("the client was restarted")
            self._lost()

    def _on_blocked(self, blocked: bool) -> None:
        log.warning("the broker %s messages", "takes no" if blocked else "takes")
        self._blocked_at = time.monotonic() if blocked else None
        for handler in self._handlers:
            handler.connection_blocked(blocked)

    # -- watching, on a greenlet of its own: it may block in a write --------------------------------------------

    def _watch(self, connection: BusConnection) -> None:
        period_s = min(_TICK_S, self.settings.heartbeat_s / 4)
        idle_since_s = time.monotonic()
        while connection.lost is None:
            self._stop.wait(seconds_to_beat(time.monotonic(), period_s))
            if self._stop.is_set():
                return
            if self.supervisor.stopping and connection.waiting_s > _STOP_ANSWER_S:
                # Who waits for it can't end before.
                connection.abort("a call is not answered, and the stop does not wait for that")
                return
            connection.tick()
            for handler in self._handlers:
                handler.tick()
            if self._direct.outstanding + sum(handler.outstanding() for handler in self._handlers):
                idle_since_s = time.monotonic()
            elif time.monotonic() - idle_since_s > self.settings.max_reconnect_delay_s:
                # It held for longer than any delay and owes us nothing: it does not take connections only to drop them.
                self.note_success()
            self._leave_blocked(connection)

    def _leave_blocked(self, connection: BusConnection) -> None:
        """A broker that is blocked for too long is left for another one, never for itself."""
        if self._blocked_at is None or not self._rotation.has_others:
            return
        if time.monotonic() - self._blocked_at > self.settings.blocked_timeout_s:
            connection.leave(f"blocked for {self.settings.blocked_timeout_s:g} s")

    # -- the way back, on a greenlet of its own: a trial takes longer than a heartbeat may wait ------------------

    def _fail_back(self, connection: BusConnection) -> None:
        while not self._rotation.is_preferred and not self._stop.wait(self.settings.failback_delay_s):
            self._try_preferred(connection)

    def _try_preferred(self, connection: BusConnection) -> None:
        """Go back to the preferred broker if it takes a login; the window is drained first."""
        preferred = self._rotation.preferred
        trial = BusConnection(preferred, self.settings, dial=self._dial, name=f"{self._connection_name} (trial)")
        try:
            trial.connect()
        except (BusDown, BusRefused) as exc:
            log.info("the preferred broker does not answer yet: %s", exc)
            return
        trial.abort("the trial is over")
        log.info("the preferred broker %s is back", preferred)
        for handler in self._handlers:
            handler.drain(_DRAIN_S)
        self._returning = True
        connection.close(_CLOSE_S)


def vigiloclient_factory(settings: Settings, *, role: str = "publish") -> VigiloClient:
    """Return a client for the brokers that `settings` name. `role` tells its connection from others of the
    process, in the broker's list and in the log. Raises `SettingsError` for certificates that can't be loaded."""
    if settings.bus.use_ssl:
        tls_context(settings.bus)
    role = f"{role} {settings.bus_name}".rstrip()
    return VigiloClient(settings.bus, name=f"client ({role})", connection_name=f"{settings.service_name} {role}")
