"""Which performance messages go as one, when an incomplete batch goes, and what makes a route."""

from __future__ import annotations

import json
from collections import deque

import pytest

from tests.support.publishing import Clock, Rig, ids, names
from vigiloconn.errors import BadMessage
from vigiloconn.interfaces import UNREADABLE, Record, RouteKey
from vigiloconn.options import Publication
from vigiloconn.publishing.batches import PerfBatches, batch_body
from vigiloconn.publishing.routes import Routes

EVENT, PERF = RouteKey("event", None, True), RouteKey("perf", None, True)


def queue_of(*bodies: bytes, key: RouteKey = PERF) -> deque[Record]:
    return deque(Record(number, key, body, 0.0) for number, body in enumerate(bodies, 1))


def taken(batches: PerfBatches, queue: deque[Record], may_wait: bool = True) -> list[int]:
    return [record.id for record in batches.take(queue, may_wait=may_wait)]


def test_whole_batch_goes_at_once_and_leaves_the_rest_in_the_queue() -> None:
    queue = queue_of(*[b"{}"] * 5)
    assert taken(PerfBatches(3, 1.0, Clock()), queue) == [1, 2, 3]
    assert [record.id for record in queue] == [4, 5]


def test_incomplete_batch_waits_for_its_linger_from_when_it_was_first_seen_and_not_longer() -> None:
    clock = Clock()
    batches, queue = PerfBatches(3, 1.0, clock), queue_of(b"{}")
    assert taken(batches, queue) == []
    assert batches.due == clock.now + 1.0
    clock.wait(0.9)
    queue.append(Record(2, PERF, b"{}", 0.0))
    assert taken(batches, queue) == []
    clock.wait(0.1)
    assert taken(batches, queue) == [1, 2]
    assert batches.due is None


def test_batch_that_is_behind_another_waits_from_its_own_first_message() -> None:
    clock = Clock()
    batches, queue = PerfBatches(2, 1.0, clock), queue_of(b"{}", b"{}", b"{}")
    clock.wait(5)
    assert taken(batches, queue) == [1, 2]
    assert taken(batches, queue) == []
    assert batches.due == clock.now + 1.0


def test_nothing_waits_that_has_no_reason_to() -> None:
    clock = Clock()
    assert taken(PerfBatches(3, 1.0, clock), queue_of(b"{}"), may_wait=False) == [1]
    assert taken(PerfBatches(3, 0.0, clock), queue_of(b"{}")) == [1]
    # A message of another type behind it goes only after it.
    queue = queue_of(b"{}")
    queue.append(Record(2, EVENT, b"{}", 0.0))
    assert taken(PerfBatches(3, 1.0, clock), queue) == [1]


def test_batch_stays_below_a_megabyte_and_a_larger_message_goes_alone() -> None:
    queue = queue_of(b"x" * 600_000, b"x" * 600_000, b"x" * 2_000_000, b"{}")
    batches = PerfBatches(10, 1.0, Clock())
    assert [taken(batches, queue, may_wait=False) for _ in range(4)] == [[1], [2], [3], [4]]


def test_batch_is_one_message_of_type_perf_that_holds_the_others_as_they_are() -> None:
    body = json.loads(batch_body(queue_of(b'{"a":1}', b'{"routing_key":"own"}')))
    assert body == {"type": "perf", "messages": [{"a": 1}, {"routing_key": "own"}]}


# --- in the publisher ----------------------------------------------------------------------------------------------


def test_incomplete_batch_goes_after_its_linger_and_events_do_not_wait_for_it() -> None:
    rig = Rig("batch_send_perf = 3\nbatch_linger_ms = 500")
    rig.connect()
    rig.accept(1, "perf")
    rig.accept(1, "event")
    assert [message.exchange for message in rig.connection.published] == ["event"]
    rig.wait(0.4)
    assert len(rig.connection.published) == 1
    rig.wait(0.1)
    assert rig.ack("perf") == [1]
    rig.ack("event")
    assert rig.journal.is_empty


def test_performance_messages_go_in_batches_with_the_key_perf_whatever_their_own() -> None:
    rig = Rig("batch_send_perf = 2")
    rig.connect()
    rig.journal.accept(1, "perf", key="own")
    rig.accept(1, "perf")
    [message] = rig.connection.published
    assert message.routing_key == "perf"
    rig.ack("perf")
    assert rig.journal.is_empty


def test_own_figures_of_the_connector_keep_their_key_and_go_singly_in_their_place() -> None:
    rig = Rig("batch_send_perf = 10\nbatch_linger_ms = 1000")
    rig.connect()
    rig.journal.accept(2, "perf")
    rig.journal.accept(2, "perf", key="Vigilo")
    rig.accept(1, "perf")
    rig.wait(1)
    assert [(message.routing_key, "messages" in json.loads(message.body)) for message in rig.connection.published] == [
        ("perf", True), ("Vigilo", False), ("Vigilo", False), ("perf", True),
    ]  # fmt: skip


