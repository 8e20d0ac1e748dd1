"""The intake alone: who may come in, who waits, who is refused. No journal's file, no broker."""

from __future__ import annotations

from dataclasses import dataclass, replace

import gevent
import pytest

from vigiloconn.accepting import intake as module
from vigiloconn.accepting.intake import Intake
from vigiloconn.interfaces import Batch, RouteKey
from vigiloconn.options import ConnectorSettings, parse_settings


@dataclass
class Gauges:
    """What the intake asks of a journal."""

    all_rows: int = 0
    all_bytes: int = 0


class TellTale:
    """A writer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def dropped(self, count: int, reason: str) -> None:
        self.told.append((count, reason))


def batch(*kinds: str, writer: TellTale | None = None, size: int = 10) -> Batch:
    return Batch([(RouteKey(kind, None, True), b"x" * size) for kind in kinds], size * len(kinds), writer)


def settings(**bounds: object) -> ConnectorSettings:
    return replace(parse_settings("").runtime, **bounds)  # type: ignore[arg-type]


class Bench:
    """An intake with bounds of 10 messages and 1000 bytes."""

    def __init__(self) -> None:
        self.journal = Gauges()
        self.wakes = 0
        bounds = settings(journal_max_messages=10, journal_max_bytes=1000)
        self.intake = Intake(self.journal, bounds, self.woken)  # type: ignore[arg-type]

    def woken(self) -> None:
        self.wakes += 1

    def accept(self) -> list[Batch]:
        """Do as the journal's owner does: commit the next group."""
        group = self.intake.next_group()
        self.journal.all_rows += sum(len(b.items) for b in group)
        self.journal.all_bytes += sum(b.size_bytes for b in group)
        self.intake.accepted(group)
        return group

    def put_waits(self, *batches: Batch) -> gevent.Greenlet[..., None]:
        """Put from a greenlet of its own, which must be left waiting."""

        def put_all() -> None:
            for each in batches:
                self.intake.put(each)

        greenlet: gevent.Greenlet[..., None] = gevent.spawn(put_all)
        gevent.sleep(0)
        assert not greenlet.ready()
        return greenlet


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_batches_come_out_whole_and_in_order_and_stay_in_hand_until_they_are_accepted(bench: Bench) -> None:
    first, second = batch("event", "perf"), batch("state")
    bench.intake.put(first)
    bench.intake.put(second)
    assert bench.wakes == 1
    assert bench.intake.next_group() == bench.intake.next_group() == [first, second]
    assert (bench.intake.messages, bench.intake.is_empty()) == (3, False)
    bench.accept()
    assert (bench.intake.messages, bench.intake.is_empty(), bench.intake.next_group()) == (0, True, [])


def test_what_was_admitted_and_is_not_committed_counts_against_the_bounds(bench: Bench) -> None:
    bench.intake.put(batch(*["event"] * 10))
    waiting = bench.put_waits(batch("event"))
    bench.accept()
    bench.intake.look_again()
    gevent.sleep(0)
    assert not waiting.ready()
    bench.journal.all_rows = 9
    bench.intake.look_again()
    waiting.get(timeout=10)
    assert bench.intake.messages == 1


def test_bytes_are_bounded_like_messages(bench: Bench) -> None:
    bench.journal.all_bytes = 990
    bench.intake.put(batch("event"))
    bench.put_waits(batch("event")).kill()


def test_types_that_may_be_refused_are_refused_at_four_fifths_and_the_others_come_in(bench: Bench) -> None:
    writer = TellTale()
    bench.journal.all_rows = 8
    bench.intake.put(batch("perf", "event", "perf", writer=writer))
    [left] = bench.intake.next_group()
    assert [key.type for key, _ in left.items] == ["event"]
    assert (left.size_bytes, left.writer) == (10, writer)
    assert bench.intake.dropped == {"perf": 2}
    assert writer.told == [(1, "the journal is full")] * 2


