"""What was read ahead, alone: each message is handed on once and in order, from memory or from pages."""

from __future__ import annotations

import pytest

from vigiloconn.accepting import readahead as module
from vigiloconn.accepting.readahead import ReadAhead
from vigiloconn.interfaces import Record, RouteKey


def records(first: int, last: int, size: int = 2) -> list[Record]:
    return [Record(id, RouteKey("event", None, True), b"x" * size, 1.0) for id in range(first, last + 1)]


def taken(ahead: ReadAhead, limit: int = 100) -> list[int]:
    return [record.id for record in ahead.take(limit)]


@pytest.fixture
def ahead() -> ReadAhead:
    """One that keeps ten messages."""
    return ReadAhead(10)


def test_new_messages_go_on_from_memory_in_order(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 4), must_keep=False)
    ahead.add_new(records(5, 10), must_keep=False)
    assert (len(ahead), taken(ahead, 3), taken(ahead)) == (10, [1, 2, 3], [4, 5, 6, 7, 8, 9, 10])
    assert (len(ahead), ahead.is_at_end, ahead.wants_any()) == (0, True, False)


def test_what_does_not_fit_is_read_back_once_little_is_left_and_newer_ones_do_not_overtake_it(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 8), must_keep=False)
    ahead.add_new(records(9, 13), must_keep=False)
    ahead.add_new(records(14, 14), must_keep=False)
    assert (len(ahead), ahead.last_id, ahead.read_upto) == (10, 14, 10)
    assert taken(ahead, 5) == [1, 2, 3, 4, 5]
    assert (ahead.wants_any(), ahead.wanted().after_id) == (False, None)
    assert taken(ahead, 1) == [6]
    assert (ahead.wants_any(), ahead.wanted().after_id) == (True, 10)
    ahead.add_page(records(11, 13), 14)
    assert (ahead.wants_any(), ahead.read_upto) == (False, 13)
    ahead.add_new(records(15, 15), must_keep=False)
    assert taken(ahead) == [7, 8, 9, 10, 11, 12, 13]
    ahead.add_page(records(14, 15), 15)
    ahead.add_new(records(16, 16), must_keep=False)
    assert taken(ahead) == [14, 15, 16]


def test_as_much_of_a_group_as_there_is_room_for_goes_on_from_memory(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 25), must_keep=False)
    assert (taken(ahead), ahead.wanted().after_id) == (list(range(1, 11)), 10)


def test_a_waiting_backlog_is_read_at_the_first_taking(ahead: ReadAhead) -> None:
    ahead.last_id = 5
    assert taken(ahead) == []
    assert ahead.wanted().after_id == 0


def test_with_room_for_one_message_a_page_is_still_wanted() -> None:
    ahead = ReadAhead(1)
    ahead.add_new(records(1, 1), must_keep=False)
    ahead.add_new(records(2, 2), must_keep=False)
    assert taken(ahead) == [1]
    assert ahead.wanted().after_id == 1


def test_an_empty_page_ends_the_reading_of_what_is_gone(ahead: ReadAhead) -> None:
    ahead.last_id = 5
    ahead.take(1)
    ahead.add_page([], 5)
    assert (ahead.is_at_end, ahead.wants_any()) == (True, False)
    ahead.add_new(records(6, 6), must_keep=False)
    assert taken(ahead) == [6]


def test_after_damage_what_is_in_the_table_only_is_passed_over_and_memory_goes_on(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 3), must_keep=False)
    ahead.add_new(records(4, 20), must_keep=False)
    ahead.take(2)
    ahead.skip_to_end()
    ahead.add_new(records(21, 21), must_keep=False)
    assert (taken(ahead), ahead.wants_any()) == ([*range(3, 11), 21], False)


def test_what_is_in_memory_only_is_kept_beyond_the_room(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 20), must_keep=True)
    assert taken(ahead) == list(range(1, 21))


def test_large_messages_fill_the_memory_sooner(ahead: ReadAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY_BYTES", 100)
    ahead.add_new(records(1, 1, size=100), must_keep=False)
    assert ahead.has_room(1)
    ahead.add_new(records(2, 2, size=100), must_keep=False)
    assert not ahead.has_room(1)
    assert taken(ahead) == [1, 2]
    assert ahead.has_room(1)


def test_has_room_counts_what_is_there_and_what_comes(ahead: ReadAhead) -> None:
    ahead.add_new(records(1, 4), must_keep=False)
    assert (ahead.has_room(6), ahead.has_room(7)) == (True, False)
    ahead.last_id = 9
    assert not ahead.has_room(1)


def test_a_held_page_is_taken_once(ahead: ReadAhead) -> None:
    ahead.ask_held("x", 7)
    asked = ahead.wanted().held["x"]
    assert (asked.after_id, ahead.take_held("x"), ahead.wants_any()) == (7, None, True)
    page = records(8, 9)
    ahead.add_held_page("x", asked, page)
    assert (ahead.wants_any(), ahead.take_held("x"), ahead.take_held("x")) == (False, page, None)


def test_the_answer_to_an_earlier_request_is_not_taken_for_that_to_a_later_one(ahead: ReadAhead) -> None:
    ahead.ask_held("x", 7)
    early = ahead.wanted().held["x"]
    ahead.ask_held("x", 7)
    ahead.add_held_page("x", early, records(8, 8))
    assert (ahead.take_held("x"), ahead.wants_any()) == (None, True)
    late = ahead.wanted().held["x"]
    ahead.add_held_page("x", late, [])
    ahead.ask_held("x", 9)
    # What was not fetched before it was asked for again is out of date.
    assert ahead.take_held("x") is None


def test_requests_of_exchanges_do_not_mix(ahead: ReadAhead) -> None:
    ahead.ask_held("x", 1)
    ahead.ask_held("y", 2)
    wanted = ahead.wanted().held
    ahead.add_held_page("x", wanted["x"], records(2, 2))
    assert (ahead.take_held("y"), sorted(ahead.wanted().held)) == (None, ["y"])


def test_what_stands_behind_our_newest_message_is_not_taken_from_a_page(ahead: ReadAhead) -> None:
    ahead.last_id = 3
    ahead.take(1)
    ahead.add_page(records(1, 5), 3)
    assert (taken(ahead), ahead.read_upto) == ([1, 2, 3], 3)
