"""Making a broker hold what a topology says. Knows what to ask a broker, and nothing of files or the command line.

AMQP can't list bindings, and binding twice is no error: where exchange and queue were both there before, nobody
can tell over AMQP whether a binding is new. Such a binding is reported as ensured, never as unchanged. A probe
message would tell, and reach a consumer, so none is sent.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.settings.values import Subscription
from vigiloconn.topology import wanted as topology
from vigiloconn.topology.wanted import Binding, Exchange, Queue, Topology


class Outcome(enum.Enum):
    """What became of one thing."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    ENSURED = "ensured"
    DELETED = "deleted"
    UNSEEN = "not compared"
    MISSING = "missing"
    DIFFERS = "differs"
    REFUSED = "refused"


_FAILURES = frozenset((Outcome.MISSING, Outcome.DIFFERS, Outcome.REFUSED))


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one exchange, queue or binding."""

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""

    @property
    def is_failure(self) -> bool:
        """True where the bus is not as it was asked for."""
        return self.outcome in _FAILURES

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.outcome.value}{self.detail and f' ({self.detail})'}"


def apply_topology(
    connection: Connection,
    wanted: Topology,
    *,
    check: bool = False,
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Create what is missing and return what became of each thing, in order; `report` has it at once.

    What exists is never changed or deleted. A refusal is a result, and the rest is done all the same. With `check`
    nothing is created. Raises `BusDown` when the connection is lost; everything reported until then is done.
    """
    applier = Applier(wanted, check=check, report=report)
    if not applier.run(connection):
        raise connection.lost or BusDown("the broker closed the connection")
    return applier.results


class Applier:
    """One run over a topology. A refusal closes the channel, so each request has a channel of its own.

    Some refusals (an unknown type of exchange) close the whole connection: `run` goes on with another one.
    """

    def __init__(
        self, wanted: Topology, *, check: bool = False, report: Callable[[Result], None] = lambda result: None
    ) -> None:
        self.results: list[Result] = []
        self._connection: Connection
        self._check = check
        self._report = report
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._steps: deque[Callable[[], None]] = deque()
        self._steps.extend(partial(self._exchange, exchange) for exchange in wanted.exchanges)
        self._steps.extend(partial(self._queue, queue) for queue in wanted.queues)
        self._steps.extend(partial(self._binding, binding) for binding in wanted.bindings)

    def run(self, connection: Connection) -> bool:
        """Do what is left. False when the broker closed the connection in answer: run again with a new one. Raises
        `BusDown` when it was lost otherwise."""
        self._connection = connection
        while self._steps:
            if connection.refusal is not None:
                return False
            self._steps[0]()
            self._steps.popleft()
        return True

    def _exchange(self, exchange: Exchange) -> None:
        def declare(channel: Any, passive: bool) -> None:
            channel.exchange_declare(
                exchange.name, exchange.type, passive=passive, durable=exchange.durable, auto_delete=False
            )

        self._declare("exchange", exchange.name, declare)

    def _queue(self, queue: Queue) -> None:
        def declare(channel: Any, passive: bool) -> None:
            channel.queue_declare(
                queue.name, passive=passive, durable=True, auto_delete=False, arguments=queue.arguments
            )

        self._declare("queue", queue.name, declare)

    def _declare(self, kind: str, name: str, declare: Callable[[Any, bool], None]) -> None:
        # A passive declare looks at nothing but the name; the real one compares, and changes nothing that exists.
        refusal = request(self._connection, lambda channel: declare(channel, True))
        exists = refusal is None
        if refusal is not None and refusal.code != 404:
            return self._note(kind, name, Outcome.REFUSED, topology.explain_refusal(str(refusal)))
        if not exists and self._check:
            return self._note(kind, name, Outcome.MISSING)
        refusal = request(self._connection, lambda channel: declare(channel, False))
        if refusal is None:
            return self._note(kind, name, Outcome.UNCHANGED if exists else Outcome.CREATED)
        outcome = Outcome.DIFFERS if exists and refusal.code == 406 else Outcome.REFUSED
        return self._note(kind, name, outcome, topology.explain_refusal(str(refusal)))

    def _binding(self, binding: Binding) -> None:
        ends = [self._outcomes.get(end) for end in (("exchange", binding.exchange), ("queue", binding.queue))]
        if self._check:
            if Outcome.MISSING in ends or (ends[0] is None and self._lacks_exchange(binding.exchange)):
                return self._note("binding", binding.name, Outcome.MISSING, "exchange or queue is missing")
            return self._note("binding", binding.name, Outcome.UNSEEN, "AMQP does not list bindings")
        refusal = request(
            self._connection, lambda channel: channel.queue_bind(binding.queue, binding.exchange, binding.key)
        )
        if refusal is not None:
            return self._note("binding", binding.name, Outcome.REFUSED, topology.explain_refusal(str(refusal)))
        if Outcome.CREATED in ends:
            return self._note("binding", binding.name, Outcome.CREATED)
        return self._note("binding", binding.name, Outcome.ENSURED, "AMQP does not tell whether it was new")

    def _lacks_exchange(self, name: str) -> bool:
        """Answer whether an exchange that the topology only binds to is missing. Changes nothing."""
        refusal = request(self._connection, lambda channel: channel.exchange_declare(name, "direct", passive=True))
        return refusal is not None and refusal.code == 404

    def _note(self, kind: str, name: str, outcome: Outcome, detail: str = "") -> None:
        result = Result(kind, name, outcome, detail)
        self._outcomes[kind, name] = outcome
        self.results.append(result)
        self._report(result)