def test_below_four_fifths_nothing_is_refused(bench: Bench) -> None:
    bench.journal.all_rows = 7
    bench.intake.put(batch("perf"))
    assert not bench.intake.dropped


def test_a_batch_of_nothing_passes_a_full_journal(bench: Bench) -> None:
    """It carries a request for acceptance only."""
    bench.journal.all_rows = 10
    bench.intake.put(batch())
    assert len(bench.intake.next_group()) == 1


def test_a_full_disk_stops_what_the_bounds_would_admit(bench: Bench) -> None:
    bench.intake.disk_is_full = True
    waiting = bench.put_waits(batch("event"))
    bench.intake.disk_is_full = False
    bench.intake.look_again()
    waiting.get(timeout=10)


def test_what_finds_no_room_at_the_stop_is_refused_and_its_writer_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    writer = TellTale()
    bench.journal.all_rows = 10
    waiting = bench.put_waits(batch("event", "event", writer=writer))
    bench.intake.close()
    waiting.get(timeout=10)
    assert writer.told == [(2, "the journal is full")]
    assert "2 messages that were read could not be accepted" in caplog.text
    assert bench.intake.messages == 0


def test_a_closed_intake_still_takes_what_finds_room(bench: Bench) -> None:
    bench.intake.close()
    bench.intake.put(batch("event"))
    assert bench.intake.messages == 1


def test_writers_wait_while_too_many_batches_are_on_their_way(bench: Bench) -> None:
    waiting = bench.put_waits(*[batch() for _ in range(module._BATCHES + 1)])
    bench.intake.next_group()
    waiting.get(timeout=10)


def test_a_group_ends_at_a_transactions_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP_MESSAGES", 4)
    for _ in range(3):
        bench.intake.put(batch("event", "event"))
    assert len(bench.intake.next_group()) == 2
    bench.accept()
    assert len(bench.intake.next_group()) == 1
    bench.accept()
    monkeypatch.setattr(module, "_GROUP_BYTES", 15)
    bench.intake.put(batch("event", size=10))
    bench.intake.put(batch("event", size=10))
    bench.intake.put(batch("event", size=10))
    assert len(bench.intake.next_group()) == 2


def test_what_finds_no_room_at_once_is_tried_in_halves_and_then_in_larger_portions_again(bench: Bench) -> None:
    batches = [batch("event") for _ in range(8)]
    for each in batches:
        bench.intake.put(each)
    sizes = []
    while len(group := bench.intake.next_group()) > 2:
        sizes.append(len(group))
        assert bench.intake.try_half(group)
    accepted = []
    while group := bench.accept():
        sizes.append(len(group))
        accepted += group
    assert accepted == batches
    assert sizes == [8, 4, 2, 4, 2]
    bench.journal.all_rows = 0
    for each in batches:
        bench.intake.put(each)
    assert len(bench.intake.next_group()) == 8


def test_a_single_batch_can_not_be_halved(bench: Bench) -> None:
    bench.intake.put(batch("event"))
    assert not bench.intake.try_half(bench.intake.next_group())
    assert not bench.intake.try_half([])


def test_only_a_batch_that_changes_when_the_next_commit_is_due_wakes_the_journal() -> None:
    bench = Bench()
    bench.intake.put(batch("event"))
    bench.intake.put(batch("event"))
    assert (bench.wakes, bench.intake.is_urgent) == (1, False)
    asked = batch("event")
    asked.on_accepted = lambda: None
    bench.intake.put(asked)
    assert (bench.wakes, bench.intake.is_urgent) == (2, True)
    bench.accept()
    assert not bench.intake.is_urgent
    bench.intake.put(batch("event"))
    assert bench.wakes == 3


def test_a_full_queue_is_urgent_since_writers_wait_for_room_in_it() -> None:
    bench = Bench()
    for _ in range(module._BATCHES):
        bench.intake.put(batch())
    assert (bench.wakes, bench.intake.is_urgent) == (2, True)
    bench.accept()
    assert not bench.intake.is_urgent
