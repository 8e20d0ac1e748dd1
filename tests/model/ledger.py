"""What became of each message, kept apart from the core and held against it. Knows the promise, not how it is kept.

A message is known by its number `n`, which stands in its body; the core knows it by its row.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.model.clocks import Moment
from tests.support.scripted import Published, ScriptedChannel

_NUMBER = re.compile(rb'"n":(\d+)')
#: Acceptance times are kept for ranges of a second: a message may be sent so long after its time, never gone before it.
_TIME_GRAIN_S = 1.0
_TABLES = ("tobus", "vigiloconn_held", "vigiloconn_parked")


@dataclass(slots=True)
class Given:
    """A message that a writer wrote."""

    n: int
    writer: int
    kind: str
    ttl_s: int | None
    accepted_after: Moment
    """It was accepted between this and `accepted_before`."""
    can_be_sent: bool
    is_parked_when_unroutable: bool
    accepted_before: Moment | None = None
    """When it was first seen in the file, or on the wire; None: not yet."""
    is_lapsed: bool = False
    """It was not accepted, and the writer can know."""
    is_outside: bool = False
    """Another program has put it into the file: it may get another row, and takes its place behind others."""
    may_be_late: bool = False
    """Nobody knows any more when it was accepted."""
    row: int = 0
    """Its id, once known."""
    is_safe: bool = False
    """It was seen in the file."""

    @property
    def may_be_revived(self) -> bool:
        """It may have expired and been passed over, and have time to live again since a start."""
        return self.may_be_late and self.ttl_s is not None


@dataclass(slots=True)
class Wire:
    """A message on the bus."""

    message: Published
    numbers: list[int]
    era: int
    """How often the settings had named other exchanges."""
    is_taken: bool | None = None
    """What the broker has done with it; None while it may still do anything."""
    is_returned: bool = False


@dataclass(slots=True)
class Rows:
    """What an independent reader finds in the file."""

    main: dict[int, int] = field(default_factory=dict)
    """Row -> number."""
    held: dict[int, int] = field(default_factory=dict)
    parked: dict[int, int] = field(default_factory=dict)
    held_by_exchange: Counter[str] = field(default_factory=Counter)
    reasons: dict[int, str] = field(default_factory=dict)
    """Number -> why it is parked."""
    size_bytes: int = 0

    @property
    def numbers(self) -> set[int]:
        return {*self.main.values(), *self.held.values(), *self.parked.values()}


class Ledger:
    """Takes note of what is given, written and answered, and says where the promise is broken (`AssertionError`)."""

    def __init__(self) -> None:
        self.given: dict[int, Given] = {}
        self.exchanges: dict[str, str] = {}
        """Type -> the exchange that the settings name for it now."""
        self.confirmed: set[int] = set()
        """By the broker's confirm, which the core has heard."""
        self.unroutable: set[int] = set()
        """Dropped, because nobody wants them and the settings say so."""
        self.returned: set[int] = set()
        """To be parked, because nobody wants them."""
        self.suspects: set[int] = set()
        """Under way when the broker closed channel or connection for something that it did not name."""
        self.put_behind: set[int] = set()
        """Refused or returned once: the broker itself lets others pass."""
        self.deleted: set[int] = set()
        """By the user."""
        self.put_back = 0
        """Messages that were parked, and are to be sent again."""
        self.cleared: set[int] = set()
        """Parked, and deleted by the user since."""
        self.accepts_in_memory = False
        """Whether a message may be accepted, and its time count, without ever being in the file."""
        self.is_exact = True
        """False once a life ended in the middle of its work: what it had counted may be counted again."""
        self._wires: dict[Published, Wire] = {}
        self._bodies: dict[str, bytes] = {}
        self._first_sent: dict[str, int] = {}
        self._era = 0
        self._sent: set[int] = set()
        self.heard = 0
        """Confirms of messages that somebody wants, as the core has heard them."""
        self._past: Counter[str] = Counter()

    # -- what happens -----------------------------------------------------------------------------------------

    def give(self, message: Given) -> None:
        self.given[message.n] = message

    def lapse(self, numbers: Iterable[int]) -> int:
        """These were not accepted, and never will be. Returns how many they are."""
        lapsed = list(numbers)
        for n in lapsed:
            assert not self.given[n].is_safe
            self.given[n].is_lapsed = True
        return len(lapsed)

    def open(self) -> list[Given]:
        """Return what has not ended, as far as it can be known from the wire."""
        ended = self.confirmed | self.unroutable | self.deleted | self.cleared
        return [given for given in self.given.values() if not given.is_lapsed and given.n not in ended]

    def may_have_ended(self, n: int, now: Moment) -> bool:
        """Answer whether a message may be about to leave the file."""
        given = self.given[n]
        return (
            n in self.confirmed | self.unroutable | self.returned | self.suspects | self.deleted
            or not given.can_be_sent
            or _may_have_expired(given, now)
        )  # fmt: skip

    def readdress(self, kind: str, exchange: str) -> None:
        """Settings name another exchange for a type: what waited for one may now go behind newer ones of another."""
        self.exchanges[kind] = exchange
        self._era += 1
        self._first_sent.clear()

    def outside(self, numbers: Iterable[int], *, adds_only: bool = False) -> None:
        """Another program has put these into the main table, new ones or some that were parked; or deleted some."""
        for given in self.given.values():
            # Unless all that was left is there, the next start trusts no times: what waits counts as accepted then.
            given.may_be_late |= not adds_only
        for n in numbers:
            self.given[n].is_outside = True

    def numbers_in(self, message: Published) -> list[int]:
        """Return the numbers of the messages that a publish carries."""
        return [int(found) for found in _NUMBER.findall(message.body)]

    def published(self, message: Published, now: Moment) -> None:
        numbers = self.numbers_in(message)
        assert numbers, f"a message with none of ours in it: {message.body!r:.100}"
        self._wires[message] = Wire(message, numbers, self._era)
        known = self._bodies.setdefault(message.message_id, message.body)
        assert known == message.body, f"message_id {message.message_id}: two contents, {known!r} and {message.body!r}"
        assert message.mandatory
        row = int(re.split(r"-", message.message_id)[1])
        first = self.given[numbers[0]]
        self._seen(first, row, now)
        for n in numbers:
            self._first_time(self.given[n], message, now)

    def _first_time(self, given: Given, message: Published, now: Moment) -> None:
        assert message.exchange == self.exchanges[given.kind]
        if given.n in self._sent:
            return
        self._sent.add(given.n)
        if given.ttl_s is not None and given.accepted_before is not None and not given.may_be_late:
            assert _least_age_s(given.accepted_before, now) <= given.ttl_s + _TIME_GRAIN_S, f"{given} is late"
        expected = None if given.ttl_s is None else str(given.ttl_s * 1000)
        assert message.properties.get("expiration") == expected, given
        if given.row and not given.is_outside and not given.may_be_revived:
            exchange = message.exchange
            before = self._first_sent.get(exchange, 0)
            assert given.row > before, f"exchange {exchange}: row {given.row} is sent first after row {before}"
            self._first_sent[exchange] = given.row

    def answered(self, messages: Iterable[Published], acked: bool) -> None:
        """The broker has answered, and the core heard it."""
        for message in messages:
            wire = self._wires[message]
            wire.is_taken = acked and not wire.is_returned
            if not acked:
                self.put_behind.update(wire.numbers)
            elif not wire.is_returned:
                self.heard += 1
                self.confirmed.update(wire.numbers)
            else:
                for n in wire.numbers:
                    kept = self.given[n].is_parked_when_unroutable
                    (self.returned if kept else self.unroutable).add(n)

    def gave_back(self, message: Published) -> None:
        """The broker has returned a message, and will confirm it."""
        self._wires[message].is_returned = True
        self.put_behind.update(self._wires[message].numbers)

    def channel_ended(self, channel: ScriptedChannel, taken: int, is_for_cause: bool) -> None:
        """No more answers come on this channel; of what has none the broker has taken the first `taken`, at least
        all that was written before something that it has answered."""
        wires = [self._wires[message] for message in channel.published if message in self._wires]
        answered = [at for at, wire in enumerate(wires) if wire.is_taken is not None]
        taken = max(taken, answered[-1] + 1 if answered else 0)
        for at, wire in enumerate(wires):
            if wire.is_taken is None:
                wire.is_taken = at < taken and not wire.is_returned
                if is_for_cause:
                    self.suspects.update(wire.numbers)

    def life_ended(self, figures: dict[str, float], in_order: bool) -> None:
        """A process has ended: its counters begin at 0 again."""
        self._past.update({name: int(figures[name]) for name in ("sent", "expired", "parked", "unroutable")})
        self.is_exact = self.is_exact and in_order

    # -- what must hold ---------------------------------------------------------------------------------------

    def read(self, file: sqlite3.Connection, now: Moment) -> Rows:
        """Count what is in the file, and note who is accepted by being there."""
        rows = Rows()
        for table, into in zip(_TABLES, (rows.main, rows.held, rows.parked), strict=True):
            for row, body in file.execute(f"SELECT id, CAST(msg AS BLOB) FROM {table} ORDER BY id"):
                [n] = [int(found) for found in _NUMBER.findall(body)]
                into[row] = n
                self._seen(self.given[n], row, now)
                self.given[n].is_safe = True
                if into is not rows.parked:
                    rows.size_bytes += len(body)
        for exchange, count in file.execute("SELECT exchange, count(*) FROM vigiloconn_held GROUP BY exchange"):
            rows.held_by_exchange[exchange] = count
        for n, reason in file.execute("SELECT CAST(msg AS BLOB), reason FROM vigiloconn_parked"):
            rows.reasons[int(_NUMBER.findall(n)[0])] = reason
        for given in self.given.values():
            if given.accepted_before is None and not self.accepts_in_memory:
                given.accepted_after = now
        return rows

    def _seen(self, given: Given, row: int, now: Moment) -> None:
        assert given.row in (0, row) or given.is_outside, f"message {given.n} was row {given.row} and is row {row}"
        given.row = row
        given.accepted_before = given.accepted_before or now

    def check(self, rows: Rows, figures: dict[str, float], now: Moment) -> None:
        """Hold the file and the counters against what happened."""
        expired = self._figure("expired", figures)
        missing = [given for given in self.open() if given.is_safe and given.n not in rows.numbers]
        self._check_expired(missing, now)
        assert len(missing) <= expired, f"{len(missing)} messages are gone, {expired} have expired: {missing}"
        stored = [*rows.main.values(), *rows.held.values(), *rows.parked.values()]
        assert len(stored) == len(set(stored)), f"in two places: {[n for n in stored if stored.count(n) > 1]}"
        for n, reason in rows.reasons.items():
            given = self.given[n]
            assert reason
            assert n in self.returned or n in self.suspects or not given.can_be_sent, f"{given} is parked: {reason}"
        for writer in {given.writer for given in self.given.values()}:
            mine = [
                given.row for given in self.given.values()
                if given.writer == writer and given.row and not given.is_outside
            ]  # fmt: skip
            assert mine == sorted(mine), f"writer {writer}: rows {mine} are not in the order of its messages"
        assert self._figure("sent", figures) == self.heard
        if self.is_exact:
            assert self._figure("unroutable", figures) == len(self.unroutable)
            assert self._figure("parked", figures) >= len(rows.parked) + self.put_back

    def _check_expired(self, missing: Iterable[Given], now: Moment) -> None:
        for given in missing:
            assert given.ttl_s is not None, f"{given} is lost"
            assert _may_have_expired(given, now), f"{given} is gone too early, at {now}"

    def check_end(self, rows: Rows, figures: dict[str, float], now: Moment) -> None:
        """Everything has ended, and each end was counted."""
        assert not rows.main
        assert not rows.held
        expired = [given for given in self.open() if given.n not in rows.numbers]
        self._check_expired(expired, now)
        # What the user has deleted may have been on its way, and may have expired there.
        if self.is_exact and not self.deleted:
            assert self._figure("expired", figures) == len(expired)
            assert self._figure("parked", figures) == len(rows.parked) + self.put_back + len(self.cleared)
        for exchange in {wire.message.exchange for wire in self._wires.values()}:
            self._check_order(exchange)

    def _check_order(self, exchange: str) -> None:
        """A consumer that drops repeats sees all in order, but for what the broker itself put behind others."""
        seen: set[int] = set()
        last = era = 0
        for wire in self._wires.values():
            if wire.message.exchange != exchange or not wire.is_taken:
                continue
            if wire.era != era:
                last, era = 0, wire.era
            for n in wire.numbers:
                given = self.given[n]
                if n in seen or n in self.put_behind or given.is_outside or given.may_be_revived or not given.row:
                    continue
                seen.add(n)
                assert given.row > last, f"exchange {exchange}: a consumer sees row {given.row} after row {last}"
                last = given.row

    def _figure(self, name: str, figures: dict[str, float]) -> int:
        return self._past[name] + int(figures.get(name, 0))



def _least_age_s(accepted: Moment, now: Moment) -> float:
    """Return how old something is at least: by the clock that does not jump, over a reboot perhaps by the wall's."""
    true_s = now.true_s - accepted.true_s
    return true_s if now.boot == accepted.boot else min(true_s, now.wall_s - accepted.wall_s)


def _may_have_expired(given: Given, now: Moment) -> bool:
    accepted = given.accepted_after
    age_s = now.true_s - accepted.true_s
    if now.boot != accepted.boot:
        # Since the reboot it was as old as the wall clock said, and that may have been set since.
        age_s = max(age_s, now.latest_wall_s - accepted.wall_s)
    return given.ttl_s is not None and age_s > given.ttl_s
