"""The base of what makes messages: into the journal, with back-pressure, each once. Knows no protocol and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent
from gevent.event import Event
from greenlet import greenlet

from vigiloconn.errors import VigiloError
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.serialize import make_batch
from vigiloconn.supervisor import Handler

#: What the names of kept positions begin with; the source's name follows.
KEPT_PREFIX = "source:"


class Stopped(VigiloError):
    """Raised out of a `put` that waits for room when the stop comes: what it was given is not accepted."""


class Source(Handler):
    """Override `produce`: make messages until `self.wait(...)` says that it is time to stop, and `put` them.

    A source that can give its messages again, from a file or a table, gives its position with them: a text that is
    committed in the very transaction that accepts the messages, and is `self.position` after the next start. `name`
    tells it from other sources of the same connector. `stats()`: messages that were `put`.
    """

    name = "source"

    def __init__(self, journal: BackupProvider) -> None:
        self.count = 0
        self._journal = journal
        self._stop = Event()
        self._putting: set[greenlet] = set()
        self._position: str | None = None
        self._has_position = False

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def produce(self) -> None:
        """Make messages. Begun anew, from `self.position`, when it raises."""
        raise NotImplementedError

    def put(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        position: str | None = None,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> bool:
        """Give messages, each with a `type`, to the journal; blocks while it has no room.

        They are accepted together with `position`, in the order in which they are put, a moment later. With `wait` this
        returns once they are safe: True, or False when they are not after `timeout_s` or at the stop. Raises
        `BadMessage`, with nothing put, and `Stopped`.
        """
        batch = make_batch(messages)
        if position is not None:
            batch.kept = {KEPT_PREFIX + self.name: position}
        accepted = Event()
        if wait:
            batch.on_accepted = accepted.set
        self._put(batch)
        if position is not None:
            self._position, self._has_position = position, True
        self.count += len(batch.items)
        return accepted.wait(timeout_s) if wait else True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for that time; True, at once, when it is time to stop."""
        return self._stop.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        """True once the stop was asked for."""
        return self._stop.is_set()

    @property
    def position(self) -> str | None:
        """The position that was put last, in this life or another; None where there was none."""
        if not self._has_position:
            name = KEPT_PREFIX + self.name
            self._position, self._has_position = self._journal.kept(name).get(name), True
        return self._position

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet[..., Any]:
        """Run `function` beside `produce`, for a client's connection say. If it raises, this source begins anew."""

        def run() -> None:
            try:
                function(*args)
            except Stopped:
                pass

        return self.supervisor.spawn(run, name=f"{self.name}: {getattr(function, '__name__', 'helper')}", owner=self)

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.produce()
        except Stopped:
            pass

    def stop_service(self) -> None:
        self._stop.set()
        for one in self._putting:
            gevent.kill(one, Stopped("the journal has no room, and the connector stops"))

    def stats(self) -> dict[str, float]:
        return {"put": self.count}

    def _put(self, batch: Any) -> None:
        current = gevent.getcurrent()
        self._putting.add(current)
        try:
            self._journal.put(batch)
        finally:
            self._putting.discard(current)
