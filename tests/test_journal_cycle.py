"""The journal's side of the flow, cycle by cycle, on a real SQLite file and without a broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from tests.support.cycle import Crank, numbers
from tests.support.inline import Held
from tests.support.journals import assert_totals_are_exact
from tests.support.wait import wait_until
from vigiloconn.errors import JournalDamaged, JournalFull
from vigiloconn.interfaces import RouteKey
from vigiloconn.journal.transaction import Transaction
from vigiloconn.supervisor import Supervisor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


@pytest.fixture
def crank(path: Path) -> Iterator[Crank]:
    made = Crank(path)
    yield made
    made.close()


def names(crank: Crank) -> list[str]:
    return [problem.name for problem in crank.provider.problems()]


class NoRoom:
    """Makes a journal refuse, as a full disk does."""

    def __init__(self, crank: Crank, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self.refuses_all = False
        self.most_appends = 0
        self._apply = crank.journal.apply
        monkeypatch.setattr(crank.journal, "apply", self.apply)

    def apply(self, transaction: Transaction) -> None:
        if self.is_full and (self.refuses_all or len(transaction.appends) > self.most_appends):
            raise JournalFull("no room")
        self._apply(transaction)


# Acceptance.


def test_a_batch_is_accepted_by_its_commit_and_then_handed_on_in_order(crank: Crank) -> None:
    crank.put(2, "a")
    crank.put(1, "b")
    assert (crank.accepted, crank.provider.take(10)) == ([], [])
    crank.provider.cycle()
    assert crank.accepted == ["a", "b"]
    assert crank.stored() == numbers(crank.provider.take(10)) == [1, 2, 3]
    assert crank.provider.accepted == 3


def test_the_publisher_is_told_of_new_messages_and_of_pages(crank: Crank) -> None:
    told: list[bool] = []
    crank.provider.on_available = lambda: told.append(True)
    crank.provider.cycle()
    assert not told
    crank.put()
    crank.provider.cycle()
    assert len(told) == 1
    [record] = crank.provider.take(1)
    crank.provider.hold("x", [record])
    crank.provider.ask_held("x", 0)
    crank.provider.cycle()
    assert len(told) == 2
    assert numbers(crank.provider.take_held("x") or []) == [record.id]


def test_a_backlog_is_handed_on_page_by_page_each_message_once(path: Path) -> None:
    first = Crank(path)
    for _ in range(5):
        first.put(1000)
        first.provider.cycle()
    first.close()
    second = Crank(path, max_queue_size=700)
    second.put(3)
    assert numbers(second.take()) == [*range(1, 5001), *range(5001, 5004)]
    second.put(1)
    assert numbers(second.take()) == [5004]
    second.close()


def test_messages_are_written_to_a_stopped_publisher_only_up_to_the_memory(path: Path) -> None:
    crank = Crank(path, max_queue_size=10)
    for _ in range(5):
        crank.put(4)
        crank.provider.cycle()
    assert crank.provider.stats()["backup_out_buf"] == 10
    assert numbers(crank.take()) == list(range(1, 21))
    crank.close()


def test_a_row_that_is_no_message_is_handed_on_to_be_parked(crank: Crank, caplog: pytest.LogCaptureFixture) -> None:
    with crank.journal._transaction():
        crank.journal._rows.connection.execute("INSERT INTO tobus VALUES (1, 'nonsense')")
    crank.provider._ahead.last_id = 1
    [record] = crank.take(1)
    assert (record.id, record.key.type) == (1, "")
    assert "row 1 is no message" in caplog.text


# What becomes of messages.


def test_finished_messages_are_deleted_by_name_in_any_order(crank: Crank) -> None:
    crank.put(6)
    crank.provider.cycle()
    crank.take()
    crank.provider.discard([5])
    crank.provider.discard([2, 3])
    crank.provider.cycle()
    assert crank.stored() == [1, 4, 6]
    assert_totals_are_exact(crank.journal)


def test_held_messages_are_read_back_in_order_and_deleted_by_name(crank: Crank) -> None:
    crank.put(6)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.hold("x", records[:4])
    crank.provider.hold("y", records[4:])
    crank.provider.ask_held("x", 1)
    crank.provider.cycle()
    assert numbers(crank.provider.take_held("x") or []) == [2, 3, 4]
    assert crank.provider.take_held("y") is None
    crank.provider.discard_held([3, 1, 6])
    crank.provider.ask_held("x", 4)
    crank.provider.cycle()
    assert crank.provider.take_held("x") == []
    assert (crank.held("x"), crank.held("y"), crank.stored()) == ([2, 4], [5], [])
    assert crank.provider.held_exchanges() == {"x": 2, "y": 1}
    assert_totals_are_exact(crank.journal)


def test_parked_messages_are_a_problem_and_in_a_table_of_their_own(crank: Crank) -> None:
    crank.put(2)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.park("x", records[:1], "nobody wants it")
    crank.provider.cycle()
    assert (crank.stored(), crank.parked(), names(crank)) == ([2], [1], ["messages-parked"])
    assert crank.provider.stats()["parked"] == 1


def test_parked_messages_count_against_the_journals_bounds_and_none_is_deleted(path: Path) -> None:
    crank = Crank(path, journal_max_messages=10)
    crank.put(10)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.park("x", records, "nobody wants it")
    crank.provider.cycle()
    assert (len(crank.parked()), names(crank)) == (10, ["journal-full", "messages-parked"])
    crank.put(1, "dropped", kind=RouteKey("perf", None, True))
    crank.provider.cycle()
    assert crank.provider.stats()["dropped"] == 1
    assert len(crank.parked()) == 10
    crank.close()


# A full disk.


def test_what_finds_no_room_is_not_accepted_and_tried_later(crank: Crank, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = NoRoom(crank, monkeypatch)
    crank.put(3, "a")
    crank.provider.cycle()
    assert (crank.accepted, crank.take(), crank.stored(), names(crank)) == ([], [], [], ["disk-full"])
    disk.is_full = False
    crank.provider.cycle()
    assert crank.accepted == [], "not before its time"
    crank.monotonic.now_s += 1.0
    crank.provider.cycle()
    assert (crank.accepted, crank.stored(), names(crank)) == (["a"], [1, 2, 3], [])


def test_under_a_full_disk_discards_go_on_and_put_the_next_attempt_off_no_further(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(4)
    crank.provider.cycle()
    crank.take()
    disk = NoRoom(crank, monkeypatch)
    crank.put(1, "late")
    crank.provider.cycle()
    for id in (1, 2, 3):
        crank.monotonic.now_s += 0.3
        crank.provider.discard([id])
        crank.provider.cycle()
    assert crank.stored() == [4]
    disk.is_full = False
    crank.monotonic.now_s += 0.2
    crank.provider.cycle()
    assert (crank.accepted, crank.stored()) == (["late"], [4, 5])


def test_discards_in_one_transaction_with_new_messages_are_done_without_them(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(4)
    crank.provider.cycle()
    crank.take()
    NoRoom(crank, monkeypatch)
    crank.put(1, "late")
    crank.provider.discard([1, 2, 3])
    crank.provider.cycle()
    assert (crank.stored(), crank.accepted) == ([4], [])
    assert crank.provider._pending.seconds_to_work(0.0) is None


def test_what_can_not_be_moved_or_deleted_stays_in_hand_and_is_done_later(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(4)
    crank.provider.cycle()
    records = crank.take()
    disk = NoRoom(crank, monkeypatch)
    disk.refuses_all = True
    crank.provider.hold("x", records[:1])
    crank.provider.park("x", records[1:2], "why")
    crank.provider.discard([3])
    crank.provider.cycle()
    assert crank.stored() == [1, 2, 3, 4]
    disk.is_full = False
    crank.provider.cycle()
    assert (crank.held("x"), crank.parked(), crank.stored()) == ([1], [2], [4])
    assert_totals_are_exact(crank.journal)


def test_what_can_not_be_moved_behind_the_held_ones_takes_its_place_among_them(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(5)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.hold("x", [records[1], records[3]])
    crank.provider.cycle()
    NoRoom(crank, monkeypatch).refuses_all = True
    # The first as if an operator had put it back.
    crank.provider.hold("x", [records[0], records[2], records[4]])
    crank.provider.ask_held("x", 0)
    crank.provider.cycle()
    assert numbers(crank.provider.take_held("x") or []) == [1, 2, 3, 4]
    crank.provider.ask_held("x", 4)
    crank.provider.cycle()
    assert numbers(crank.provider.take_held("x") or []) == [5]


def test_a_part_of_what_has_gathered_finds_room(crank: Crank, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = NoRoom(crank, monkeypatch)
    disk.most_appends = 2
    for name in "abcd":
        crank.put(1, name)
    for _ in range(4):
        crank.provider.cycle()
    assert (crank.accepted, names(crank)) == (["a", "b", "c", "d"], [])


def test_messages_that_meet_a_full_disk_at_the_stop_are_named_in_the_log(
    crank: Crank, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    NoRoom(crank, monkeypatch)
    crank.put(3, "a")
    crank.provider.stop_service()
    crank.provider.run()
    crank.close()
    assert crank.accepted == []
    assert "3 messages that were read could not be accepted before the stop" in caplog.text


# Another program's lock.


def test_a_journal_that_another_program_has_locked_is_busy_and_not_full(crank: Crank) -> None:
    crank.put(4)
    crank.provider.cycle()
    crank.take()
    other = sqlite3.connect(crank.journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    crank.put(2, "a", kind=RouteKey("perf", None, True))
    crank.put(1, "a2", kind=RouteKey("perf", None, True))
    crank.provider.discard([2])
    crank.provider.cycle()
    crank.put(2, "b", kind=RouteKey("perf", None, True))
    assert (names(crank), crank.accepted, crank.stored()) == (["journal-busy"], [], [1, 2, 3, 4])
    assert crank.provider.stats()["dropped"] == 0, "what may be dropped is dropped by a full journal only"
    other.execute("COMMIT")
    crank.monotonic.now_s += 1.0
    crank.provider.cycle()
    assert (names(crank), crank.accepted, crank.stored()) == ([], ["a", "a2", "b"], [1, 3, 4, 5, 6, 7, 8, 9])
    other.close()


def test_pages_are_read_while_another_program_has_the_lock(path: Path) -> None:
    first = Crank(path)
    first.put(3)
    first.provider.cycle()
    first.close()
    second = Crank(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    second.put(1)
    assert numbers(second.take()) == [1, 2, 3]
    other.close()
    second.close()


# Damage.


def test_a_damaged_journal_is_set_aside_and_what_is_in_memory_goes_on(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(2)
    crank.provider.cycle()
    crank.put(1, "meanwhile")
    crank.journal.path.unlink()
    crank.provider.cycle()
    assert (crank.accepted, names(crank)) == ([], ["journal-damaged"])
    crank.provider.cycle()
    assert crank.accepted == ["meanwhile"]
    assert numbers(crank.take()) == [1, 2, 3]
    assert crank.stored() == [3]


# Ends in the middle of a cycle.


@pytest.fixture
def slow(path: Path) -> Iterator[Crank]:
    made = Crank(path, Held())
    yield made
    made.close()


def ended_cycle(crank: Crank, exception: type[BaseException] = gevent.GreenletExit) -> None:
    """Begin a cycle and end its greenlet while it waits for the thread."""
    assert isinstance(crank.pool, Held)
    crank.pool.is_slow = True
    cycle = gevent.spawn(crank.provider.cycle)
    gevent.sleep(0)
    assert not cycle.ready()
    cycle.kill(exception)
    crank.pool.is_slow = False


@pytest.mark.parametrize("exception", [gevent.GreenletExit, RuntimeError])
def test_a_greenlet_that_ends_while_the_thread_commits_loses_nothing_and_repeats_nothing(
    slow: Crank, exception: type[BaseException]
) -> None:
    slow.put(2, "before")
    slow.provider.cycle()
    records = slow.take()
    slow.put(3, "a")
    slow.provider.discard([1])
    slow.provider.hold("x", records[1:])
    ended_cycle(slow, exception)
    slow.put(1, "b")
    slow.pool.finish()  # type: ignore[attr-defined]
    slow.provider.cycle()
    slow.provider.cycle()
    assert slow.accepted == ["before", "a", "b"]
    assert slow.stored() == numbers(slow.take()) == [3, 4, 5, 6]
    assert slow.held("x") == [2]
    assert_totals_are_exact(slow.journal)


def test_a_page_that_was_asked_for_by_a_greenlet_that_ended_is_handed_on_once(path: Path) -> None:
    first = Crank(path)
    first.put(20)
    first.provider.cycle()
    first.close()
    second = Crank(path, Held())
    assert second.provider.take(5) == []
    ended_cycle(second)
    second.pool.finish()  # type: ignore[attr-defined]
    second.provider.cycle()
    assert numbers(second.take()) == list(range(1, 21))
    second.close()


def test_a_stop_in_the_middle_of_a_commit_closes_with_all_of_it_and_nothing_twice(path: Path) -> None:
    crank = Crank(path, Held())
    crank.put(3, "a")
    ended_cycle(crank)
    crank.pool.finish()  # type: ignore[attr-defined]
    crank.close()
    assert crank.accepted == ["a"]
    again = Crank(path)
    assert numbers(again.take()) == [1, 2, 3]
    again.close()


def test_a_commit_that_outlives_the_time_of_the_stop_is_waited_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crank = Crank(path, Held(), is_started=False)
    pool = crank.pool
    assert isinstance(pool, Held)
    supervisor = Supervisor(stop_timeout_s=0.01)
    supervisor.add(crank.provider)
    running = gevent.spawn(supervisor.run)
    gevent.sleep(0)
    pool.is_slow = True
    crank.put(3, "a")
    gevent.sleep(0)
    supervisor.stop()
    wait_until(lambda: gevent.sleep(0) or "did not stop in time" in caplog.text, 10, "the greenlet is ended")
    assert crank.accepted == []
    pool.is_slow = False
    pool.finish()
    assert running.get(timeout=10) == 0
    assert crank.accepted == ["a"]
    again = Crank(path)
    assert again.stored() == [1, 2, 3]
    again.close()


def test_an_error_that_is_no_weather_ends_the_cycle_and_the_next_one_begins_anew(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(2, "a")
    with monkeypatch.context() as patch:
        patch.setattr(crank.journal, "apply", lambda transaction: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            crank.provider.cycle()
    crank.provider.cycle()
    assert (crank.accepted, crank.stored()) == (["a"], [1, 2])


# Durability `overflow`.


@pytest.fixture
def overflow(path: Path) -> Iterator[Crank]:
    made = Crank(path, durability="overflow", max_queue_size=10)
    made.provider.connection_initialized()
    yield made
    made.close()


def test_while_the_bus_keeps_up_messages_go_on_without_a_commit(overflow: Crank) -> None:
    overflow.put(3)
    overflow.provider.cycle()
    records = overflow.take()
    assert (numbers(records), overflow.stored()) == ([1, 2, 3], [])
    overflow.provider.discard([1, 2, 3])
    overflow.provider.cycle()
    assert overflow.stored() == []


def test_what_needs_no_commit_makes_no_trip_to_the_thread_unless_something_else_is_due(
    overflow: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow.provider.cycle()
    trips: list[str] = []
    begin = overflow.provider._thread.begin
    monkeypatch.setattr(overflow.provider._thread, "begin", lambda call, *rest: trips.append("") or begin(call, *rest))
    overflow.put(3)
    overflow.provider.cycle()
    assert numbers(overflow.provider.take(10)) == [1, 2, 3]
    overflow.provider.discard([1, 2, 3])
    assert overflow.provider._seconds_to_work() > 9
    assert not trips
    overflow.monotonic.now_s += 10
    overflow.put(1)
    overflow.provider.cycle()
    assert (numbers(overflow.provider.take(10)), len(trips)) == ([4], 1)


def test_what_is_unfinished_is_committed_in_order_when_the_bus_is_lost(overflow: Crank) -> None:
    overflow.put(4)
    overflow.provider.cycle()
    overflow.take(2)
    overflow.provider.discard([2])
    overflow.provider.connection_lost()
    assert overflow.provider._seconds_to_work() == 0.0
    overflow.put(1)
    overflow.provider.cycle()
    assert overflow.stored() == [1, 3, 4, 5]
    assert numbers(overflow.take()) == [3, 4, 5]


def test_a_request_for_acceptance_commits_what_came_before_it(overflow: Crank) -> None:
    overflow.put(2)
    overflow.provider.cycle()
    overflow.put(1, "sync")
    overflow.provider.cycle()
    assert (overflow.accepted, overflow.stored()) == (["sync"], [1, 2, 3])


def test_what_the_memory_has_no_room_for_is_committed(overflow: Crank) -> None:
    overflow.put(8)
    overflow.provider.cycle()
    assert overflow.stored() == []
    overflow.put(8)
    overflow.provider.cycle()
    assert overflow.stored() == list(range(1, 17))
    assert numbers(overflow.take()) == list(range(1, 17))


def test_the_stop_commits_what_is_not_confirmed(path: Path) -> None:
    crank = Crank(path, durability="overflow")
    crank.provider.connection_initialized()
    crank.put(2)
    crank.provider.cycle()
    crank.take()
    crank.provider.discard([1])
    crank.provider.stop_service()
    crank.provider.run()
    crank.close()
    again = Crank(path)
    assert again.stored() == [2]
    again.close()


# What a stop still waits for.


def test_fresh_is_what_is_on_its_way_through_memory_and_no_backlog(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = crank.provider.has_fresh
    assert not fresh()
    crank.put(2)
    assert fresh()
    crank.provider.cycle()
    assert fresh()
    crank.provider.take(2)
    assert not fresh()
    crank.put(4001)
    crank.provider.cycle()
    assert not fresh()
    crank.take()
    NoRoom(crank, monkeypatch)
    crank.put(1)
    crank.provider.cycle()
    assert not fresh()


# When a cycle is due.


def test_finished_messages_do_not_wake_a_journal_that_looks_before_they_are_due(crank: Crank) -> None:
    crank.put(2)
    crank.provider.cycle()
    first, second = numbers(crank.take())
    woken = crank.provider._wake
    crank.provider._awake_at_s = crank.monotonic() + 0.05
    woken.clear()
    crank.provider.discard([first])
    assert not woken.is_set()
    crank.provider._awake_at_s = crank.monotonic() + 10.0
    crank.provider.discard([second])
    assert woken.is_set()


def test_an_idle_journal_looks_now_and_then_and_a_finished_message_waits_a_moment(crank: Crank) -> None:
    due = crank.provider._seconds_to_work
    crank.provider.cycle()
    assert due() == pytest.approx(10.0)
    crank.put(1)
    assert due() == 0.0
    crank.provider.cycle()
    assert due() == pytest.approx(10.0)
    crank.take()
    crank.provider.discard([1])
    wait_s = due()
    assert 0 < wait_s < 1
    crank.monotonic.now_s += wait_s
    assert due() == 0.0


def test_a_full_disk_is_left_alone_for_a_while_but_pages_are_read_at_once(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoRoom(crank, monkeypatch)
    crank.put(1)
    crank.provider.cycle()
    assert crank.provider._seconds_to_work() == pytest.approx(1.0)
    crank.provider.ask_held("x", 0)
    assert crank.provider._seconds_to_work() == 0.0


def test_damage_that_a_page_finds_is_damage_too(crank: Crank, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: object) -> None:
        raise JournalDamaged("can't be read any more")

    crank.provider._ahead.last_id = 5
    crank.provider.take(1)
    with monkeypatch.context() as patch:
        patch.setattr(crank.journal, "peek", damaged)
        crank.provider.cycle()
    assert names(crank) == ["journal-damaged"]
