"""The reader of held messages: pages in order, their end, and rows that come in below what was read."""

from __future__ import annotations

from tests.support.publishing import HELD_PAGE, Clock, MemoryJournal
from vigiloconn.interfaces import Record
from vigiloconn.publishing.held import HeldReader


def reader(count: int, pages_wait: bool = False) -> tuple[HeldReader, MemoryJournal]:
    """Return a reader with messages 101, 102, ... held."""
    journal = MemoryJournal(Clock())
    journal.last_id = 100
    journal.accept(count)
    made = HeldReader("x", journal)
    made.hold(list(journal.main.values()))
    journal.pages_wait = pages_wait
    return made, journal


def numbers(records: list[Record]) -> list[int]:
    return [record.id for record in records]


def put_back(made: HeldReader, journal: MemoryJournal, id: int) -> None:
    """Hold a message of a number that was used before, as an operator may bring it back."""
    last_id, journal.last_id = journal.last_id, id - 1
    journal.accept(1)
    journal.last_id = last_id
    made.hold([journal.main[id]])


def read_all(made: HeldReader, journal: MemoryJournal) -> list[int]:
    """Read to the end, finishing nothing; return what came."""
    found: list[int] = []
    while not made.is_at_end():
        found += numbers(made.read())
        journal.read_pages()
    return found


def test_pages_come_in_order_and_the_end_is_known() -> None:
    made, journal = reader(2 * HELD_PAGE + 3)
    found = read_all(made, journal)
    assert found == list(range(101, 101 + 2 * HELD_PAGE + 3))
    assert not made.is_done()
    made.finish(made.ledger.unfinished())
    assert made.is_done()
    assert (made.count, journal.held) == (0, {})


def test_what_is_held_after_the_end_was_read_is_read_too() -> None:
    made, journal = reader(2)
    assert read_all(made, journal) == [101, 102]
    journal.accept(1)
    made.hold([journal.main[103]])
    assert not made.is_at_end()
    assert read_all(made, journal) == [103]


def test_end_is_not_taken_for_the_end_when_something_was_held_since_it_was_asked_for() -> None:
    made, journal = reader(1, pages_wait=True)
    made.read()
    journal.read_pages()
    assert numbers(made.read()) == [101]
    journal.read_pages()
    journal.accept(1)
    made.hold([journal.main[102]])
    assert made.read() == []
    assert not made.is_at_end()
    assert read_all(made, journal) == [102]


def test_row_below_what_was_read_is_read_and_no_other_twice() -> None:
    made, journal = reader(2 * HELD_PAGE)
    found = read_all(made, journal)
    made.finish(made.ledger.unfinished()[:5])
    put_back(made, journal, 50)
    assert read_all(made, journal) == [50]
    assert len(found) == 2 * HELD_PAGE


def test_row_below_what_was_read_is_read_though_a_page_behind_it_was_asked_for() -> None:
    made, journal = reader(2 * HELD_PAGE, pages_wait=True)
    made.read()
    journal.read_pages()
    first = numbers(made.read())
    put_back(made, journal, 50)
    assert first + read_all(made, journal) == [*range(101, 101 + HELD_PAGE), 50, *range(111, 111 + HELD_PAGE)]


def test_row_below_a_page_on_its_way_comes_before_it() -> None:
    made, journal = reader(3, pages_wait=True)
    made.read()
    journal.read_pages()
    put_back(made, journal, 50)
    assert read_all(made, journal) == [50, 101, 102, 103]


def test_row_that_is_finished_while_its_page_is_read_again_is_not_read_again() -> None:
    made, journal = reader(3, pages_wait=True)
    while len(made.ledger) < 3:
        made.read()
        journal.read_pages()
    put_back(made, journal, 50)
    made.read()
    journal.read_pages()
    made.finish(made.ledger.unfinished()[:1])
    assert read_all(made, journal) == [50]
    # Once all is read again, nothing is remembered: a number may be used again by an operator.
    put_back(made, journal, 101)
    assert read_all(made, journal) == [101]


def test_what_was_read_and_is_not_finished_comes_first_when_reading_begins_again() -> None:
    made, journal = reader(HELD_PAGE + 2)
    while not made.ledger:
        made.read()
    made.finish(made.ledger.unfinished()[:3])
    again = numbers(made.begin())
    assert again == list(range(104, 101 + HELD_PAGE))
    assert read_all(made, journal) == [101 + HELD_PAGE, 102 + HELD_PAGE]
