"""Other programs that write to the journal's file: their rows are taken in, and the totals are right."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cycle import Crank, numbers
from tests.support.journals import assert_totals_are_exact
from vigiloconn.errors import JournalFull
from vigiloconn.journal.transaction import Transaction

BODY = '{"type":"event","n":"outside"}'

#: Rows under the ids of one that is held, one that is parked, and two that no journal of ours has.
IN_THE_WAY = f"INSERT INTO tobus VALUES (1, '{BODY}'), (2, '{BODY}'), (-3, '{BODY}'), ({2**63 - 1}, '{BODY}')"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


@pytest.fixture
def crank(path: Path) -> Iterator[Crank]:
    made = Crank(path)
    yield made
    made.close()


def outside(path: Path, *statements: str) -> None:
    """Do what an operator does with `sqlite3`."""
    with sqlite3.connect(path) as other:
        for statement in statements:
            other.execute(statement)
    other.close()


def bodies(crank: Crank) -> list[str]:
    return [record.body.decode() for record in crank.take()]


@pytest.mark.parametrize("id", ["NULL", "1", "3", "4", "0", "-5", str(2**63 - 1)])
def test_a_row_that_is_inserted_while_the_connector_runs_goes_to_the_bus_once_and_nothing_is_lost(
    crank: Crank, id: str
) -> None:
    crank.put(3, "a")
    crank.provider.cycle()
    first = crank.take()
    crank.provider.discard([1, 3])
    crank.provider.cycle()
    outside(crank.journal.path, f"INSERT INTO tobus VALUES ({id}, '{BODY}')")
    crank.put(2, "b")
    crank.provider.cycle()
    assert crank.accepted == ["a", "b"]
    rest = crank.take()
    assert [record.body.decode() for record in rest].count(BODY) == 1
    assert len({record.id for record in (*first, *rest)}) == 6
    assert crank.stored() == [2, *numbers(rest)]
    assert_totals_are_exact(crank.journal)
    crank.provider.discard([2, *numbers(rest)])
    crank.provider.cycle()
    assert (crank.journal.rows, crank.journal.size_bytes) == (0, 0)


def test_a_change_that_leaves_the_table_empty_does_not_let_numbers_come_again(crank: Crank) -> None:
    crank.put(3)
    crank.provider.cycle()
    used = numbers(crank.take())
    crank.provider.discard(used)
    crank.provider.cycle()
    for _ in range(2):
        outside(crank.journal.path, "DELETE FROM tobus")
        crank.provider.cycle()
        assert crank.take() == []
        outside(crank.journal.path, *[f"INSERT INTO tobus VALUES (NULL, '{BODY}')"] * 4)
        crank.provider.cycle()
        new = numbers(crank.take())
        assert len(new) == 4
        assert not set(used) & set(new)
        used += new


def test_a_change_is_taken_in_once(crank: Crank) -> None:
    outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.cycle()
    assert crank.stored() == [2]
    for _ in range(2):
        crank.put()
        crank.provider.cycle()
        crank.journal.look()
    assert crank.stored() == [2, 3, 4]


def test_an_idle_connector_finds_them_too(crank: Crank) -> None:
    told: list[bool] = []
    crank.provider.on_available = lambda: told.append(True)
    outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.cycle()
    assert told
    assert bodies(crank) == [BODY]
    assert bodies(crank) == []


def test_what_can_not_be_taken_in_for_another_programs_lock_is_tried_again_later(crank: Crank) -> None:
    crank.put(3000)
    crank.provider.cycle()
    crank.provider.take(1)
    outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    other = sqlite3.connect(crank.journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    crank.provider.cycle()
    assert [problem.name for problem in crank.provider.problems()] == ["journal-busy"]
    assert crank.provider._seconds_to_work() == pytest.approx(1.0)
    other.close()
    crank.monotonic.now_s += 1.0
    assert BODY in bodies(crank)
    assert crank.provider.problems() == []


def test_nothing_of_another_program_is_read_before_it_is_taken_in(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:

        def no_room(transaction: Transaction) -> None:
            raise JournalFull("no room")

        crank.provider.ask_held("x", 0)
        full.setattr(crank.journal, "apply", no_room)
        full.setattr(crank.journal, "take_in", lambda read_upto, known: no_room(Transaction()))
        crank.provider._ahead.last_id = 9
        crank.provider.take(1)
        crank.put()
        outside(crank.journal.path, *[f"INSERT INTO tobus VALUES (NULL, '{BODY}')"] * 2)
        crank.provider.cycle()
        assert crank.provider.take(9) == []
    crank.monotonic.now_s += 1.0
    crank.provider.cycle()
    records = crank.take()
    crank.provider.hold("x", records)
    crank.provider.cycle()
    assert (len(crank.held("x")), crank.stored()) == (3, [])


def test_a_change_right_behind_a_commit_does_not_undo_what_is_known_of_it(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = crank.journal.apply

    def apply_and_change(transaction: Transaction) -> None:
        apply(transaction)
        outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")

    crank.provider.ask_held("x", 0)
    crank.put(1, "a")
    with monkeypatch.context() as patch:
        patch.setattr(crank.journal, "apply", apply_and_change)
        crank.provider.cycle()
    assert crank.accepted == ["a"]
    assert len(crank.stored()) == len(bodies(crank)) == 2


def test_what_is_on_its_way_is_not_taken_for_another_programs(crank: Crank) -> None:
    crank.put(6)
    crank.provider.cycle()
    records = crank.take(4)
    crank.provider.hold("x", records[:1])
    crank.provider.park("x", records[1:2], "why")
    crank.provider.discard([3])
    outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.cycle()
    assert crank.stored() == [4, 5, 6, 8]
    assert numbers(crank.take()) == [5, 6, 8]
    assert (crank.held("x"), crank.parked()) == ([1], [2])


def test_what_waits_for_a_full_disk_to_be_deleted_is_not_taken_for_another_programs(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank.put(3)
    crank.provider.cycle()
    records = crank.take()

    def full(transaction: Transaction) -> None:
        crank.journal.look()
        raise JournalFull("no room")

    monkeypatch.setattr(crank.journal, "apply", full)
    outside(crank.journal.path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.discard([1])
    crank.provider.park("x", records[1:2], "why")
    crank.provider.cycle()
    assert crank.stored() == [1, 2, 3, 5]
    assert bodies(crank) == [BODY]


@pytest.mark.parametrize("ids", ["(4), (9)", "(-5), (4)", "(-5), (-4), (4), (5), (9223372036854775807)"])
def test_outside_rows_do_not_get_into_each_others_way(crank: Crank, ids: str) -> None:
    crank.put(3)
    crank.provider.cycle()
    outside(crank.journal.path, f"INSERT INTO tobus (id) VALUES {ids}",
            f"UPDATE tobus SET msg = '{BODY}' WHERE msg IS NULL")
    crank.put(1)
    crank.provider.cycle()
    assert bodies(crank).count(BODY) == ids.count("(")
    assert_totals_are_exact(crank.journal)


def test_what_leaves_by_its_id_is_ours_also_when_another_message_has_the_same(crank: Crank) -> None:
    crank.put(2)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.hold("x", records)
    crank.provider.cycle()
    # The main table is empty: SQLite begins at 1 again.
    outside(crank.journal.path, *[f"INSERT INTO tobus VALUES (NULL, '{BODY}')"] * 2)
    crank.provider.park("x", records[:1], "nobody wants it")
    crank.provider.discard_held([2])
    crank.provider.cycle()
    assert (bodies(crank), crank.parked(), crank.held("x")) == ([BODY, BODY], [1], [])
    assert_totals_are_exact(crank.journal)


def test_rows_that_are_deleted_while_the_connector_runs_are_off_the_totals(crank: Crank) -> None:
    crank.put(5)
    crank.provider.cycle()
    records = crank.take(2)
    crank.provider.hold("x", records[:1])
    crank.provider.park("x", records[1:], "why")
    crank.provider.cycle()
    outside(crank.journal.path, "DELETE FROM tobus WHERE id > 3", "DELETE FROM vigiloconn_held",
            "DELETE FROM vigiloconn_parked")
    crank.put(1)
    crank.provider.cycle()
    assert (crank.journal.rows, crank.journal.all_rows, crank.journal.held_exchanges()) == (2, 2, {})
    assert_totals_are_exact(crank.journal)
    crank.provider.discard([3, 4, 5, 6])
    crank.provider.cycle()
    assert (crank.journal.rows, crank.journal.size_bytes) == (0, 0)


def test_parked_messages_that_are_put_back_while_the_connector_runs_are_sent_again(crank: Crank) -> None:
    crank.put(2)
    crank.provider.cycle()
    records = crank.take()
    crank.provider.park("x", records, "nobody wants it")
    crank.provider.cycle()
    outside(crank.journal.path, "INSERT INTO tobus SELECT id, msg FROM vigiloconn_parked",
            "DELETE FROM vigiloconn_parked")
    crank.provider.cycle()
    again = crank.take()
    assert [record.body for record in again] == [record.body for record in records]
    assert_totals_are_exact(crank.journal)


def test_new_messages_keep_their_own_time_beside_those_of_another_program(path: Path) -> None:
    crank = Crank(path)
    crank.put()
    crank.provider.cycle()
    crank.boot.now_s += 100.0
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.put()
    crank.provider.cycle()
    boot = crank.boot.now_s
    crank.close()
    again = Crank(path)
    again.boot.now_s = boot
    assert [round(again.provider.age_s(record)) for record in again.take()] == [100, 0, 0]
    again.close()


def test_with_overflow_an_outside_row_does_not_take_the_place_of_what_is_not_written_yet(path: Path) -> None:
    crank = Crank(path, durability="overflow")
    crank.provider.connection_initialized()
    crank.put(2)
    crank.provider.cycle()
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.put(1, "sync")
    crank.provider.cycle()
    assert crank.accepted == ["sync"]
    assert len(crank.stored()) == 4
    assert [record.id for record in crank.take()][:3] == [1, 2, 3]
    crank.close()


@pytest.mark.parametrize("committed", [0, 5])
def test_with_overflow_an_outside_row_that_an_idle_look_finds_does_not_either(path: Path, committed: int) -> None:
    crank = Crank(path, durability="overflow")
    crank.put(committed, "first")
    crank.provider.cycle()
    crank.provider.connection_initialized()
    crank.put(2)
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.cycle()
    crank.provider.cycle()
    crank.put(1, "sync")
    crank.provider.cycle()
    assert crank.accepted == ["first", "sync"]
    records = crank.take()
    assert len(crank.stored()) == len({record.id for record in records}) == committed + 4
    assert sum(record.body.decode() == BODY for record in records) == 1
    crank.close()


def changed(path: Path, *statements: str) -> Crank:
    """Open a journal of five messages, one held and one parked, that was changed while it was closed."""
    crank = Crank(path)
    crank.put(5)
    crank.provider.cycle()
    records = crank.take(2)
    crank.provider.hold("x", records[:1])
    crank.provider.park("x", records[1:], "why")
    crank.provider.cycle()
    crank.close()
    outside(path, *statements)
    return Crank(path)


@pytest.mark.parametrize(("statements", "rows"), [
    ((), 4),
    (("DELETE FROM tobus WHERE id = 4",), 3),
    (("DELETE FROM tobus",), 1),
    (("DELETE FROM vigiloconn_held", "DELETE FROM vigiloconn_parked"), 3),
    (("UPDATE tobus SET msg = '{}' WHERE id = 4",), 4),
    ((IN_THE_WAY,), 8),
])  # fmt: skip
def test_the_totals_are_right_after_every_start(path: Path, statements: tuple[str, ...], rows: int) -> None:
    crank = changed(path, *statements)
    assert crank.journal.rows == rows
    assert_totals_are_exact(crank.journal)
    crank.close()


def test_at_a_start_rows_of_another_program_in_the_way_of_ours_get_new_ids_and_none_is_lost(path: Path) -> None:
    crank = changed(path, IN_THE_WAY)
    records = crank.take()
    assert numbers(records) == [3, 4, 5, 6, 7, 8, 9]
    assert [record.body.decode() for record in records[3:]] == [BODY] * 4
    crank.provider.hold("x", records[3:])
    crank.put(1)
    crank.provider.cycle()
    assert crank.held("x") == [1, 6, 7, 8, 9]
    assert numbers(crank.take()) == [10]
    crank.close()


def test_after_a_start_a_row_of_another_program_gets_no_id_that_was_used_before(path: Path) -> None:
    first = Crank(path)
    first.put(3)
    first.provider.cycle()
    first.provider.discard(numbers(first.take()))
    first.close()
    second = Crank(path)
    name = second.journal.uuid
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    second.provider.cycle()
    [record] = second.take()
    assert (record.body.decode(), record.id > 3, second.journal.uuid) == (BODY, True, name)
    second.close()


def test_at_a_start_messages_that_another_program_has_added_get_new_ids_and_ours_keep_their_times(path: Path) -> None:
    first = Crank(path)
    first.put(2)
    first.provider.cycle()
    name = first.journal.uuid
    first.close()
    outside(path, *[f"INSERT INTO tobus VALUES (NULL, '{BODY}')"] * 2)
    second = Crank(path)
    second.boot.now_s += 30.0
    records = second.take()
    assert [round(second.provider.age_s(record)) for record in records] == [30, 30, 30, 30]
    assert (second.journal.uuid, numbers(records)) == (name, [1, 2, 5, 6])
    second.put()
    second.provider.cycle()
    assert numbers(second.take()) == [7]
    second.close()


def test_parked_messages_that_are_put_back_before_a_start_keep_their_place_before_held_ones(path: Path) -> None:
    first = Crank(path)
    first.put(4)
    first.provider.cycle()
    records = first.take()
    first.provider.park("x", records[:2], "why")
    first.provider.hold("x", records[2:])
    first.provider.cycle()
    first.close()
    outside(path, "INSERT INTO tobus SELECT id, msg FROM vigiloconn_parked", "DELETE FROM vigiloconn_parked")
    second = Crank(path)
    second.provider.hold("x", second.take())
    second.provider.cycle()
    assert second.held("x") == [1, 2, 3, 4]
    second.close()


def test_what_was_not_changed_keeps_its_name_and_what_was_gets_another(path: Path) -> None:
    crank = changed(path)
    name = crank.journal.uuid
    crank.close()
    for statement, is_same in (
        ("DELETE FROM vigiloconn_parked", True), ("DELETE FROM tobus WHERE id = 4", False),
    ):  # fmt: skip
        outside(path, statement)
        crank = Crank(path)
        assert (crank.journal.uuid == name) is is_same
        crank.close()




def test_ids_that_were_used_before_the_start_are_not_used_again_by_another_programs_rows(path: Path) -> None:
    first = Crank(path)
    first.put(5)
    first.provider.cycle()
    first.provider.discard([record.id for record in first.take()][2:])
    first.close()
    crank = Crank(path)
    # Found behind the backlog, in the page that is read of it, and it is not ours.
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    taken = crank.take()
    assert [record.id for record in taken] == [1, 2, 6]
    assert taken[2].body.decode() == BODY
    assert_totals_are_exact(crank.journal)
    crank.close()


def test_what_went_on_from_memory_into_a_new_file_is_not_taken_for_another_programs(path: Path) -> None:
    crank = Crank(path, durability="overflow")
    crank.provider.connection_initialized()
    crank.put(3)
    crank.provider.cycle()
    ours = numbers(crank.take())
    path.unlink()
    crank.provider.connection_lost()
    crank.provider.cycle()
    crank.provider.cycle()
    assert crank.stored() == ours
    outside(path, f"INSERT INTO tobus VALUES (NULL, '{BODY}')")
    crank.provider.cycle()
    assert (crank.stored()[:3], len(crank.stored())) == (ours, 4)
    crank.close()
