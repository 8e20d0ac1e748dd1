"""How many messages are asked for, from the sizes that have come."""

from __future__ import annotations

import pytest

from vigiloconn.consuming.prefetch import Prefetch


def noted(prefetch: Prefetch, *sizes: int) -> Prefetch:
    for size in sizes:
        prefetch.note(size)
    return prefetch


def test_it_begins_as_it_is_set() -> None:
    assert Prefetch(500, 1).messages == 500


@pytest.mark.parametrize(("sizes", "messages"), [
    ([10, 300, 20], 3), ([1000], 1), ([5000], 1), ([2], 499), ([0], 499), ([], 499), ([500], 2), ([501], 1),
])
def test_after_an_overrun_as_many_are_allowed_as_fit_at_the_largest_size(sizes: list[int], messages: int) -> None:
    prefetch = noted(Prefetch(500, 1000), *sizes)
    prefetch.shrink()
    assert prefetch.messages == messages


def test_each_overrun_allows_fewer_and_never_less_than_one() -> None:
    prefetch = Prefetch(3, 1000)
    counts = []
    for _ in range(4):
        noted(prefetch, 300).shrink()
        counts.append(prefetch.messages)
    assert counts == [2, 1, 1, 1]


def test_it_grows_only_after_as_many_messages_as_might_be_allowed() -> None:
    prefetch = noted(Prefetch(10, 1000), 500)
    prefetch.shrink()
    assert not noted(prefetch, *[1] * 9).grow()
    assert noted(prefetch, 1).grow()
    assert prefetch.messages == 10


def test_one_large_message_among_the_small_ones_is_enough_to_stay() -> None:
    prefetch = noted(Prefetch(10, 1000), 500)
    prefetch.shrink()
    assert not noted(prefetch, *[1] * 9, 500).grow()
    assert prefetch.messages == 2
    assert noted(prefetch, *[1] * 10).grow(), "it is forgotten with its ten"


def test_it_grows_to_half_of_what_fits_and_not_for_a_little_more() -> None:
    prefetch = noted(Prefetch(100, 1000), 100)
    prefetch.shrink()
    assert prefetch.messages == 10
    assert not noted(prefetch, *[26] * 100).grow()
    assert noted(prefetch, *[25] * 100).grow()
    assert prefetch.messages == 20
    assert noted(prefetch, *[1] * 100).grow()
    assert prefetch.messages == 100


def test_the_last_step_may_be_a_small_one() -> None:
    prefetch = noted(Prefetch(10, 1000), 120)
    prefetch.shrink()
    assert prefetch.messages == 8
    assert noted(prefetch, *[50] * 10).grow()
    assert prefetch.messages == 10


def test_what_is_at_its_most_is_not_asked_for_again() -> None:
    assert not noted(Prefetch(10, 1000), *[1] * 10).grow()


def test_what_is_at_its_most_does_not_grow_and_forgets_old_sizes() -> None:
    prefetch = noted(Prefetch(10, 1000), 900, *[1] * 9)
    assert not prefetch.grow()
    noted(prefetch, 100).shrink()
    assert prefetch.messages == 9
