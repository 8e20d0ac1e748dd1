"""A publisher on a journal in memory, a scripted bus and a clock that stands still. Knows no files and no broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.support.scripted import Published, ScriptedChannel, ScriptedClient, ScriptedConnection
from vigiloconn.bus.channels import ChannelPool
from vigiloconn.handlers.publisher import BusPublisher
from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.options import parse_settings
from vigiloconn.publishing.states import State

#: A page of held messages; short, so that few messages fill some.
HELD_PAGE = 10


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class MemoryJournal:
    """The journal as a publisher sees it: what is asked for has happened when the call returns."""

    def __init__(self, clock: Clock) -> None:
        self.main: dict[int, Record] = {}
        self.held: dict[int, tuple[str, Record]] = {}
        self.parked: dict[int, tuple[str, str]] = {}
        """id -> exchange and reason."""
        self.on_available: Callable[[], None] = lambda: None
        self.uuid = "j"
        self.pages_wait = False
        """True: pages that are asked for come only with `read_pages`."""
        self.clock = clock
        self._parked_records: dict[int, Record] = {}
        self.last_id = 0
        self._taken_upto = 0
        self._asked: dict[str, int] = {}
        self._pages: dict[str, list[Record]] = {}

    # -- what the test does ---------------------------------------------------------------------------------

    def accept(self, count: int = 1, kind: str = "event", key: str | None = None, size: int = 0) -> list[int]:
        """Accept messages; return their ids."""
        ids = range(self.last_id + 1, self.last_id + count + 1)
        for id in ids:
            body = b'{"n":%d%s}' % (id, b" " * size)
            self.main[id] = Record(id, RouteKey(kind, key, True), body, self.clock())
            self.last_id = id
        self.on_available()
        return list(ids)

    def put_back(self, id: int) -> None:
        """Let an operator put a parked message back to be sent, and the publisher find it."""
        del self.parked[id]
        self.main[id] = self._parked_records.pop(id)
        self._taken_upto = id - 1

    def read_pages(self) -> None:
        """Let the pages come that were asked for."""
        for exchange, after_id in self._asked.items():
            found = [r for id, (e, r) in sorted(self.held.items()) if e == exchange and id > after_id]
            self._pages[exchange] = found[:HELD_PAGE]
        if self._asked:
            self._asked.clear()
            self.on_available()

    @property
    def is_empty(self) -> bool:
        """True when nothing is left to be sent."""
        return not self.main and not self.held

    # -- what the publisher asks ----------------------------------------------------------------------------

    def age_s(self, record: Record) -> float:
        return self.clock() - record.accepted_at

    def has_more(self) -> bool:
        return self._taken_upto < self.last_id

    has_fresh = has_more

    def held_exchanges(self) -> dict[str, int]:
        exchanges = [exchange for exchange, _ in self.held.values()]
        return {exchange: exchanges.count(exchange) for exchange in exchanges}

    def readdress_held(self, publications: str, exchange_of: Callable[[str], str]) -> None:
        self.held = {id: (exchange_of(record.key.type), record) for id, (_, record) in self.held.items()}

    def take(self, limit: int) -> list[Record]:
        taken = [record for id, record in sorted(self.main.items()) if id > self._taken_upto][:limit]
        if taken:
            self._taken_upto = taken[-1].id
        return taken

    def discard(self, ids: Iterable[int]) -> None:
        for id in ids:
            assert self.main.pop(id, None) is not None, f"{id} is not in the main table"

    def discard_held(self, ids: Iterable[int]) -> None:
        for id in ids:
            assert self.held.pop(id, None) is not None, f"{id} is not held"

    def hold(self, exchange: str, records: list[Record]) -> None:
        for record in records:
            assert self.main.pop(record.id, None) is not None, f"{record.id} is not in the main table"
            self.held[record.id] = exchange, record

    def park(self, exchange: str, records: list[Record], reason: str) -> None:
        for record in records:
            assert self.main.pop(record.id, None) or self.held.pop(record.id, None), f"{record.id} is nowhere"
            self.parked[record.id] = exchange, reason
            self._parked_records[record.id] = record

    def ask_held(self, exchange: str, after_id: int) -> None:
        self._asked[exchange] = after_id
        self._pages.pop(exchange, None)
        if not self.pages_wait:
            self.read_pages()

    def take_held(self, exchange: str) -> list[Record] | None:
        return self._pages.pop(exchange, None)


class Rig:
    """A publisher whose crank the test turns. `settings` are those of `[bus]`, or whole sections."""

    def __init__(self, settings: str = "", journal: MemoryJournal | None = None) -> None:
        text = settings if settings.startswith("[") else f"[bus]\n{settings}"
        self.journal = journal or MemoryJournal(Clock())
        self.clock = self.journal.clock
        self.client = ScriptedClient()
        self.client.channels = ChannelPool(self.clock)
        self.publisher = BusPublisher(self.journal, parse_settings(text), clock=self.clock)
        self.client.add_handler(self.publisher)
        self.publisher.start_service()
        self.journal.on_available = self._on_available
        self._has_news = False

    def connect(self, connection: ScriptedConnection | None = None) -> ScriptedConnection:
        """Connect, and send what waits."""
        made = self.client.connect(connection)
        self.pump()
        return made

    def accept(self, count: int = 1, kind: str = "event", key: str | None = None, size: int = 0) -> list[int]:
        """Accept messages and send what may be sent; return their ids."""
        ids = self.journal.accept(count, kind, key, size)
        self.pump()
        return ids

    def wait(self, seconds: float) -> None:
        """Let time pass, then send what may be sent."""
        self.clock.wait(seconds)
        self.publisher.tick()
        self.pump()

    def pump(self) -> None:
        """Send what may be sent, and again while the journal has something new."""
        self._has_news = True
        while self._has_news:
            self._has_news = False
            self.publisher.pump()

    def _on_available(self) -> None:
        self._has_news = True

    @property
    def connection(self) -> ScriptedConnection:
        assert self.client.connection is not None
        return self.client.connection

    def channel(self, exchange: str = "event") -> ScriptedChannel:
        """The channel on which the latest message of `exchange` went."""
        return [m.channel for m in self.connection.published if m.exchange == exchange][-1]

    def ack(self, exchange: str = "event") -> list[int]:
        """Confirm all that is unanswered, then send what may be sent; return the ids."""
        answered = ids(self.channel(exchange).ack())
        self.pump()
        return answered

    def unanswered(self, exchange: str = "event") -> list[int]:
        """The ids that are on their way to `exchange`, in order."""
        return ids(self.channel(exchange).unanswered)

    def state(self, exchange: str = "event") -> State:
        """The state of an exchange's outlet."""
        return self.publisher.outlets[exchange].state


def ids(messages: Iterable[Published]) -> list[int]:
    """Return the journal's numbers of messages, each batch by its first."""
    return [int(message.message_id.split("-")[1]) for message in messages]


def names(messages: Iterable[Published]) -> list[str]:
    """Return the message ids without the journal's name: `7`, or `3-5-3` for a batch."""
    return [message.message_id.partition("-")[2] for message in messages]