def request(connection: Connection, ask: Callable[[Any], Any]) -> BusRefused | None:
    """Ask for something on a new channel; return the broker's refusal, None where it did it. Raises `BusDown`.

    After a refusal that closes the connection `connection.refusal` is set.
    """
    channel = connection.open_channel()
    try:
        ask(channel)
    except BusRefused as exc:
        return exc
    except BusDown:
        if connection.refusal is None:
            raise
        return connection.refusal
    finally:
        connection.forget_channel(channel)
    return None


def declare_queue(connection: Connection, queue: Queue) -> None:
    """Declare a durable queue. Raises `BusRefused` (406 where it exists with other arguments), `BusDown`."""
    with _short_channel(connection) as channel:
        channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.arguments)


def bind_queue(
    connection: Connection, queue: str, subscriptions: Sequence[Subscription]
) -> list[tuple[Subscription, BusRefused]]:
    """Bind a queue to each subscription and return those that were refused, with the reason. Raises `BusDown`."""
    refused: list[tuple[Subscription, BusRefused]] = []
    for subscription in subscriptions:
        key = queue if subscription.key is None else subscription.key
        try:
            with _short_channel(connection) as channel:
                channel.queue_bind(queue, subscription.exchange, key)
        # No channel to ask on is a refusal like any other.
        except BusRefused as exc:
            refused.append((subscription, exc))
    return refused


@contextmanager
def _short_channel(connection: Connection) -> Iterator[Any]:
    channel = connection.open_channel()
    try:
        yield channel
    finally:
        connection.forget_channel(channel)


def summary(results: list[Result], *, check: bool = False) -> str:
    """Return the last line: what has changed, in numbers."""

    def count(*outcomes: Outcome) -> int:
        return sum(result.outcome in outcomes for result in results)

    failed, created, ensured = count(*_FAILURES), count(Outcome.CREATED), count(Outcome.ENSURED)
    if check:
        text = f"{failed} differ from the file" if failed else "no difference"
        unseen = count(Outcome.UNSEEN)
        return text + (f"; {unseen} bindings not compared" if unseen else "")
    unchanged = "nothing changed as far as AMQP tells" if ensured else "nothing changed"
    parts = [f"{created} created" if created else unchanged]
    if count(Outcome.UNCHANGED):
        parts.append(f"{count(Outcome.UNCHANGED)} as they should be")
    if ensured:
        parts.append(f"{ensured} bindings ensured")
    if failed:
        parts.append(f"{failed} could not be made so")
    return ", ".join(parts)
