"""Finished ids as runs: every id that is named was finished, and none is lost on the way."""

from __future__ import annotations

import itertools
import random

import pytest

from vigiloconn.journal.runs import LOWEST_ID, FinishedIds, Run, gaps, merged, runs_of


def named(runs: tuple[Run, ...] | list[Run]) -> list[int]:
    return [id for first, last in runs for id in range(first, last + 1)]


@pytest.mark.parametrize(("ids", "runs"), [
    ([], []),
    ([5], [(5, 5)]),
    ([3, 1, 2], [(1, 3)]),
    ([1, 2, 4, 7, 6], [(1, 2), (4, 4), (6, 7)]),
    ([2, 2, 3, 3], [(2, 3)]),
    ([2, 2, 4], [(2, 2), (4, 4)]),
    ([10**12, 1], [(1, 1), (10**12, 10**12)]),
    ([0, -1, -3], [(-3, -3), (-1, 0)]),
])  # fmt: skip
def test_ids_become_ascending_runs(ids: list[int], runs: list[Run]) -> None:
    assert runs_of(ids) == runs


def test_gaps_are_what_runs_leave_out() -> None:
    assert gaps([], 3) == [(LOWEST_ID, 3)]
    assert gaps([(2, 4), (7, 9)], 12) == [(LOWEST_ID, 1), (5, 6), (10, 12)]
    assert gaps([(2, 4), (7, 9)], 8) == [(LOWEST_ID, 1), (5, 6)]
    assert gaps([(2, 4), (7, 9)], 5) == [(LOWEST_ID, 1), (5, 5)]
    assert gaps([(LOWEST_ID, 9)], 9) == []


def test_groups_of_runs_become_one() -> None:
    assert merged([(1, 3), (9, 9)], [(2, 5)], [(6, 6), (8, 8)]) == [(1, 6), (8, 9)]


def test_a_run_names_no_id_that_was_not_finished() -> None:
    dice = random.Random(7)
    for _ in range(200):
        finished = FinishedIds()
        ids: set[int] = set()
        for _ in range(dice.randrange(1, 6)):
            some = dice.sample(range(60), dice.randrange(1, 12))
            ids.update(some)
            finished.add(some)
            runs = finished.runs()
            assert named(runs) == sorted(ids)
            assert all(earlier[1] + 1 < later[0] for earlier, later in itertools.pairwise(runs))


def test_what_was_added_while_a_transaction_was_under_way_stays() -> None:
    finished = FinishedIds()
    finished.add([1, 2, 3])
    under_way = finished.runs()
    finished.add([4])
    finished.forget(under_way)
    assert finished.runs() == ((4, 4),)


def test_a_transaction_does_not_forget_what_was_named_after_it() -> None:
    finished = FinishedIds()
    finished.add([1])
    under_way = finished.runs()
    finished.add([2])
    assert finished.runs() == ((1, 2),)
    finished.forget(under_way)
    assert finished.runs() == ((1, 2),)


def test_what_no_transaction_has_done_is_named_again() -> None:
    finished = FinishedIds()
    finished.add([2])
    assert finished.runs() == ((2, 2),)
    finished.add([1])
    assert finished.runs() == ((1, 2),)
    finished.forget(finished.runs())
    assert not finished
