"""A producer's base: what was put with a position is accepted with it, and a stop waits for no room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.test_message_policy import wait_for
from vigiloconn.errors import BadMessage
from vigiloconn.handlers.backup import BackupProvider, backupprovider_factory
from vigiloconn.handlers.source import Source
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Supervisor


class Counting(Source):
    """Does what the test says, once in each life."""

    name = "counting"
    work: Callable[[Counting], Any] = lambda self: None

    def produce(self) -> None:
        self.work()
        self.wait()


def run(path: Path, work: Callable[[Counting], Any], extra: str = "") -> tuple[Counting, Supervisor, Any]:
    settings = parse_settings(f"[connector]\nbackup_file = {path}\n{extra}", connector="x")
    journal: BackupProvider = backupprovider_factory(settings)
    source = Counting(journal)
    source.work = work.__get__(source)  # type: ignore[attr-defined]
    supervisor = Supervisor(stop_timeout_s=3)
    supervisor.add(journal)
    supervisor.add(source)
    return source, supervisor, gevent.spawn(supervisor.run)


def event(number: int) -> dict[str, Any]:
    return {"type": "event", "n": number}


def test_a_position_is_there_after_the_next_start_and_messages_are_safe_once_awaited(tmp_path: Path) -> None:
    seen: list[str | None] = []
    accepted: list[bool] = []

    def put(source: Counting) -> None:
        seen.append(source.position)
        accepted.append(source.put([event(1), event(2)], position="two", wait=True))
        seen.append(source.position)

    for _ in range(2):
        source, supervisor, running = run(tmp_path / "j.sqlite", put)
        wait_for(lambda: len(accepted) == len(seen) / 2)
        supervisor.stop()
        running.join(20)
    assert seen == [None, "two", "two", "two"]
    assert accepted == [True, True]
    assert source.stats() == {"put": 2}


def test_a_life_that_begins_anew_goes_on_behind_what_was_put_already(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def fail_once(source: Counting) -> None:
        seen.append(source.position)
        source.put([event(1)], position="one")
        if len(seen) == 1:
            raise RuntimeError("once")

    _, supervisor, running = run(tmp_path / "j.sqlite", fail_once)
    wait_for(lambda: len(seen) == 2)
    supervisor.stop()
    running.join(20)
    assert seen == [None, "one"]


def test_a_put_that_waits_for_room_ends_at_the_stop_and_its_position_is_not_kept(tmp_path: Path) -> None:
    def fill(source: Counting) -> None:
        for number in range(1000):
            source.put([event(number)], position=str(number))

    source, supervisor, running = run(tmp_path / "j.sqlite", fill, "journal_max_messages = 10\n")
    wait_for(lambda: source.count >= 10)
    supervisor.stop()
    with gevent.Timeout(20):
        assert running.get() == 0
    found: list[str | None] = []
    _, supervisor, running = run(tmp_path / "j.sqlite", lambda source: found.append(source.position))
    wait_for(lambda: found)
    supervisor.stop()
    running.join(20)
    assert found[0] is not None
    assert int(found[0]) <= source.count


def test_a_message_that_can_not_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    source = Counting(backupprovider_factory(parse_settings(f"[connector]\nbackup_file = {tmp_path}/j\n")))
    with pytest.raises(BadMessage, match="type: expected"):
        source.put([{"n": 1}])
