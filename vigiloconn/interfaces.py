"""What the parts of a connector ask of each other.

Types that travel between parts, and the Protocols by which a part knows its neighbour. The parts
themselves are passed to constructors; nothing here is instantiated but the small value classes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from vigiloconn.errors import BusDown, BusRefused

#: The routing key of what the connector tells of itself.
SELF_MONITORING_KEY = "Vigilo"


class RouteKey(NamedTuple):
    """What decides how a message travels: `[publications]` gives exchange and TTL for `type`."""

    type: str
    routing_key: str | None
    """The message's own key; None means the type's name."""
    persistent: bool

    @property
    def is_batchable(self) -> bool:
        """True for performance data, but not the connector's own figures: they keep their routing key."""
        return self.type == "perf" and self.routing_key != SELF_MONITORING_KEY


#: The key of a row in the journal that is no message of anybody's.
UNREADABLE = RouteKey("", None, True)

Item = tuple[RouteKey, bytes]
"""A message before it is accepted: its route key and its body, a JSON object in UTF-8."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """An accepted message. A struct of msgspec's: made for every message, it costs a tenth of a named tuple."""

    id: int
    """Its number in the journal; grows in the order of acceptance and is never used twice."""
    key: RouteKey
    body: bytes
    accepted_at: float
    """UNIX seconds, for people: ages are told by the journal's `age_s`."""
    boot_s: float | None = None
    """Seconds of this boot's clock at the acceptance; None where it was in another boot or is not known."""


class Writer(Protocol):
    """Where a batch came from, as far as the journal has something to tell it."""

    def dropped(self, count: int, reason: str) -> None:
        """`count` messages of this writer were refused by the full policy. Must not block."""


@dataclass(slots=True)
class Batch:
    """Messages of one writer that were read together. They stay together and in order."""

    items: Sequence[Item]
    size_bytes: int
    """Sum of the bodies' lengths."""
    writer: Writer | None = None
    on_accepted: Callable[[], None] | None = None
    """Called once everything in this batch, and everything the same writer put before it, is safe.
    Runs on the journal's greenlet: it must neither block nor raise."""
    kept: Mapping[str, str | None] = field(default_factory=dict)
    """Texts by name, stored in the very transaction that accepts the items; None deletes one. A source that can give
    its messages again keeps its position so: a batch with texts is committed whatever the durability, and is
    accepted whole or waits, whatever the full policy."""
    put_at_s: float = field(default=0.0, compare=False)
    """When it was put, in monotonic seconds; set by the sink."""


class Sink(Protocol):
    """The consumer side of a push flow, with back-pressure."""

    def put(self, batch: Batch) -> None:
        """Take a batch. Blocks the calling greenlet while there is no room."""


class Journal(Protocol):
    """The journal, as those see it who empty it. Nothing here blocks; all is done in the journal's next cycle."""

    @property
    def uuid(self) -> str:
        """What the ids of this journal's messages begin with."""

    def age_s(self, record: Record) -> float:
        """Return the seconds since a message was accepted, whatever the wall clock did meanwhile."""

    def discard(self, ids: Iterable[int]) -> None:
        """These messages of the main table are finished."""

    def discard_held(self, ids: Iterable[int]) -> None:
        """These held messages are finished."""

    def hold(self, exchange: str, records: list[Record]) -> None:
        """Move messages of the main table behind those that are held for `exchange`."""

    def park(self, exchange: str, records: list[Record], reason: str) -> None:
        """Move messages that can't be delivered to the parked table."""

    def ask_held(self, exchange: str, after_id: int) -> None:
        """Read the oldest messages held for `exchange` with ids above `after_id`."""

    def take_held(self, exchange: str) -> list[Record] | None:
        """Return the page that was asked for, [] if there are no more; None while it is not there yet."""


class Level(enum.IntEnum):
    """How bad a problem is; the numbers are Nagios' own."""

    WARNING = 1
    CRITICAL = 2


class Problem(NamedTuple):
    """Something that an operator should know now."""

    name: str
    """Stable, in words with hyphens: what scripts, documents and histories go by."""
    level: Level
    text: str
    """One line for a person, with place, value and what to do."""
    about: str = ""
    """Which one it is, where a part may have several of the same name: an exchange, a file."""


class Connection(Protocol):
    """A connection to one broker, as those see it who publish and consume on it.

    Channels are py-amqp's, or have those of its methods that are called. Nothing here but `open_channel`,
    `forget_channel` and `write` may block.
    """

    blocked: bool
    """True while the broker says that it takes no publishes."""
    confirms: dict[int, Callable[[int, bool, bool], None]]
    """channel id -> function of (delivery tag, multiple, is an ack)."""
    deliveries: dict[int, Callable[[int, bytes], None]]
    contents: dict[int, Callable[[bytes, int, int, int], int]]
    """channel id -> function of (frame type, payload)."""
    refusal: BusRefused | None
    """What the broker said when it closed the connection because of something that we did."""

    @property
    def lost(self) -> BusDown | None:
        """Why the connection is gone; None while it is there."""

    @property
    def max_message_bytes(self) -> int:
        """The largest body that is taken from the broker."""

    @property
    def heard_at(self) -> float:
        """When something was last heard of the broker, in monotonic seconds."""

    @property
    def frame_max(self) -> int:
        """Largest frame that the broker takes, in octets."""

    def open_channel(self) -> Any:
        """Open a channel and return it. Raises `BusDown`, `BusRefused`."""

    def forget_channel(self, channel: Any) -> None:
        """Close a channel that is not needed any more; a broker that does not answer is no error."""

    def write(self, buffer: bytes, channel: Any) -> bool:
        """Write whole frames of one channel. False, and nothing written, if it is closed. Raises `BusDown`."""

    def abort(self, reason: str) -> None:
        """Throw the connection away."""

    def leave(self, reason: str) -> None:
        """Throw the connection away, and go to another broker at once where there is one."""


class Channels(Protocol):
    """The confirm channels of a client, as those see them who publish on them."""

    def take(self, connection: Connection, holder: Any) -> Any:
        """Return the channel on which `holder` may send now, None while it has to wait for its turn."""

    def leave(self, holder: Any) -> None:
        """`holder` has nothing to send: it waits for no channel."""

    def wake_first(self) -> None:
        """Something was answered: the first that waits may find a channel."""


class Answer(Protocol):
    """A result to come, as gevent's `AsyncResult` gives it."""

    @property
    def exception(self) -> BaseException | None: ...
    def ready(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> Any: ...
    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...
    def rawlink(self, callback: Callable[[Any], object]) -> None: ...
    def unlink(self, callback: Callable[[Any], object]) -> None: ...


class Client(Protocol):
    """The root of a connection, as its handlers see it."""

    @property
    def connection(self) -> Connection | None:
        """The connection; None while the bus is away."""

    @property
    def channels(self) -> Channels:
        """What to publish on."""

    @property
    def last_error(self) -> BusDown | BusRefused | None:
        """Why the latest attempt or connection failed; None since it works again."""

    def send(
        self, exchange: str, routing_key: str, message: Mapping[str, Any] | bytes, **options: Any
    ) -> Answer:
        """Publish one message past the journal; never blocks."""

    @property
    def has_others(self) -> bool:
        """True where there is another broker to go to."""

    def note_success(self) -> None:
        """A handler has seen the broker do its work on this connection."""

    def add_handler(self, handler: Any) -> None:
        """Tell `handler` of the connection from now on; its `client` is this one."""
