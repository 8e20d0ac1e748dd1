"""What the journal tells of those that wait for it, and whether its thread lives: on scripted clocks and threads."""

from __future__ import annotations

from pathlib import Path

import gevent

from tests.support.cycle import Crank, numbers
from tests.support.inline import Held


def names(crank: Crank) -> list[str]:
    return [problem.name for problem in crank.provider.problems()]


def test_a_writer_that_waits_is_a_problem_after_a_while_and_none_any_more_when_there_is_room(tmp_path: Path) -> None:
    crank = Crank(tmp_path / "journal", journal_max_messages=2)
    crank.put(2)
    taken = crank.take()
    writer = gevent.spawn(crank.put)
    gevent.sleep(0)
    assert crank.provider.stats()["writers_waiting"] == 1
    assert "writers-blocked" not in names(crank)
    crank.monotonic.now_s += 3
    [problem] = [problem for problem in crank.provider.problems() if problem.name == "writers-blocked"]
    assert problem.text == "1 writers have to wait, one of them for 3 s: the journal is full"
    assert crank.provider.refusal() == "the journal is full"
    crank.provider.discard(numbers(taken))
    crank.provider.cycle()
    writer.join(5)
    assert writer.dead
    assert "writers-blocked" not in names(crank)
    assert (crank.provider.stats()["writers_waiting"], crank.provider.refusal()) == (0, "")
    crank.close()


def test_acceptance_is_counted_for_each_message_from_its_put_to_its_commit(tmp_path: Path) -> None:
    crank = Crank(tmp_path / "journal")
    crank.put(30)
    crank.monotonic.now_s += 0.02
    crank.put(5)
    crank.provider.cycle()
    acceptance = crank.provider.acceptance
    assert (acceptance.number, round(acceptance.total, 6)) == (35, 0.6)
    crank.close()


def test_the_journal_is_alive_while_its_thread_takes_turns_be_it_full_or_not(tmp_path: Path) -> None:
    pool = Held()
    crank = Crank(tmp_path / "journal", pool, journal_max_messages=1)
    crank.put(1)
    crank.provider.cycle()
    assert crank.provider.refusal() == "the journal is full"
    assert crank.provider.is_alive(0.0)
    pool.is_slow = True
    assert not crank.provider.is_alive(0.01)
    pool.finish()
    pool.is_slow = False
    assert crank.provider.is_alive(0.0)
    crank.close()
    assert not crank.provider.is_alive(0.0)


def test_the_oldest_message_in_memory_has_its_age(tmp_path: Path) -> None:
    crank = Crank(tmp_path / "journal")
    assert crank.provider.oldest_in_memory_s() == 0.0
    crank.put(1)
    crank.provider.cycle()
    crank.boot.now_s += 40
    crank.put(1)
    crank.provider.cycle()
    assert crank.provider.oldest_in_memory_s() == 40.0
    crank.close()