def test_batch_in_a_full_window_does_not_wait_for_what_can_not_come() -> None:
    rig = Rig("batch_send_perf = 10\nbatch_linger_ms = 1000\nwindow = 5")
    rig.connect()
    rig.accept(7, "perf")
    assert ids(rig.connection.published) == [1]
    assert rig.ack("perf") == [1]
    rig.wait(1)
    assert rig.ack("perf") == [6]


def test_stop_does_not_wait_for_a_batch_to_grow() -> None:
    rig = Rig("batch_send_perf = 10")
    rig.connect()
    rig.publisher.stop_service()
    rig.accept(2, "perf")
    assert ids(rig.connection.published) == [1]


def test_returned_batch_is_parked_whole_row_by_row() -> None:
    rig = Rig("batch_send_perf = 2")
    rig.connect()
    rig.accept(4, "perf")
    rig.channel("perf").return_(1)
    rig.ack("perf")
    assert sorted(rig.journal.parked) == [1, 2]
    assert rig.journal.is_empty


# --- a batch that goes again ---------------------------------------------------------------------------------------


def test_batch_that_is_cut_again_is_the_same_whatever_stands_behind_it_now() -> None:
    batches = PerfBatches(4, 1.0, Clock())
    queue = queue_of(b"{}", b"{}", b"{}")
    first = batches.take(queue, may_wait=False)
    queue = deque([*first, *list(queue_of(*[b"{}"] * 9))[3:]])
    assert taken(batches, queue) == [1, 2, 3]
    assert taken(batches, queue) == [4, 5, 6, 7]


def test_batch_of_which_the_rest_is_still_being_read_waits_for_it() -> None:
    batches = PerfBatches(4, 1.0, Clock())
    group = batches.take(queue_of(b"{}", b"{}", b"{}"), may_wait=False)
    queue = deque(group[:2])
    assert batches.take(queue, may_wait=False, more_comes=True) == []
    queue.append(group[2])
    assert batches.take(queue, may_wait=False, more_comes=True) == group


def test_fresh_batch_ends_where_one_begins_that_was_sent() -> None:
    batches = PerfBatches(3, 1.0, Clock())
    sent = batches.take(deque(list(queue_of(*[b"{}"] * 5))[2:]), may_wait=False)
    assert [record.id for record in sent] == [3, 4, 5]
    queue = queue_of(*[b"{}"] * 5)
    assert taken(batches, queue) == [1, 2]
    assert taken(batches, queue) == [3, 4, 5]


def test_batch_of_which_a_message_is_gone_takes_none_of_the_next_in_its_place() -> None:
    batches = PerfBatches(4, 1.0, Clock())
    first, _gone, third = batches.take(queue_of(b"{}", b"{}", b"{}"), may_wait=False)
    queue = deque([first, third, *list(queue_of(*[b"{}"] * 4))[3:]])
    assert taken(batches, queue) == [1, 3]


def test_split_batch_is_cut_anew_and_so_are_others_that_are_as_large() -> None:
    batches = PerfBatches(4, 1.0, Clock())
    queue = queue_of(*[b"x" * 100] * 12)
    large = [batches.take(queue, may_wait=False), batches.take(queue, may_wait=False)]
    batches.split(large[0])
    again = deque([*large[0], *large[1]])
    assert [taken(batches, again, may_wait=False) for _ in range(4)] == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_batch_that_is_finished_is_forgotten() -> None:
    batches = PerfBatches(4, 1.0, Clock())
    batches.finished(batches.take(queue_of(b"{}"), may_wait=False))
    assert taken(batches, queue_of(*[b"{}"] * 9)) == [1, 2, 3, 4]


def test_batch_is_named_by_its_first_its_last_and_their_number() -> None:
    rig = Rig("batch_send_perf = 3\nbatch_linger_ms = 500")
    rig.connect()
    rig.accept(4, "perf")
    rig.wait(0.5)
    assert names(rig.connection.published) == ["1-3-3", "4-4-1"]
    assert rig.connection.published[0].message_id == "j-1-3-3"


def test_batch_whose_confirm_is_lost_goes_again_with_the_same_rows_under_the_same_id() -> None:
    rig = Rig("batch_send_perf = 8\nbatch_linger_ms = 500")
    rig.connect()
    rig.accept(3, "perf")
    rig.wait(0.5)
    before = rig.connection.published
    rig.client.lose()
    rig.accept(5, "perf")
    rig.connect()
    after = rig.connection.published
    assert names(after) == ["1-3-3"]
    assert after[0].body == before[0].body
    rig.wait(0.5)
    assert names(after) == ["1-3-3", "4-8-5"]


