"""What is in hand: slices in order, what is done, given up, tried again and remembered. No broker, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest

from vigiloconn.bus.contents import Delivery
from vigiloconn.consuming.unpack import unpack
from vigiloconn.consuming.work import (
    MAX_REASONS,
    SLICE_BYTES,
    InHand,
    Interrupted,
    ItemFailed,
    Progress,
    RetryPolicy,
    Work,
    identity,
)
from vigiloconn.errors import BadMessage


def delivery(message: Any, tag: int = 1, redelivered: bool = False) -> Delivery:
    method = pack(">HHB1sQB", 60, 60, 1, b"t", tag, redelivered) + b"\x00\x01q"
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return Delivery(method, pack(">HHQH", 60, 0, len(body), 0), body)


def numbered(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def open_work(found: Delivery) -> Work:
    return Work(found, unpack(found.body))


def hand_of(*messages: Any, opened: Callable[[Delivery], Work] = open_work) -> InHand:
    return InHand([delivery(message, tag) for tag, message in enumerate(messages, 1)], opened)


def tags(deliveries: list[Delivery]) -> list[int]:
    return [each.tag for each in deliveries]


# --- slices -----------------------------------------------------------------------------------------------------


def test_a_slice_spans_deliveries_and_ends_inside_one() -> None:
    hand = hand_of({"n": 1}, {"messages": numbered(2, 3, 4)}, {"n": 5})
    assert hand.slice(3) == numbered(1, 2, 3)
    assert tags(hand.advance(3)) == [1]
    assert hand.slice(3) == numbered(4, 5)
    assert tags(hand.advance(1)) == [2]
    assert tags(hand.advance(1)) == [3]
    assert hand.head is None
    assert hand.slice(3) == []


def test_a_slice_that_was_not_done_is_given_again() -> None:
    hand = hand_of({"n": 1}, {"n": 2}, {"messages": numbered(3, 4)})
    assert hand.slice(10) == numbered(1, 2, 3, 4)
    assert hand.advance(0) == []
    assert hand.slice(10) == numbered(1, 2, 3, 4)
    assert tags(hand.advance(3)) == [1, 2]
    assert hand.slice(10) == numbered(4)


def test_a_delivery_without_messages_is_finished_in_its_turn() -> None:
    hand = hand_of({"messages": []}, {"n": 1}, {"messages": []}, {"n": 2})
    assert hand.slice(1) == numbered(1)
    assert tags(hand.advance(1)) == [1, 2]
    assert hand.slice(1) == numbered(2)
    assert tags(hand.advance(1)) == [3, 4]


def test_a_delivery_ends_with_its_last_message_though_nobody_knew_that_it_was_the_last() -> None:
    hand = hand_of({"messages": numbered(1, 2)})
    assert hand.slice(2) == numbered(1, 2)
    assert hand.advance(2) == []
    assert hand.slice(2) == []
    assert tags(hand.advance(0)) == [1]


def test_large_bodies_are_opened_a_few_at_a_time() -> None:
    opened: list[int] = []

    def note(found: Delivery) -> Work:
        opened.append(found.tag)
        return open_work(found)

    large = {"pad": "x" * (SLICE_BYTES // 2 - 11)}
    assert len(json.dumps(large)) * 2 == SLICE_BYTES
    hand = hand_of(large, large, large, large, opened=note)
    assert len(hand.slice(100)) == 2
    assert opened == [1, 2]
    hand.advance(2)
    assert len(hand.slice(100)) == 2
    assert opened == [1, 2, 3, 4]


def test_nothing_behind_a_delivery_with_a_bad_message_is_in_its_slice() -> None:
    hand = hand_of({"n": 1}, {"messages": [{"n": 2}, 7, {"n": 3}]}, {"n": 4})
    assert hand.slice(10) == numbered(1, 2)
    assert tags(hand.advance(2)) == [1]
    assert hand.slice(10) == numbered(3)
    assert hand.advance(1) == []
    assert hand.slice(10) == []
    head = hand.head
    assert head is not None
    assert head.is_over
    assert head.progress.given_up == 1
    assert "message 2: expected a JSON object" in head.progress.reason
    hand.drop_head()
    assert hand.slice(10) == numbered(4)


def test_a_call_passes_over_no_more_bad_messages_than_it_was_asked_for() -> None:
    work = open_work(delivery({"messages": [7] * 10 + numbered(1)}))
    assert work.peek(4) == []
    assert work.progress.given_up == 4
    assert not work.is_over
    assert work.peek(6) == []
    assert work.peek(1) == numbered(1)


# --- alone ------------------------------------------------------------------------------------------------------


def test_what_is_to_go_alone_goes_alone_and_what_follows_together_again() -> None:
    hand = hand_of({"n": 1}, {"messages": numbered(2, 3)}, {"n": 4}, {"n": 5})
    assert len(hand.slice(10)) == 5
    hand.go_alone(3)
    for number in (1, 2, 3):
        assert hand.slice(10) == numbered(number)
        hand.advance(1)
    assert hand.slice(10) == numbered(4, 5)


def test_one_that_goes_alone_again_lengthens_no_row_of_others() -> None:
    hand = hand_of(*numbered(1, 2, 3, 4))
    hand.go_alone(2)
    hand.go_alone(1)
    assert hand.slice(10) == numbered(1)
    hand.give_up("no")
    hand.drop_head()
    assert hand.slice(10) == numbered(2)
    hand.advance(1)
    assert hand.slice(10) == numbered(3, 4)


# --- tries ------------------------------------------------------------------------------------------------------


def test_a_message_is_tried_again_as_often_as_allowed_and_then_given_up() -> None:
    progress = Progress()
    delays = [progress.failed(RuntimeError(), 0.0, RetryPolicy(3)) for _ in range(4)]
    assert delays[3] is None
    for delay_s, longest_s in zip(delays, (0.1, 0.2, 0.4), strict=False):
        assert delay_s is not None
        assert 0.75 * longest_s <= delay_s <= longest_s
    assert progress.tries_in_all == 4
    progress.give_up("no")
    assert progress.failed(RuntimeError(), 0.0, RetryPolicy(3)) is not None
    assert (progress.tries_of_item, progress.tries_in_all, progress.done) == (1, 5, 1)


def test_the_delays_of_one_message_are_not_those_of_the_next() -> None:
    progress = Progress()
    for _ in range(8):
        progress.failed(RuntimeError(), 0.0, RetryPolicy(100))
    progress.give_up("no")
    delay_s = progress.failed(RuntimeError(), 0.0, RetryPolicy(100))
    assert delay_s is not None
    assert delay_s <= 0.1


def test_without_any_repeats_the_first_failure_is_the_last() -> None:
    assert Progress().failed(RuntimeError(), 0.0, RetryPolicy(0)) is None


def test_what_is_bad_is_not_tried_again() -> None:
    assert Progress().failed(BadMessage("never"), 0.0, RetryPolicy(100)) is None


def test_a_delivery_is_not_tried_for_longer_than_its_time() -> None:
    progress = Progress()
    assert progress.failed(RuntimeError(), 1000.0, RetryPolicy(100)) is not None
    assert progress.failed(RuntimeError(), 999.0 + RetryPolicy().time_s, RetryPolicy(100)) is not None
    assert progress.failed(RuntimeError(), 1000.0 + RetryPolicy().time_s, RetryPolicy(100)) is None


def test_a_success_ends_the_count_of_the_messages_tries_and_no_success_does_not() -> None:
    hand = hand_of({"messages": numbered(1, 2)})
    hand.slice(1)
    head = hand.head
    assert head is not None
    head.progress.failed(RuntimeError(), 0.0, RetryPolicy(5))
    hand.advance(0)
    assert head.progress.tries_of_item == 1
    hand.advance(1)
    assert (head.progress.tries_of_item, head.progress.tries_in_all) == (0, 1)


# --- reasons ----------------------------------------------------------------------------------------------------


def test_a_single_message_is_named_by_nothing_and_one_of_many_by_its_number() -> None:
    single = open_work(delivery({"n": 1}))
    single.peek(1)
    single.give_up("no")
    assert single.progress.reason == "no"
    assert single.is_over
    many = open_work(delivery({"messages": numbered(1, 2, 3)}))
    many.peek(3)
    many.advance(1)
    many.give_up("no")
    assert many.progress.reason == "message 2: no"
    assert many.peek(3) == numbered(3)


def test_of_many_reasons_the_first_are_told_and_the_others_counted() -> None:
    work = open_work(delivery({"messages": [7] * (MAX_REASONS + 5)}))
    work.peek(MAX_REASONS)
    assert "more" not in work.progress.reason
    work.peek(100)
    assert work.is_over
    assert work.progress.reason.count("expected a JSON object") == MAX_REASONS
    assert work.progress.reason.endswith("; and 5 more")


def test_a_batch_that_failed_says_at_which_message() -> None:
    failed = ItemFailed(2, RuntimeError("no"))
    assert str(failed) == "message 3 of the batch: no"
    assert failed.done == 2


# --- interrupted ------------------------------------------------------------------------------------------------


def interrupt(memory: Interrupted, message: Any, done: int) -> None:
    work = open_work(delivery(message))
    work.peek(done)
    work.advance(done)
    memory.remember(work)


def test_what_was_done_before_an_interruption_is_passed_over_after_it() -> None:
    memory = Interrupted()
    message = {"messages": [{"n": 1}, {"messages": numbered(2, 3)}, {"n": 4}]}
    interrupt(memory, message, 2)
    again = delivery(message, 9, redelivered=True)
    progress = memory.recall(again)
    work = Work(again, unpack(again.body), progress)
    assert work.peek(2) == []
    assert work.peek(10) == numbered(3, 4)
    work.advance(2)
    work.peek(1)
    assert work.is_over


def test_a_single_message_that_was_given_up_before_is_over_when_it_comes_again() -> None:
    progress = Progress()
    progress.give_up("no")
    again = delivery({"n": 1}, redelivered=True)
    work = Work(again, unpack(again.body), progress)
    assert work.is_over
    assert work.progress.reason == "no"


def test_only_a_redelivery_of_the_same_message_is_recalled_and_only_once() -> None:
    memory = Interrupted()
    interrupt(memory, {"messages": numbered(1, 2)}, 1)
    assert memory.recall(delivery({"messages": numbered(1, 2)})) is None
    assert memory.recall(delivery({"messages": numbered(1, 3)}, redelivered=True)) is None
    again = delivery({"messages": numbered(1, 2)}, redelivered=True)
    found = memory.recall(again)
    assert found is not None
    assert found.done == 1
    assert memory.recall(again) is None


def test_what_was_only_tried_is_remembered_too_and_what_was_not_begun_is_not() -> None:
    memory = Interrupted()
    tried = open_work(delivery({"n": 1}))
    tried.progress.failed(RuntimeError(), 0.0, RetryPolicy(5))
    memory.remember(tried)
    memory.remember(open_work(delivery({"n": 2})))
    found = memory.recall(delivery({"n": 1}, redelivered=True))
    assert found is not None
    assert found.tries_in_all == 1
    assert memory.recall(delivery({"n": 2}, redelivered=True)) is None


def test_of_too_many_the_oldest_are_forgotten() -> None:
    memory = Interrupted(max_deliveries=2)
    for number in (1, 2, 3):
        interrupt(memory, {"messages": numbered(number, 0)}, 1)
    recalled = [memory.recall(delivery({"messages": numbered(number, 0)}, redelivered=True)) for number in (1, 2, 3)]
    assert [progress is not None for progress in recalled] == [False, True, True]


def test_equal_bodies_with_different_message_ids_are_different_messages() -> None:
    body = b"{}"
    named = [Delivery(delivery(body)._method, pack(">HHQH", 60, 0, 2, 0x80) + b"\x01" + name, body)
             for name in (b"a", b"b", b"a")]
    assert identity(named[0]) == identity(named[2]) != identity(named[1])
    assert identity(delivery(b"{}")) != identity(delivery(b"[]"))


@pytest.mark.parametrize("slices", [1, 2, 3, 7, 100])
def test_whatever_the_slices_each_message_is_given_once_and_in_order(slices: int) -> None:
    messages = [{"n": 0}, {"messages": numbered(1, 2, 3)}, {"messages": []}, {"messages": [{"messages": numbered(4)}]},
                {"n": 5}, {"messages": numbered(6, 7)}]
    hand = hand_of(*messages)
    given: list[dict[str, Any]] = []
    finished: list[Delivery] = []
    while hand.head is not None:
        batch = hand.slice(slices)
        given += batch
        finished += hand.advance(len(batch))
    assert given == numbered(*range(8))
    assert tags(finished) == [1, 2, 3, 4, 5, 6]
