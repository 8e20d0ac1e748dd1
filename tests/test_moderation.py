"""When a writer is read again, by a clock that a test sets."""

from __future__ import annotations

from collections.abc import Iterable

from vigiloconn.sources.moderation import Moderation

_PAUSE_S = 0.005


def pauses(moderation: Moderation, times_s: Iterable[float], size_bytes: int = 100) -> list[float]:
    return [moderation.pause_after(now_s, size_bytes) for now_s in times_s]


def test_a_writer_that_writes_line_by_line_is_read_every_few_milliseconds() -> None:
    found = pauses(Moderation(_PAUSE_S), [100 + number / 1000 for number in range(20)])
    assert found[:8] == [0.0] * 8
    assert found[9:] == [_PAUSE_S] * 11


def test_reads_that_pauses_have_put_off_are_no_reason_to_end_them() -> None:
    moderation = Moderation(_PAUSE_S)
    pauses(moderation, [100 + number / 1000 for number in range(20)])
    assert pauses(moderation, [100.025, 100.031, 100.037]) == [_PAUSE_S] * 3


def test_a_writer_is_read_at_once_after_a_pause_of_its_own() -> None:
    moderation = Moderation(_PAUSE_S)
    pauses(moderation, [100 + number / 1000 for number in range(20)])
    assert pauses(moderation, [100.03, 100.031]) == [0.0, 0.0]


def test_a_gentle_writer_is_always_read_at_once() -> None:
    assert not any(pauses(Moderation(_PAUSE_S), [100 + number / 100 for number in range(100)]))


def test_large_reads_have_gathered_by_themselves() -> None:
    assert not any(pauses(Moderation(_PAUSE_S), [100 + number / 1000 for number in range(100)], 65536))


def test_without_a_pause_nobody_waits() -> None:
    assert not any(pauses(Moderation(0.0), [100.0] * 20))
