"""What a run does, drawn from its seed. Pure: knows faults by their names, no processes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.lines import KINDS
from tests.chaos.stage import CLUSTER, DIRECTIONS, LINES, PIPE, QUEUE, STATUS, Shape
from tests.chaos.writers import WriterPlan

_SMALL_DISKS_MB = (8, 16, 40)
_LEAST_LINES_S = 15.0
_MANY_WRITERS = 50
_LONGEST_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault at its time."""

    name: str
    argument: Any
    after_s: float
    """How long after the one before it begins."""
    hold_s: float
    """How long it lasts, counted from the last of its episode."""

    @property
    def fault(self) -> Fault:
        return FAULTS[self.name]

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name} ({self.argument})"


@dataclass(frozen=True, slots=True)
class Episode:
    """Faults that last at the same time, and whether the next episode waits until the flow has come back."""

    strikes: Sequence[Strike]
    is_followed_by_calm: bool
    rest_s: float = 0.0
    """How long nothing strikes after it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run does."""

    seed: int
    shape: Shape
    direction: str
    episodes: Sequence[Episode]
    writers: Sequence[WriterPlan] = ()
    ttl_s: Mapping[str, float] = field(default_factory=dict)
    feed_pause_s: float = 0.0

    @property
    def strikes(self) -> list[Strike]:
        """All faults, in the order of their beginnings."""
        return [strike for episode in self.episodes for strike in episode.strikes]


@dataclass(frozen=True, slots=True)
class Soak:
    """A long run of one process."""

    episodes: int
    rest_s: float
    """How long nothing strikes between two of them."""


def draw_plan(
    seed: int, *, direction: str = "", is_short: bool = False, soak: Soak | None = None, may_mount: bool = True
) -> Plan:
    """Return the plan of a seed. A short one has the faults that begin and end at once, and few of them; `soak` says
    how often something strikes where that is not for the seed to say."""
    chance = random.Random(seed)
    drawn = chance.choices(DIRECTIONS, (6, 1, 1))[0]
    direction = direction or drawn
    if direction == CLUSTER:
        return _draw_cluster_plan(chance, seed)
    names = [
        name for name, fault in FAULTS.items()
        if direction in fault.only and not (is_short and fault.is_slow) and (may_mount or not fault.needs_mount)
        and not (soak and fault.ends_life)
    ]
    drawn_count = 2 if is_short else chance.randint(2, 5)
    played = [_draw_episode(chance, names, is_short) for _ in range(soak.episodes if soak else drawn_count)]
    if soak:
        played = [replace(episode, is_followed_by_calm=True, rest_s=soak.rest_s) for episode in played]
    if direction != LINES:
        shape = _draw_consumer(chance, direction)
        return Plan(seed, shape, direction, played, feed_pause_s=chance.choice((0.01, 0.05)))
    ttl_s = {kind: float(chance.choice((4, 3600))) for kind in KINDS if chance.random() < 0.2}
    publications = {kind: f"{kind}:{ttl:.0f}" for kind, ttl in ttl_s.items()}
    bus = _draw_bus(chance)
    needs_disk = any(strike.fault.needs_mount for episode in played for strike in episode.strikes)
    shape = Shape(
        "nagios", bus, _draw_connector(chance), {}, publications,
        chance.choice(_SMALL_DISKS_MB) if needs_disk else None,
        channels=chance.choice((1, 2, 3)) if chance.random() < 0.2 else None,
        has_other_way=chance.random() < 0.25,
    )
    writers = _draw_writers(chance, bus["window"])
    # Last, so that what is drawn before stays what it was.
    reclaims = chance.choice(("", "keep", "remove", "punch"))
    return Plan(seed, replace(shape, reclaims=reclaims), direction, played, writers, ttl_s)


