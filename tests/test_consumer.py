"""One consuming channel on a scripted bus: what it hands out, and what it settles, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack
from typing import Any

import pytest
from amqp import spec
from amqp.serialization import dumps

from tests.support.scripted import ScriptedChannel, ScriptedConnection, Settlement
from vigiloconn.bus.contents import Delivery
from vigiloconn.bus.inbound import Malformed
from vigiloconn.consuming.channel import Consumer, settle_frame
from vigiloconn.consuming.prefetch import Prefetch
from vigiloconn.errors import BusDown, BusRefused


class Consuming:
    """A consumer that has begun, with what it reports."""

    def __init__(
        self, connection: ScriptedConnection | None = None, *, max_bytes: int = 1 << 30, started: bool = True
    ) -> None:
        self.connection = connection or ScriptedConnection(max_message_bytes=1_000_000)
        self.arrivals = 0
        self.overruns = 0
        self.ends: list[str] = []
        self.too_large: list[int] = []
        self.prefetch = Prefetch(7, max_bytes)
        self.consumer = Consumer(
            self.connection, on_arrival=self._arrived, on_ended=self._ended, on_too_large=self._too_large,
            on_overrun=self._overrun, prefetch=self.prefetch,
        )
        self.channel: ScriptedChannel = self.connection.opened[-1]
        if started:
            self.consumer.start("q")

    def _arrived(self) -> None:
        self.arrivals += 1

    def _overrun(self) -> None:
        self.overruns += 1

    def _too_large(self, consumer: Consumer, size: int) -> None:
        assert consumer is self.consumer
        self.too_large.append(size)

    def _ended(self, consumer: Consumer, reason: str) -> None:
        assert consumer is self.consumer
        self.ends.append(reason)

    def deliver(self, count: int, **options: Any) -> list[Delivery]:
        """Deliver so many messages; return what the consumer made of them."""
        for _ in range(count):
            self.channel.deliver(b"{}", **options)
        return list(self.consumer.ready)[-count:]

    def finish(self, deliveries: Iterable[Delivery], accepted: bool = True) -> None:
        self.consumer.finish(deliveries, accepted=accepted)

    @property
    def settled(self) -> list[tuple[str, int, bool]]:
        assert not any(each.requeue for each in self.channel.settlements)
        return [each[:3] for each in self.channel.settlements]


@pytest.fixture
def consuming() -> Consuming:
    return Consuming()


# --- deliveries ---------------------------------------------------------------------------------------------------


def test_it_consumes_one_queue_with_its_prefetch_for_this_consumer(consuming: Consuming) -> None:
    names = [name for name, _, _ in consuming.channel.asked]
    assert names == ["basic_qos", "basic_consume"]
    assert consuming.channel.asked[0][1] == (0, 7, False)
    assert list(consuming.channel.consumers.values()) == ["q"]


def test_deliveries_are_ready_in_order_and_each_is_told(consuming: Consuming) -> None:
    consuming.channel.deliver(b"a", exchange="e", routing_key="k")
    consuming.channel.deliver(b"b" * 300_000, redelivered=True)
    first, second = consuming.consumer.ready
    assert (first.body, first.exchange, first.routing_key, first.tag) == (b"a", "e", "k", 1)
    assert (second.body, second.redelivered, second.tag) == (b"b" * 300_000, True, 2)
    assert first.source is second.source is consuming.consumer
    assert (consuming.arrivals, consuming.consumer.received, consuming.consumer.redelivered) == (2, 2, 1)


def test_what_is_handed_out_is_outstanding_until_it_is_finished(consuming: Consuming) -> None:
    one, two, three, _ = consuming.deliver(4)
    assert consuming.consumer.outstanding == 0
    for _ in range(3):
        consuming.consumer.ready.popleft()
    assert consuming.consumer.outstanding == 3
    consuming.finish([three])
    assert consuming.consumer.outstanding == 2
    consuming.finish([one, two])
    assert consuming.consumer.outstanding == 0


def test_after_a_discard_nothing_is_handed_out_and_what_was_handed_out_may_end(consuming: Consuming) -> None:
    one, _two = consuming.deliver(2)
    consuming.consumer.ready.popleft()
    consuming.consumer.discard()
    assert not consuming.consumer.ready
    consuming.channel.deliver(b"late")
    assert not consuming.consumer.ready
    assert consuming.arrivals == 2
    assert consuming.consumer.outstanding == 1
    consuming.finish([one])
    assert consuming.consumer.outstanding == 0
    assert consuming.consumer.received == 3


# --- settling ------------------------------------------------------------------------------------------------------


def test_many_are_acknowledged_by_one_frame_and_once(consuming: Consuming) -> None:
    consuming.finish(consuming.deliver(5))
    assert consuming.consumer.unacknowledged == 5
    consuming.consumer.flush_acks()
    consuming.consumer.flush_acks()
    assert consuming.settled == [("ack", 5, True)]
    assert consuming.consumer.unacknowledged == 0


def test_what_is_finished_early_is_acknowledged_by_its_own_tag_and_not_named_again(consuming: Consuming) -> None:
    one, two, three, four = consuming.deliver(4)
    consuming.finish([two])
    consuming.finish([four, three])
    consuming.consumer.flush_acks()
    early = [("ack", 2, False), ("ack", 3, False), ("ack", 4, False)]
    assert consuming.settled == early
    assert consuming.consumer.unacknowledged == 0
    consuming.finish([one])
    consuming.consumer.flush_acks()
    assert consuming.settled == [*early, ("ack", 1, True)]
    assert consuming.consumer.unacknowledged == 0


def test_what_is_finished_early_and_reached_before_it_was_told_goes_with_the_others(consuming: Consuming) -> None:
    one, two, three = consuming.deliver(3)
    consuming.finish([three, two])
    consuming.finish([one])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("ack", 3, True)]


def test_a_gap_ends_the_acknowledgement_before_it(consuming: Consuming) -> None:
    one, two, three, four = consuming.deliver(4)
    consuming.finish([one, two, four])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("ack", 2, True), ("ack", 4, False)]
    consuming.finish([three])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("ack", 2, True), ("ack", 4, False), ("ack", 3, True)]


@pytest.mark.parametrize(("rejected", "frames"), [
    ([1], [("reject", 1, False), ("ack", 5, True)]),
    ([5], [("ack", 4, True), ("reject", 5, False)]),
    ([3], [("ack", 2, True), ("reject", 3, False), ("ack", 5, True)]),
    ([2, 3], [("ack", 1, True), ("reject", 2, False), ("reject", 3, False), ("ack", 5, True)]),
    ([2, 4], [("ack", 1, True), ("reject", 2, False), ("ack", 3, True), ("reject", 4, False), ("ack", 5, True)]),
    ([1, 2, 3, 4, 5], [("reject", tag, False) for tag in range(1, 6)]),
])
def test_a_rejection_stands_between_the_acknowledgements_of_its_neighbours(
    consuming: Consuming, rejected: list[int], frames: list[Any]
) -> None:
    for each in consuming.deliver(5):
        consuming.finish([each], accepted=each.tag not in rejected)
    consuming.consumer.flush_acks()
    assert consuming.settled == frames
    assert consuming.channel.unsettled == []


def test_a_rejection_behind_a_gap_goes_by_itself_too(consuming: Consuming) -> None:
    one, two, three = consuming.deliver(3)
    consuming.finish([two], accepted=False)
    consuming.finish([three])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 2, False), ("ack", 3, False)]
    consuming.finish([one])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 2, False), ("ack", 3, False), ("ack", 1, True)]


def test_a_rejection_right_behind_what_was_acknowledged_acknowledges_nothing_again(consuming: Consuming) -> None:
    one, two = consuming.deliver(2)
    consuming.finish([one])
    consuming.consumer.flush_acks()
    consuming.finish([two], accepted=False)
    consuming.consumer.flush_acks()
    assert consuming.channel.settlements == [Settlement("ack", 1, True, False), Settlement("reject", 2, False, False)]


def test_a_rejection_is_told_once(consuming: Consuming) -> None:
    one, two = consuming.deliver(2)
    consuming.finish([one], accepted=False)
    consuming.consumer.flush_acks()
    consuming.finish([two])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 1, False), ("ack", 2, True)]


def test_rejections_go_in_the_order_of_their_tags(consuming: Consuming) -> None:
    # A set would give 8 before 1.
    for each in consuming.deliver(8):
        consuming.finish([each], accepted=each.tag not in (1, 8))
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 1, False), ("ack", 7, True), ("reject", 8, False)]


def test_settling_on_a_lost_connection_says_so(consuming: Consuming) -> None:
    consuming.finish(consuming.deliver(1))
    consuming.connection.abort("gone")
    with pytest.raises(BusDown):
        consuming.consumer.flush_acks()


def test_the_frames_are_the_librarys_own_bytes() -> None:
    for method, bit in ((spec.Basic.Ack, True), (spec.Basic.Reject, False)):
        payload = pack(">HH", *method) + dumps("Lb", (2**40, bit))
        assert settle_frame(3, method[1], 2**40, bit) == pack(">BHI", 1, 3, len(payload)) + payload + b"\xce"


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_a_message_above_the_largest_is_rejected_whatever_is_before_it(consuming: Consuming) -> None:
    consuming.channel.deliver(b"x" * 1_000_000)
    consuming.channel.deliver(b"x" * 1_000_001)
    consuming.channel.deliver(b"after")
    first, last = consuming.consumer.ready
    assert (len(first.body), last.body) == (1_000_000, b"after")
    assert consuming.too_large == [1_000_001]
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 2, False)]
    consuming.finish([first, last])
    consuming.consumer.flush_acks()
    assert consuming.settled == [("reject", 2, False), ("ack", 1, True), ("ack", 3, True)]
    assert not consuming.consumer.is_winding_down


def test_deliveries_that_are_not_numbered_in_order_are_no_amqp(consuming: Consuming) -> None:
    consuming.deliver(1)
    consuming.channel._delivered = 2
    with pytest.raises(Malformed, match="tag 3 where 2"):
        consuming.deliver(1)


def test_bodies_up_to_the_bound_are_kept_and_from_the_first_beyond_it_none() -> None:
    made = Consuming(max_bytes=1000)
    for size in (400, 600, 1, 0):
        made.channel.deliver(b"x" * size)
    assert [len(each.body) for each in made.consumer.ready] == [400, 600]
    assert made.consumer.is_winding_down
    assert (made.overruns, made.arrivals, made.consumer.outstanding) == (1, 2, 0)
    made.finish(made.consumer.ready)
    made.consumer.ready.clear()
    made.consumer.close()
    assert made.settled == [("ack", 2, True)]
    assert made.channel.unsettled == [3, 4]


def test_what_is_finished_makes_room() -> None:
    made = Consuming(max_bytes=1000)
    for _ in range(5):
        made.channel.deliver(b"x" * 900)
        made.finish([made.consumer.ready.popleft()])
        made.channel.deliver(b"x" * 100)
        made.finish([made.consumer.ready.popleft()])
    made.channel.deliver(b"x" * 900)
    made.channel.deliver(b"x" * 100)
    assert len(made.consumer.ready) == 2
    made.finish([made.consumer.ready.popleft()])
    made.channel.deliver(b"x" * 900)
    assert not made.consumer.is_winding_down


def test_one_body_is_kept_whatever_the_bound() -> None:
    made = Consuming(max_bytes=1000)
    made.channel.deliver(b"x")
    made.finish([made.consumer.ready.popleft()])
    made.channel.deliver(b"x" * 5000)
    assert len(made.consumer.ready) == 1
    made.channel.deliver(b"")
    assert made.consumer.is_winding_down


def test_the_next_prefetch_is_known_from_all_sizes_that_came_the_one_that_was_too_much_included() -> None:
    made = Consuming(max_bytes=1000)
    made.channel.deliver(b"x" * 300)
    made.channel.deliver(b"x" * 900)
    made.prefetch.shrink()
    assert made.prefetch.messages == 1


def test_after_an_overrun_nothing_is_rejected_for_its_size() -> None:
    made = Consuming(max_bytes=1000)
    for size in (900, 200, 1_000_001):
        made.channel.deliver(b"x" * size)
    assert made.too_large == []
    made.finish([made.consumer.ready.popleft()])
    made.consumer.flush_acks()
    assert made.settled == [("ack", 1, True)]


def test_winding_down_keeps_nothing_more_tells_the_broker_nothing_and_what_is_here_may_end(
    consuming: Consuming
) -> None:
    one, two = consuming.deliver(2)
    asked = list(consuming.channel.asked)
    consuming.consumer.ready.popleft()
    consuming.consumer.wind_down()
    consuming.channel.deliver(b"late")
    consuming.channel.deliver(b"")
    assert [each.tag for each in consuming.consumer.ready] == [2]
    assert consuming.channel.asked == asked
    assert not consuming.consumer.is_idle
    consuming.finish([one])
    assert not consuming.consumer.is_idle
    consuming.consumer.ready.popleft()
    assert not consuming.consumer.is_idle
    consuming.finish([two])
    assert consuming.consumer.is_idle
    consuming.consumer.close()
    assert consuming.settled == [("ack", 2, True)]
    assert consuming.channel.unsettled == [3, 4]


# --- the end --------------------------------------------------------------------------------------------------------


def test_closing_settles_what_is_finished_and_gives_the_rest_back_with_the_channel(consuming: Consuming) -> None:
    one, two, _three = consuming.deliver(3)
    consuming.finish([one])
    consuming.finish([two], accepted=False)
    consuming.consumer.close()
    assert consuming.settled == [("ack", 1, True), ("reject", 2, False)]
    assert consuming.channel.unsettled == [3]
    assert not consuming.channel.is_open
    assert not consuming.consumer.ready
    assert consuming.connection.deliveries == {}
    assert consuming.ends == []


def test_closing_on_a_lost_connection_leaves_no_hook(consuming: Consuming) -> None:
    consuming.finish(consuming.deliver(1))
    consuming.connection.abort("gone")
    with pytest.raises(BusDown):
        consuming.consumer.close()
    assert consuming.connection.deliveries == {}


def test_a_cancellation_by_the_broker_ends_it_once_and_nothing_is_settled_after_it(consuming: Consuming) -> None:
    consuming.finish(consuming.deliver(1))
    consuming.channel.cancel_by_broker()
    assert consuming.ends == ["cancelled by the broker: the queue was deleted or moved"]
    assert consuming.consumer.ended == consuming.ends[0]
    consuming.consumer.close()
    assert consuming.settled == []
    assert not consuming.channel.is_open


def test_of_two_ends_by_the_broker_the_first_is_told(consuming: Consuming) -> None:
    consuming.channel.cancel_by_broker()
    consuming.channel.close_by_broker(406)
    assert consuming.ends == ["cancelled by the broker: the queue was deleted or moved"]


def test_a_channel_that_the_broker_closes_ends_it_with_the_brokers_words(consuming: Consuming) -> None:
    consuming.channel.close_by_broker(406, "PRECONDITION_FAILED - timeout")
    assert consuming.ends == ["(406) PRECONDITION_FAILED - timeout"]
    assert consuming.connection.deliveries == {}


def test_the_end_of_a_channel_takes_no_hook_from_the_next_one_of_its_number(consuming: Consuming) -> None:
    consuming.channel.close_by_broker(406)
    successor = Consuming(consuming.connection)
    assert successor.channel.channel_id == consuming.channel.channel_id
    consuming.consumer.close()
    assert len(successor.deliver(1)) == 1


def test_a_cancellation_is_heard_from_the_moment_the_broker_may_send_it() -> None:
    made = Consuming(started=False)
    channel = made.channel
    seen: list[list[str]] = []
    consume = channel.basic_consume

    def basic_consume(queue: str, consumer_tag: str, **options: Any) -> str:
        seen.append(list(channel.cancel_callbacks))
        return consume(queue, consumer_tag, **options)

    channel.basic_consume = basic_consume  # type: ignore[assignment,method-assign]
    made.consumer.start("q")
    assert seen == [list(channel.consumers)]


def test_a_refusal_to_consume_is_raised() -> None:
    made = Consuming(started=False)
    made.connection.refuse("basic_consume", 403)
    with pytest.raises(BusRefused):
        made.consumer.start("q")
    assert made.connection.deliveries == {}


def test_two_consumers_have_tags_of_their_own() -> None:
    connection = ScriptedConnection()
    tags = [list(Consuming(connection).channel.consumers) for _ in range(2)]
    assert tags[0] != tags[1]
