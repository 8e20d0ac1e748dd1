"""The judge: what was promised beside what came. Pure: knows lines, deliveries and rows, no processes and no clocks.

    an obligation must be delivered, or parked, or expired where its time to live had passed while its way was barred;
    its body must be what its line says; a body that nobody wrote must not come;
    of each writer the first copies come in the order in which they were written, in each exchange;
    one `message_id` has one body, and one message is recognised by its `message_id` each time that it comes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.consumer import Delivery
from tests.chaos.lines import name_of
from tests.chaos.writers import Written

_EXAMPLES = 5
#: How long a message that was accepted while the way was free may take to the broker.
_ON_ITS_WAY_S = 2.0

Name = tuple[str, int]


class Parked(NamedTuple):
    """A row of the parked table."""

    exchange: str
    body: bytes
    reason: str


class Span(NamedTuple):
    """A time in which the way was barred, its aftermath included (monotonic seconds)."""

    start: float
    end: float


@dataclass(slots=True)
class Evidence:
    """What a run has left behind."""

    written: Sequence[Written]
    deliveries: Sequence[Delivery]
    parked: Sequence[Parked] = ()
    expired_on_bus: Sequence[Delivery] = ()
    """What the broker took out of its queues when its time had passed; it was delivered."""
    ttl_s: Mapping[str, float] = field(default_factory=dict)
    """Kind of message -> its time to live, where it has one."""
    barred: Sequence[Span] = ()
    may_park: bool = False
    """Whether some fault left a message without a queue."""
    drops_unwanted: bool = False
    """Whether a message without a queue is dropped and counted, in place of being parked."""
    has_given_before: bool = False
    """Whether the broker may have given messages to a former self of the consumer, whose node was lost: they come back
    late, behind others."""


@dataclass(slots=True)
class Verdict:
    """What is wrong, each thing in one line; and how much there was of what."""

    findings: list[str] = field(default_factory=list)
    obligations: int = 0
    delivered: int = 0
    repeats: int = 0
    parked: int = 0
    expired: int = 0
    unwanted: int = 0
    """Dropped, since no queue wanted them."""
    refused: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """What the connector says of itself: its counters, as far as it lived to tell them."""

    def complain(self, what: str, cases: Sequence[object]) -> None:
        """Add a finding if there are cases of it."""
        if cases:
            shown = ", ".join(map(str, cases[:_EXAMPLES]))
            self.findings.append(f"{len(cases)} {what}: {shown}{', ...' if len(cases) > _EXAMPLES else ''}")


class _Copy(NamedTuple):
    name: Name
    message_id: str
    was_given_before: bool


def judge(evidence: Evidence) -> Verdict:
    """Return what is to be said of a run."""
    verdict = Verdict()
    by_name = {(w.line.writer, w.line.number): w for w in evidence.written}
    copies = _read(evidence.deliveries, by_name, verdict)
    came = {copy.name for group in copies.values() for copy in group}
    came |= {copy.name for group in _read(evidence.expired_on_bus, by_name, verdict).values() for copy in group}
    _judge_ends(evidence, by_name, came, verdict)
    _judge_order(copies, evidence.has_given_before, verdict)
    _judge_identity(copies, verdict)
    _judge_bodies_of_ids(evidence.deliveries, verdict)
    return verdict


def singles(body: bytes) -> list[dict[str, Any]]:
    """Return the messages that a body holds. Raises `ValueError`."""
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("no JSON object")
    return list(message["messages"]) if "messages" in message else [message]


def _read(deliveries: Iterable[Delivery], by_name: Mapping[Name, Written], verdict: Verdict) -> dict[str, list[_Copy]]:
    """Return exchange -> the copies in the order of their arrival. Complains of bodies that nobody wrote."""
    copies: dict[str, list[_Copy]] = defaultdict(list)
    unreadable, spoilt, foreign = [], [], []
    for delivery in deliveries:
        try:
            messages = singles(delivery.body)
        except ValueError:
            unreadable.append(delivery.body[:200])
            continue
        for message in messages:
            name = name_of(message)
            written = by_name.get(name) if name is not None else None
            if name is not None and written is not None and written.line.body == message:
                copies[delivery.exchange].append(_Copy(name, delivery.message_id, delivery.redelivered))
            elif written is not None and written.synced_at is not None:
                spoilt.append((name, message))
            elif not _is_torn(message, by_name):
                foreign.append(message)
    verdict.complain("bodies that are no JSON objects", unreadable)
    verdict.complain("bodies that are not what was written", spoilt)
    verdict.complain("messages that nobody wrote", foreign)
    return copies


def _is_torn(message: Mapping[str, Any], by_name: Mapping[Name, Written]) -> bool:
    """Answer whether this may be the beginning of a line that was cut off with its writer's connection."""
    text = "|".join(map(str, message.values()))
    return any(w.synced_at is None and w.line.text.startswith(text) for w in by_name.values())