def _draw_cluster_plan(chance: random.Random, seed: int) -> Plan:
    """Return a plan in which a cluster loses one node, then two, and is restarted node by node."""
    names = ["one node lost", "majority lost", "nodes restarted in turn", "one node lost", "majority lost"]
    episodes = []
    for name in names[: chance.randint(3, 5)]:
        strikes = [Strike(name, FAULTS[name].draw(chance), 0.0, round(chance.uniform(2.0, 8.0), 3))]
        if chance.random() < 0.4:
            killed = chance.choice(("connector killed", "connector killed at a point"))
            strikes.append(Strike(killed, FAULTS[killed].draw(chance), 0.5, 0.5))
        episodes.append(Episode(strikes, True))
    bus = _draw_bus(chance)
    shape = Shape("nagios", bus, _draw_connector(chance), {}, {})
    return Plan(seed, shape, CLUSTER, episodes, _draw_writers(chance, bus["window"]))


def _draw_episode(chance: random.Random, names: Sequence[str], is_short: bool) -> Episode:
    strikes: list[Strike] = []
    for _ in range(1 if is_short else chance.choice((1, 1, 2, 2, 3))):
        taken = {strike.fault.place for strike in strikes}
        name = chance.choice([name for name in names if FAULTS[name].place not in taken])
        longest_s = 1.5 if is_short else chance.choice((1.0, 3.0, 9.0))
        strikes.append(Strike(
            name, FAULTS[name].draw(chance), round(chance.uniform(0.0, 1.0), 3),
            round(chance.uniform(0.0, longest_s), 3),
        ))
    return Episode(strikes, is_short or chance.random() < 0.7)


def _draw_consumer(chance: random.Random, direction: str) -> Shape:
    bus: dict[str, object] = {"queue": QUEUE, "prefetch_count": chance.choice((1, 50, 500))}
    if direction == PIPE:
        grouped = chance.random() < 0.3
        nagios = {
            "nagios_pipe": "nagios.cmd", "accepted_commands": "PROCESS_SERVICE_CHECK_RESULT",
            "group_nagios_commands": grouped,
        }
        return Shape("nagios", bus, {"status_period": 60}, nagios, {})
    build = chance.choice(("build", "build_batches"))
    return Shape(f"tests.scenarios.consume:{build}", bus, {}, {}, {})


def _draw_bus(chance: random.Random) -> dict[str, object]:
    return {
        "window": chance.choice((1, 50, 2000, 2000)),
        "batch_send_perf": chance.choice((1, 1, 7, 50)),
        "batch_linger_ms": chance.choice((20, 1000)),
        "failback_delay": chance.choice((1, 3, 300)),
    }


def _draw_connector(chance: random.Random) -> dict[str, object]:
    return {
        "durability": chance.choice(("journal", "journal", "overflow")),
        "synchronous": chance.choice(("full", "normal")),
        "when_unroutable": chance.choice(("park", "park", "drop")),
        "self_monitoring_perf_exchange": STATUS,
        "self_monitoring_nagios_exchange": STATUS,
    }


def _draw_writers(chance: random.Random, window: object) -> list[WriterPlan]:
    max_text = chance.choice((20, 20, 200, 3000))
    # Many only where that many get through, each at its least.
    count = _MANY_WRITERS if window != 1 and max_text < 1000 and chance.random() < 0.15 else chance.randint(1, 4)
    # No more than gets through, or what comes after a fault waits for a backlog that has nothing to do with it.
    most_lines_s = 60 if window == 1 else 150 if max_text > 1000 else 1200
    writers = []
    for number in range(count):
        lines_s = max(_LEAST_LINES_S, chance.choice((0.05, 0.3, 1.0)) * most_lines_s / count)
        # Who waits for the flow to come back waits for the next chunk.
        chunk = max(1, min(chance.choice((1, 20, 60)), int(2 * _LONGEST_PAUSE_S * lines_s) - 1))
        writers.append(WriterPlan(
            f"w{number}", chance.choice((KINDS, KINDS, KINDS[:1] * 4 + KINDS)), chunk, (1 + chunk) / 2 / lines_s,
            max_text, chance.getrandbits(32),
        ))
    return writers