def test_batch_that_is_held_goes_again_from_the_held_table_with_the_same_rows() -> None:
    rig = Rig("batch_send_perf = 8\nbatch_linger_ms = 500")
    rig.connect()
    rig.accept(3, "perf")
    rig.wait(0.5)
    rig.channel("perf").nack()
    rig.accept(20, "perf")
    rig.wait(2)
    assert names(rig.channel("perf").unanswered) == ["1-3-3"]
    rig.ack("perf")
    assert names(rig.channel("perf").unanswered)[0] == "4-11-8"
    rig.wait(0.5)
    rig.ack("perf")
    rig.wait(0.5)
    rig.ack("perf")
    assert rig.journal.is_empty


def test_lost_batches_go_again_in_order() -> None:
    rig = Rig("batch_send_perf = 2")
    rig.connect()
    rig.accept(6, "perf")
    rig.channel("perf").ack(2)
    rig.client.lose()
    rig.connect()
    assert rig.ack("perf") == [1, 5]
    assert rig.journal.is_empty


# --- a batch that the broker does not take ---------------------------------------------------------------------------


def answer_all(rig: Rig, max_bytes: int, code: int) -> None:
    """Be a broker that closes the channel at a message above `max_bytes`, and confirms what came before it."""
    for _ in range(200):
        for channel in list(rig.connection.channels.values()):
            for message in channel.unanswered:
                if len(message.body) > max_bytes:
                    channel.close_by_broker(code, "message size is larger than configured max size")
                    break
                channel.ack(message.tag)
        if rig.journal.is_empty:
            return
        rig.wait(0.5)
    raise AssertionError(f"{list(rig.journal.main)} and {list(rig.journal.held)} were never confirmed")


@pytest.mark.parametrize("code", [311, 406])
def test_batch_above_the_brokers_largest_message_is_split_and_nothing_is_parked(code: int) -> None:
    rig = Rig("batch_send_perf = 100")
    rig.connect()
    rig.accept(400, "perf", size=100)
    answer_all(rig, 3000, code)
    assert rig.journal.parked == {}
    closes = len(rig.connection.opened)
    rig.accept(400, "perf", size=100)
    answer_all(rig, 3000, code)
    # What was learned is kept: no channel is lost for the next ones.
    assert len(rig.connection.opened) == closes


def test_single_message_above_the_brokers_largest_is_parked_alone() -> None:
    rig = Rig("batch_send_perf = 10")
    rig.connect()
    rig.journal.accept(4, "perf")
    rig.journal.accept(1, "perf", size=5000)
    rig.accept(5, "perf")
    answer_all(rig, 3000, 406)
    assert list(rig.journal.parked) == [5]


def test_held_batch_that_is_too_large_is_split_at_the_trial() -> None:
    rig = Rig("batch_send_perf = 10")
    rig.connect()
    rig.accept(10, "perf", size=1000)
    rig.channel("perf").close_by_broker(404)
    rig.wait(1)
    answer_all(rig, 3000, 406)
    assert rig.journal.parked == {}


# --- routes --------------------------------------------------------------------------------------------------------


def routes(batches_perf: bool = False, ttl_s: int | None = None) -> Routes:
    return Routes("x", lambda kind: Publication("x", ttl_s), batches_perf)


def test_route_is_built_once_for_a_key_until_another_channel_needs_others() -> None:
    found = routes()
    first = found.get(EVENT, 1, 4096)
    assert found.get(EVENT, 1, 4096) is first
    found.forget()
    again = found.get(EVENT, 2, 4096)
    assert again.frames.render(b"{}", b"j-1")[1:3] == b"\x00\x02"


def test_only_performance_data_is_batched_and_only_where_that_is_on() -> None:
    assert not routes(batches_perf=False).get(PERF, 1, 4096).is_batched
    assert routes(batches_perf=True).get(PERF, 1, 4096).is_batched
    assert not routes(batches_perf=True).get(EVENT, 1, 4096).is_batched


def test_row_that_is_no_message_has_no_route() -> None:
    with pytest.raises(BadMessage, match="no JSON object"):
        routes().get(UNREADABLE, 1, 4096)


def test_flood_of_routing_keys_does_not_fill_the_memory() -> None:
    found = routes()
    first = found.get(EVENT, 1, 4096)
    for number in range(1000):
        found.get(RouteKey("event", f"key{number}", True), 1, 4096)
    assert found.get(EVENT, 1, 4096) is not first
