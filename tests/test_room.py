"""What a transaction takes of the disk and what it must leave: pure figures, and the same on real files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.journals import KEY, reopened
from vigiloconn.interfaces import Record
from vigiloconn.journal import room
from vigiloconn.journal.room import Disk, fits, floor_bytes, need_of
from vigiloconn.journal.transaction import Transaction

MIB = 1 << 20


def records(count: int, size: int) -> list[Record]:
    return [Record(id, KEY, b"x" * size, 1.0) for id in range(1, count + 1)]


NEW = Transaction(appends=records(100, 300))
MOVE = Transaction(holds=[("gone", r) for r in records(100, 300)])
DELETION = Transaction(discards=[(1, 60)], held_discards=[(61, 100)])


def least(transaction: Transaction, *, unfolded: int = 0, emptied: int = 0, floor: int = 0) -> int:
    """Return how much must be free for a transaction, by trying."""
    need = need_of(transaction)
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high) // 2
        if fits(transaction, need, Disk(middle, unfolded, emptied), floor):
            high = middle
        else:
            low = middle + 1
    return low


def test_the_floor_is_what_the_settings_say_but_no_more_than_an_eighth_of_the_disk() -> None:
    assert floor_bytes(8 * MIB, 1000 * MIB) == 8 * MIB
    assert floor_bytes(8 * MIB, 40 * MIB) == 5 * MIB


def test_new_messages_leave_the_floor_moves_half_of_it_and_deletions_nothing() -> None:
    assert least(NEW, floor=8 * MIB) - least(NEW) == 8 * MIB
    assert least(MOVE, floor=8 * MIB) - least(MOVE) == 4 * MIB
    assert least(DELETION, floor=8 * MIB) == least(DELETION)


@pytest.mark.parametrize("transaction", [NEW, MOVE, DELETION])
def test_whatever_is_written_leaves_the_room_to_fold_the_log(transaction: Transaction) -> None:
    assert least(transaction, unfolded=MIB) - least(transaction) == MIB


def test_what_fits_into_emptied_pages_need_not_wait_for_the_whole_floor() -> None:
    growth = need_of(NEW).growth_bytes
    assert growth > 0
    assert least(NEW, floor=8 * MIB) - least(NEW, emptied=growth, floor=8 * MIB) == 6 * MIB + growth
    assert least(NEW, emptied=growth - 1, floor=8 * MIB) > 8 * MIB


def test_deletions_never_make_the_file_grow() -> None:
    assert need_of(DELETION).growth_bytes == 0
    assert need_of(DELETION).log_bytes >= 100 * 4096


def test_a_message_that_moves_leaves_one_table_and_one_that_is_parked_perhaps_two() -> None:
    def leaving(few: Transaction, more: Transaction) -> int:
        """Return what one row more takes of the log beside what it makes the file grow by."""
        one, two = need_of(few), need_of(more)
        return (two.log_bytes - two.growth_bytes) - (one.log_bytes - one.growth_bytes)

    a_row = leaving(Transaction(discards=[(1, 1)]), Transaction(discards=[(1, 2)]))
    assert a_row == leaving(Transaction(held_discards=[(1, 1)]), Transaction(held_discards=[(1, 2)])) > 0
    moves = [("gone", record) for record in records(2, 300)]
    assert leaving(Transaction(holds=moves[:1]), Transaction(holds=moves)) == a_row
    parks = [(exchange, record, "why") for exchange, record in moves]
    assert leaving(Transaction(parks=parks[:1]), Transaction(parks=parks)) == 2 * a_row


@pytest.mark.parametrize("size", [20, 200, 500, 900, 1020, 2030, 2050, 3000, 4070, 4100, 8200, 60_000, 1_000_000])
def test_the_need_is_never_less_than_what_a_transaction_takes(tmp_path: Path, size: int) -> None:
    journal = reopened(tmp_path / "backup.sqlite", reserve_bytes=0)
    count = max(10, 400_000 // size)
    new = [Record(id, KEY, b'"' + b"x" * (size - 2) + b'"', 1.0) for id in range(1, count + 1)]
    log = Path(f"{journal.path}-wal")

    def taken(transaction: Transaction) -> tuple[int, int]:
        before = journal.path.stat().st_size
        journal.apply(transaction)
        logged = log.stat().st_size
        journal._space.checkpoint()
        return logged, journal.path.stat().st_size - before

    journal._space.checkpoint()
    half = len(new) // 2
    for transaction in (
        Transaction(appends=new),
        Transaction(holds=[("gone", r) for r in new[::2]]),
        Transaction(parks=[("gone", r, "nobody wants it") for r in new[:half]]),
        Transaction(discards=[(half + 1, count)], held_discards=[(half + 1, count)]),
    ):
        need = need_of(transaction)
        logged, growth = taken(transaction)
        assert logged <= need.log_bytes
        assert growth <= need.growth_bytes + 8 * 4096
    journal.close()


def test_what_is_in_the_log_only_fits_into_the_reserve_however_much_room_there_is_now(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "backup.sqlite", reserve_bytes=MIB)
    new = records(2000, 700)
    for at in range(0, 2000, 100):
        journal.apply(Transaction(appends=new[at : at + 100]))
        assert journal._space.growth_bytes() <= MIB // 2
    journal.close()


def test_the_log_may_grow_beyond_its_size_in_fair_weather_before_a_reader_stops_acceptance() -> None:
    assert room.LOG_MAX_BYTES >= 4 * room.LOG_BYTES


def test_what_is_reckoned_of_log_and_file_is_never_less_than_what_a_look_finds(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "backup.sqlite")
    chance = random.Random(7)
    looks = 0
    for _ in range(200):
        count, size = chance.randint(1, 5), chance.choice((50, 500, 5000, 50_000))
        first_id = journal.next_id
        new = [Record(first_id + at, KEY, b"x" * size, 1.0) for at in range(count)]
        old = [(first_id - count, first_id - 1)] if chance.random() < 0.5 else []
        journal.apply(Transaction(appends=new, discards=old))
        if (reckoned := journal._space.reckoning) is not None:
            looks += 1
            assert reckoned.unfolded_bytes >= journal._space.growth_bytes()
            assert reckoned.log_bytes >= journal._space.log_bytes()
    assert looks > 100
    journal.close()