def _judge_ends(evidence: Evidence, by_name: Mapping[Name, Written], came: set[Name], verdict: Verdict) -> None:
    parked = {name for row in evidence.parked for body in singles(row.body) if (name := name_of(body)) is not None}
    obligations = {name: w for name, w in by_name.items() if w.synced_at is not None}
    lacking = [name for name in obligations if name not in came and name not in parked]
    expired = [name for name in lacking if _may_have_expired(obligations[name], evidence)]
    verdict.obligations = len(obligations)
    verdict.delivered = len(came & obligations.keys())
    verdict.parked = len((parked - came) & obligations.keys())
    verdict.expired = len(expired)
    unwanted = {name for name in lacking if _may_be_unwanted(obligations[name], evidence)} - set(expired)
    verdict.unwanted = len(unwanted)
    lost = sorted(set(lacking) - set(expired) - unwanted)
    verdict.complain("obligations lost", [f"{writer} {number} ({by_name[writer, number].line.kind})"
                                          for writer, number in lost])
    if not evidence.may_park:
        verdict.complain("messages parked without a cause", [row.reason for row in evidence.parked])


def _may_be_unwanted(written: Written, evidence: Evidence) -> bool:
    """Answer whether no queue may have been there when it was sent."""
    synced_at = written.synced_at
    if not evidence.may_park or not evidence.drops_unwanted or synced_at is None:
        return False
    return any(span.start - _ON_ITS_WAY_S <= synced_at and written.written_at <= span.end for span in evidence.barred)


def _may_have_expired(written: Written, evidence: Evidence) -> bool:
    ttl_s = evidence.ttl_s.get(written.line.kind)
    if ttl_s is None or written.synced_at is None:
        return False
    # What was sent before may have expired in the broker, and by the broker's own clock.
    return any(span.start <= written.synced_at + ttl_s and written.written_at <= span.end - ttl_s
               for span in evidence.barred)


def _judge_order(copies: Mapping[str, Sequence[_Copy]], has_given_before: bool, verdict: Verdict) -> None:
    for exchange, group in copies.items():
        firsts: dict[Name, _Copy] = {}
        for copy in group:
            firsts.setdefault(copy.name, copy)
        verdict.repeats += len(group) - len(firsts)
        latest: dict[str, int] = {}
        early = []
        for (writer, number), copy in firsts.items():
            if number < latest.get(writer, 0) and not (has_given_before and copy.was_given_before):
                early.append(f"{writer} {number} after {latest[writer]}")
            latest[writer] = max(number, latest.get(writer, 0))
        verdict.complain(f"messages out of order in {exchange}", early)


def _judge_identity(copies: Mapping[str, Sequence[_Copy]], verdict: Verdict) -> None:
    """Complain of messages that came again under an id by which they can't be recognised."""
    seen: dict[Name, str] = {}
    strangers = []
    for group in copies.values():
        for copy in group:
            first = seen.setdefault(copy.name, copy.message_id)
            if first != copy.message_id and not _overlap(first, copy.message_id):
                strangers.append(f"{copy.name[0]} {copy.name[1]} as {first} and {copy.message_id}")
    verdict.complain("messages that came again under another id", strangers)


def _judge_bodies_of_ids(deliveries: Iterable[Delivery], verdict: Verdict) -> None:
    bodies: dict[str, set[bytes]] = defaultdict(set)
    lacking: Counter[str] = Counter()
    for delivery in deliveries:
        if delivery.message_id:
            bodies[delivery.message_id].add(delivery.body)
        else:
            lacking[delivery.exchange] += 1
    verdict.complain("ids with more than one body", [key for key, found in bodies.items() if len(found) > 1])
    verdict.complain("messages without an id", [f"{number} in {exchange}" for exchange, number in lacking.items()])


def _overlap(one: str, other: str) -> bool:
    """Answer whether the ranges of two batches meet: `<journal>-<first>-<last>-<count>`. A single message is its own
    range, so that it may have been in a batch before."""
    a, b = _range(one), _range(other)
    return a is not None and b is not None and a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2]


def _range(message_id: str) -> tuple[str, int, int] | None:
    parts = message_id.split("-")
    try:
        if len(parts) == 4:
            return parts[0], int(parts[1]), int(parts[2])
        return (parts[0], int(parts[1]), int(parts[1])) if len(parts) == 2 else None
    except ValueError:
        return None
