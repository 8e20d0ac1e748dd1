"""What a publisher makes of each answer, in each state: on a journal in memory and a scripted bus, in milliseconds."""

from __future__ import annotations

import itertools

import pytest

from tests.support.publishing import Rig, ids
from tests.support.scripted import ScriptedChannel
from vigiloconn.errors import LeaveBroker
from vigiloconn.publishing.states import Event, ImpossibleEvent, State, next_state

# --- open ----------------------------------------------------------------------------------------------------------


def test_messages_go_in_order_and_leave_the_journal_with_their_confirm() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    assert ids(rig.connection.published) == [1, 2, 3, 4, 5]
    assert sorted(rig.journal.main) == [1, 2, 3, 4, 5]
    rig.ack()
    assert rig.journal.is_empty
    assert rig.publisher.stats()["sent"] == 5


def test_confirm_out_of_order_finishes_that_message_and_no_other() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    rig.channel().ack(3)
    assert sorted(rig.journal.main) == [1, 2, 4, 5]
    rig.channel().ack(2, multiple=True)
    assert sorted(rig.journal.main) == [4, 5]


def test_each_exchange_has_a_channel_of_its_own() -> None:
    rig = Rig()
    rig.connect()
    rig.journal.accept(2, "event")
    rig.accept(2, "state")
    assert rig.channel("event") is not rig.channel("state")
    rig.channel("event").close_by_broker(404)
    assert rig.ack("state") == [3, 4]


def test_every_publish_is_mandatory_and_carries_the_journals_name_and_its_number() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(1, key="a.key")
    [message] = rig.connection.published
    assert (message.mandatory, message.message_id, message.routing_key) == (True, "j-1", "a.key")


def test_window_bounds_what_is_on_its_way() -> None:
    rig = Rig("window = 10")
    rig.connect()
    rig.accept(25)
    assert len(rig.unanswered()) == 10
    rig.ack()
    assert len(rig.unanswered()) == 10
    rig.ack()
    assert rig.ack() == [21, 22, 23, 24, 25]


def test_an_answer_wakes_the_publisher_only_when_something_waits_for_it() -> None:
    rig = Rig("window = 10")
    rig.connect()
    woken = rig.publisher._wake
    rig.accept(15)
    woken.clear()
    rig.channel().ack()
    assert woken.is_set()
    rig.pump()
    woken.clear()
    rig.channel().ack()
    assert not woken.is_set()


def test_window_is_full_by_bytes_too() -> None:
    rig = Rig("window = 1000")
    rig.connect()
    rig.journal.accept(900, size=50_000)
    rig.pump()
    assert rig.publisher.ledger.size_bytes > 4 << 20
    rig.accept(1, "state")
    assert list(rig.publisher.outlets) == ["event"]


def test_nothing_is_sent_while_the_broker_blocks_and_all_of_it_after() -> None:
    rig = Rig()
    rig.connect()
    rig.client.block()
    rig.accept(3)
    assert rig.connection.published == []
    assert [problem.name for problem in rig.publisher.problems()] == ["broker-blocked"]
    rig.client.block(False)
    rig.pump()
    assert rig.ack() == [1, 2, 3]


def test_lost_connection_sends_what_is_unconfirmed_again_first_and_in_order() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    rig.channel().ack(2)
    rig.client.lose()
    rig.accept(2)
    rig.connect()
    assert rig.ack() == [1, 3, 4, 5, 6, 7]
    assert rig.journal.is_empty


def test_connection_that_breaks_in_the_middle_of_a_write_loses_nothing() -> None:
    rig = Rig()
    rig.connect()
    rig.connection.cut_after(3, "cable")
    rig.accept(5)
    rig.client.lose()
    rig.connect()
    assert rig.ack() == [1, 2, 3, 4, 5]
    assert rig.journal.is_empty


# --- refused: held, probed, drained --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403, 404])
def test_refused_exchange_is_held_with_what_was_on_its_way_and_what_comes_after(code: int) -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    rig.channel().close_by_broker(code, "no such thing")
    rig.accept(2)
    assert rig.state() is State.HELD
    assert sorted(rig.journal.held) == [1, 2, 3, 4, 5]
    assert rig.journal.main == {}
    [problem] = rig.publisher.problems()
    assert problem.name == "exchange-held"
    assert "event" in problem.text
    assert "5 messages" in problem.text
    assert "no such thing" in problem.text


def held(count: int = 5) -> Rig:
    """Return a rig whose exchange `event` is held, with `count` messages."""
    rig = Rig("heartbeat = 10")
    rig.connect()
    rig.accept(count)
    rig.channel().close_by_broker(404)
    assert rig.state() is State.HELD
    return rig


def test_held_exchange_is_tried_with_its_oldest_message_alone_when_its_time_has_come() -> None:
    rig = held()
    rig.wait(0.5)
    assert ids(rig.connection.published) == [1, 2, 3, 4, 5]
    rig.wait(0.5)
    assert rig.state() is State.PROBING
    assert rig.unanswered() == [1]
    assert len(rig.connection.channels) == 1


def test_held_messages_go_before_newer_ones_once_one_was_taken() -> None:
    rig = held()
    rig.wait(1)
    rig.accept(1)
    assert rig.ack() == [1]
    assert rig.state() is State.DRAINING
    rig.accept(1)
    assert rig.unanswered() == [2, 3, 4, 5, 6]
    rig.ack()
    assert rig.state() is State.OPEN
    assert rig.unanswered() == [7]
    rig.ack()
    assert rig.journal.is_empty
    assert rig.publisher.problems() == []


def test_held_messages_are_read_in_pages_and_none_is_missed_that_is_held_meanwhile() -> None:
    rig = held(25)
    rig.journal.pages_wait = True
    rig.wait(1)
    for turn in range(20):
        rig.journal.read_pages()
        rig.pump()
        if turn < 5:
            rig.journal.accept(1)
        rig.ack()
    sent = ids(rig.connection.published)[25:]
    assert sent == list(range(1, 31))
    assert rig.state() is State.OPEN
    assert rig.journal.is_empty


def test_delays_between_trials_grow_up_to_a_heartbeat_and_begin_anew_after_a_success() -> None:
    rig = held()

    def next_delay_s() -> float:
        began = rig.clock.now
        while rig.state() is not State.PROBING:
            rig.wait(0.05)
        return rig.clock.now - began

    delays = []
    for _ in range(6):
        delays.append(next_delay_s())
        rig.channel().close_by_broker(404)
    assert delays[0] < 1.1
    assert delays[1] > 1.4
    assert 7 < delays[-1] < 10.1
    next_delay_s()
    rig.ack()
    rig.ack()
    assert rig.state() is State.OPEN
    rig.accept(1)
    rig.channel().close_by_broker(404)
    assert next_delay_s() < 1.1


def test_nacked_messages_are_held_and_the_others_of_the_window_may_still_be_confirmed() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    rig.channel().nack(2)
    assert rig.state() is State.HELD
    assert sorted(rig.journal.held) == [2]
    rig.channel().ack(1)
    rig.channel().nack(4)
    assert sorted(rig.journal.main) == [3, 5]
    rig.wait(2)
    # Tried again only when all is answered: the refused ones must not overtake what is on its way.
    assert rig.state() is State.HELD
    rig.ack()
    assert rig.journal.main == {}
    rig.wait(2)
    assert rig.unanswered() == [2]
    rig.ack()
    assert rig.ack() == [4]
    assert rig.journal.is_empty


def test_refusal_of_the_trial_holds_again_and_loses_nothing() -> None:
    rig = held()
    rig.wait(1)
    rig.channel().nack()
    assert rig.state() is State.HELD
    rig.wait(3)
    taken = rig.ack()
    rig.channel().nack(4)
    assert rig.state() is State.HELD
    rig.channel().ack()
    rig.wait(5)
    while not rig.journal.is_empty:
        taken += rig.ack()
    # Tags begin with the trial's; the others of the last window were taken beside the one that was nacked.
    assert taken == [1, 3]


def test_connection_lost_while_held_puts_what_is_unanswered_before_the_others() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    rig.channel().nack(3)
    rig.client.lose()
    assert sorted(rig.journal.held) == [1, 2, 3, 4, 5]
    rig.connect()
    assert rig.unanswered() == [1]
    rig.ack()
    assert rig.ack() == [2, 3, 4, 5]
    assert rig.journal.is_empty


@pytest.mark.parametrize("acks", [0, 1])
def test_connection_lost_while_probing_or_draining_tries_again_at_once_and_keeps_the_order(acks: int) -> None:
    rig = held()
    rig.wait(1)
    for _ in range(acks):
        rig.ack()
    assert rig.state() is (State.DRAINING if acks else State.PROBING)
    rig.client.lose()
    assert rig.state() is State.HELD
    rig.connect()
    assert rig.unanswered() == [1 + acks]
    rig.ack()
    rig.ack()
    assert rig.journal.is_empty
    assert ids(rig.connection.published) == list(range(1 + acks, 6))


def test_messages_held_from_before_the_start_go_before_newer_ones_of_their_exchange() -> None:
    before = held(3)
    after = Rig(journal=before.journal)
    after.accept(2)
    after.connect()
    assert after.unanswered() == [1]
    after.ack()
    assert after.unanswered() == [2, 3, 4, 5]
    after.ack()
    assert after.journal.is_empty


def test_message_that_an_operator_put_back_below_what_was_read_is_sent_as_well_and_no_other_twice() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    rig.channel().return_(2)
    rig.ack()
    rig.accept(30)
    rig.channel().close_by_broker(404)
    rig.wait(1)
    rig.ack()
    assert rig.state() is State.DRAINING
    rig.journal.put_back(2)
    rig.pump()
    rig.ack()
    rig.ack()
    assert rig.state() is State.OPEN
    assert rig.journal.is_empty
    assert sorted(ids(rig.channel().published)) == [2, *range(4, 34)]


def test_message_that_is_put_back_below_a_page_on_its_way_goes_before_it() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(1)
    rig.channel().return_(1)
    rig.ack()
    rig.accept(3)
    rig.channel().close_by_broker(404)
    rig.journal.pages_wait = True
    rig.wait(1)
    # Read, but not taken yet, as the message comes in.
    rig.journal.read_pages()
    rig.journal.put_back(1)
    rig.pump()
    for _ in range(5):
        rig.journal.read_pages()
        rig.ack()
    assert rig.journal.is_empty
    assert ids(rig.channel().published) == [1, 2, 3, 4]


def draining(count: int, newer: int) -> Rig:
    """Return a rig that drains `count` held messages, while newer ones wait in the journal; its window is 100."""
    rig = Rig("window = 100")
    rig.connect()
    rig.accept(count)
    rig.channel().close_by_broker(404)
    rig.wait(1)
    rig.ack()
    assert rig.state() is State.DRAINING
    assert rig.publisher.outlets["event"].held_count == count - 1
    rig.journal.accept(newer)
    return rig


def test_held_messages_grow_fewer_however_many_newer_ones_there_are() -> None:
    rig = draining(3000, newer=3000)
    taken = 0
    while rig.state() is State.DRAINING:
        taken += len(rig.ack())
        # Half as many as went, and what the window holds.
        assert rig.publisher.outlets["event"].held_count <= 3000 - taken / 2
    while not rig.journal.is_empty:
        rig.ack()
    assert ids(rig.channel().published) == list(range(1, 6001))


def test_others_pass_while_many_held_messages_drain() -> None:
    rig = draining(3000, newer=500)
    rig.accept(1, "state")
    while "state" not in rig.publisher.outlets or not rig.publisher.outlets["state"].outstanding:
        rig.ack()
    assert rig.state("event") is State.DRAINING


def test_few_held_messages_are_waited_for_and_nothing_more_is_held() -> None:
    rig = held(5)
    rig.wait(1)
    rig.ack()
    rig.accept(50)
    assert sorted(rig.journal.held) == [2, 3, 4, 5]
    # One by one, so that each confirm might make room for more.
    for tag in range(2, 5):
        rig.channel().ack(tag)
        rig.pump()
        assert max(rig.journal.held) == 5
    rig.ack()
    assert rig.state() is State.OPEN
    assert rig.unanswered() == list(range(6, 56))


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_newer_messages_that_wait_for_a_draining_exchange_are_held_when_it_stops(how: str) -> None:
    rig = held(5)
    rig.wait(1)
    rig.ack()
    rig.accept(3)
    if how == "refused":
        rig.channel().close_by_broker(404)
    else:
        rig.client.lose()
    assert sorted(rig.journal.held) == [2, 3, 4, 5, 6, 7, 8]
    if how == "lost":
        rig.connect()
    rig.wait(60)
    rig.ack()
    while not rig.journal.is_empty:
        rig.ack()
    assert ids(rig.connection.published)[-7:] == [2, 3, 4, 5, 6, 7, 8]


def test_draining_exchange_that_falls_silent_leaves_the_window_to_others() -> None:
    rig = Rig("window = 10")
    rig.connect()
    rig.accept(1, "state")
    rig.ack("state")
    rig.accept(5, "event")
    rig.channel("event").close_by_broker(404)
    rig.wait(1)
    rig.ack("event")
    rig.accept(20, "event")
    rig.accept(1, "state")
    rig.wait(1.9)
    assert rig.unanswered("state") == []
    rig.wait(0.1)
    assert rig.ack("state") == [27]
    assert rig.state("event") is State.DRAINING
    rig.ack("event")
    while not rig.journal.is_empty:
        rig.ack("event")
    assert ids(rig.channel("event").published) == list(range(2, 27))


# --- returned, parked, expired -------------------------------------------------------------------------------------


def test_returned_message_is_parked_with_its_reason_and_the_others_are_sent() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    rig.channel().return_(2, 312, "NO_ROUTE")
    assert rig.ack() == [1, 2, 3]
    assert list(rig.journal.parked) == [2]
    exchange, reason = rig.journal.parked[2]
    assert exchange == "event"
    assert "312 NO_ROUTE" in reason
    assert "'event'" in reason
    assert rig.publisher.stats()["sent"] == 2
    assert rig.publisher.stats()["parked"] == 1


def test_returned_message_is_counted_and_forgotten_where_the_settings_say_so() -> None:
    rig = Rig("[connector]\nwhen_unroutable = park, event:drop\n")
    rig.connect()
    rig.accept(1)
    rig.channel().return_(1)
    rig.ack()
    assert (rig.journal.parked, rig.journal.is_empty) == ({}, True)
    assert rig.publisher.stats()["unroutable"] == 1


def test_message_that_is_returned_and_nacked_is_held_not_parked() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(1)
    rig.channel().return_(1)
    rig.channel().nack()
    assert list(rig.journal.held) == [1]
    rig.wait(2)
    rig.ack()
    assert (rig.journal.parked, rig.journal.is_empty) == ({}, True)


def test_return_before_a_lost_connection_parks_nothing_later() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(1)
    rig.channel().return_(1)
    rig.client.lose()
    rig.connect()
    rig.ack()
    assert rig.journal.parked == {}
    assert rig.publisher.stats()["sent"] == 1


def test_routing_key_that_can_t_be_encoded_is_parked_and_the_others_pass() -> None:
    rig = Rig()
    rig.connect()
    rig.journal.accept(1)
    rig.journal.accept(1, key="k" * 256)
    rig.accept(1)
    assert rig.ack() == [1, 3]
    assert list(rig.journal.parked) == [2]


def test_message_whose_time_is_known_to_a_second_does_not_expire_before_its_ttl() -> None:
    rig = Rig("[publications]\nevent = event:60\n")
    rig.journal.accept(1)
    rig.clock.wait(60.9)
    rig.connect()
    assert ids(rig.connection.published) == [1]


def test_message_that_has_expired_is_not_sent_but_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig("[publications]\nevent = event:60\n")
    rig.journal.accept(1)
    rig.clock.wait(30)
    rig.journal.accept(1)
    rig.clock.wait(32)
    rig.connect()
    [message] = rig.connection.published
    assert ids([message]) == [2]
    assert message.properties["expiration"] == "60000"
    assert list(rig.journal.main) == [2]
    assert rig.publisher.stats()["expired"] == 1
    assert "exchange event: message 1 expired: it waited for longer than its TTL of 60 s" in caplog.text


def test_flood_of_expired_messages_is_no_flood_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig("[publications]\nevent = event:60\n")
    rig.journal.accept(100)
    rig.clock.wait(62)
    rig.connect()
    assert rig.publisher.stats()["expired"] == 100
    assert caplog.text.count("expired") == 1


def test_held_messages_that_all_expired_open_the_exchange_again() -> None:
    rig = Rig("[publications]\nevent = event:60\n")
    rig.connect()
    rig.accept(3)
    rig.channel().close_by_broker(404)
    rig.wait(62)
    assert rig.state() is State.OPEN
    assert rig.journal.is_empty
    assert rig.publisher.stats()["expired"] == 3


def test_only_a_confirm_counts_as_a_success_of_the_broker() -> None:
    rig = Rig("[publications]\nevent = event:60\n")
    rig.journal.accept(1)
    rig.clock.wait(62)
    rig.connect()
    rig.accept(2)
    rig.channel().nack(1)
    rig.channel().close_by_broker(404)
    assert rig.publisher.stats()["expired"] == 1
    assert rig.client.successes == 0
    rig.wait(2)
    rig.ack()
    assert rig.client.successes == 1


# --- closed, with and without a culprit ----------------------------------------------------------------------------


def test_channel_closed_once_sends_all_of_it_again_in_order() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    rig.channel().close_by_broker(406)
    rig.accept(1)
    assert rig.ack() == [1, 2, 3, 4, 5, 6]
    assert rig.journal.is_empty


def answer_all(rig: Rig, culprit: int) -> None:
    """Be a broker that closes the channel at one message before it confirms those that came with it."""
    for _ in range(40):
        if not rig.connection.channels or not rig.unanswered():
            return
        if culprit in rig.unanswered():
            rig.channel().close_by_broker(406, "culprit")
        else:
            rig.channel().ack()
        rig.pump()
    raise AssertionError(f"{rig.unanswered()} are still on their way")


@pytest.mark.parametrize("culprit", [1, 3, 5])
def test_message_that_closes_the_channel_again_and_again_is_found_and_parked_alone(culprit: int) -> None:
    rig = Rig()
    rig.connect()
    rig.accept(5)
    answer_all(rig, culprit)
    assert list(rig.journal.parked) == [culprit]
    assert "culprit" in rig.journal.parked[culprit][1]
    assert rig.journal.is_empty
    rig.accept(10)
    assert len(rig.unanswered()) == 10


def test_message_for_which_the_broker_closes_the_connection_goes_alone_in_the_end() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    for _ in range(2):
        rig.connection.close_by_broker(501, "frame error")
        rig.client.lose()
        rig.connect()
    assert rig.ack() == [1]
    assert rig.unanswered() == [2]


def test_connection_that_is_lost_twice_for_no_fault_of_ours_makes_nobody_careful() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    for _ in range(2):
        rig.client.lose()
        rig.connect()
    assert rig.unanswered() == [1, 2, 3]


def test_channel_that_closes_at_the_trial_of_a_held_exchange_parks_the_one_it_closes_for() -> None:
    rig = held(3)
    rig.wait(1)
    rig.channel().close_by_broker(406, "too large")
    rig.pump()
    assert list(rig.journal.parked) == [1]
    assert rig.unanswered() == [2]
    rig.ack()
    rig.ack()
    assert rig.journal.is_empty


# --- a publisher that crashes --------------------------------------------------------------------------------------


def test_publisher_that_crashed_in_the_middle_of_work_sends_everything_that_is_unfinished() -> None:
    rig = Rig()
    rig.connect()
    rig.accept(3)
    rig.channel().ack(2)
    rig.journal.accept(2, "state")
    # Between taking and sending: what it has taken is in no queue, and on no channel.
    rig.publisher._fill()
    rig.publisher.outlets["state"].queue.clear()
    connection = rig.connection
    rig.publisher._recover()
    assert connection.lost is not None
    rig.client.lose()
    rig.connect()
    assert rig.unanswered("event") == [1, 3]
    assert rig.unanswered("state") == [4, 5]


def test_publisher_that_crashed_while_draining_sends_the_held_ones_first_and_in_order() -> None:
    rig = held(5)
    rig.wait(1)
    rig.ack()
    rig.publisher.outlets["event"].queue.clear()
    rig.publisher._recover()
    rig.client.lose()
    rig.accept(1)
    rig.connect()
    rig.ack()
    rig.ack()
    assert ids(rig.connection.published) == [2, 3, 4, 5, 6]
    assert rig.journal.is_empty


# --- silent --------------------------------------------------------------------------------------------------------


def silent() -> Rig:
    """Return a rig with a window of 10 that is full of unanswered messages to `event`; `state` is known and answers."""
    rig = Rig("window = 10")
    rig.connect()
    rig.accept(1, "state")
    rig.ack("state")
    rig.accept(15, "event")
    rig.accept(3, "state")
    rig.accept(2, "event")
    return rig


def test_exchange_that_answers_nothing_steps_aside_for_others_and_nothing_of_it_is_sent_twice() -> None:
    rig = silent()
    rig.wait(1.9)
    assert rig.unanswered("state") == []
    rig.wait(0.1)
    assert rig.state() is State.SILENT
    assert rig.ack("state") == [17, 18, 19]
    assert rig.unanswered("event") == list(range(2, 12))
    assert sorted(rig.journal.held) == [*range(12, 17), 20, 21]
    assert sorted(rig.journal.main) == list(range(2, 12))
    assert problems(rig) == ["exchange-silent"]
    [problem] = rig.publisher.problems()
    assert "exchange event does not answer: 10 messages" in problem.text
    assert "7 wait behind them" in problem.text


def test_others_have_the_whole_window_while_one_is_silent() -> None:
    rig = silent()
    rig.wait(2)
    rig.ack("state")
    rig.accept(25, "state")
    for _ in range(3):
        assert len(rig.unanswered("state")) <= 10
        rig.ack("state")
    assert "state" not in {record.key.type for record in rig.journal.main.values()}


def test_exchange_that_answers_again_sends_what_was_held_then_newer_ones_on_the_same_channel() -> None:
    rig = silent()
    rig.wait(2)
    channel = rig.channel("event")
    channel.ack(4, multiple=True)
    rig.pump()
    assert rig.state() is State.SILENT
    assert sorted(rig.journal.main) == [*range(6, 12), 17, 18, 19]
    rig.ack("state")
    rig.ack("event")
    assert rig.state() is State.DRAINING
    rig.accept(1)
    rig.ack("event")
    rig.ack("event")
    assert rig.state() is State.OPEN
    assert ids(channel.published) == [*range(2, 17), 20, 21, 22]
    assert rig.journal.is_empty
    assert len(rig.connection.opened) == 2


def test_alone_an_exchange_keeps_the_whole_window() -> None:
    rig = Rig("window = 10\nconfirm_timeout = 30")
    rig.connect()
    rig.accept(15)
    rig.wait(29)
    assert rig.state() is State.OPEN
    assert rig.journal.held == {}
    # By now one that was never published to may wait behind it.
    rig.accept(1, "state")
    rig.wait(1)
    assert rig.state() is State.SILENT
    rig.wait(2)
    assert rig.ack("state") == [16]


def test_exchange_that_answers_nothing_stays_while_there_is_room_for_others() -> None:
    rig = Rig("window = 1000")
    rig.connect()
    rig.accept(1, "state")
    rig.accept(5, "event")
    rig.ack("state")
    rig.wait(20)
    assert rig.state() is State.OPEN


def test_broker_that_answers_nobody_sets_none_aside() -> None:
    rig = Rig("window = 10\nconfirm_timeout = 30")
    rig.connect()
    rig.journal.accept(5, "event")
    rig.accept(8, "state")
    rig.wait(20)
    assert (rig.state("event"), rig.state("state")) == (State.OPEN, State.OPEN)
    assert rig.journal.held == {}


def test_time_under_an_alarm_is_no_silence() -> None:
    rig = silent()
    rig.client.block()
    rig.wait(60)
    rig.client.block(False)
    rig.wait(1)
    assert rig.state() is State.OPEN
    rig.wait(1)
    assert rig.state() is State.SILENT


def test_silent_exchange_that_refuses_in_the_end_is_held_with_what_is_unanswered() -> None:
    rig = silent()
    rig.wait(2)
    rig.ack("state")
    rig.channel("event").close_by_broker(404)
    assert rig.state() is State.HELD
    assert sorted(rig.journal.held) == [*range(2, 17), 20, 21]
    rig.wait(2)
    rig.ack("event")
    while not rig.journal.is_empty:
        rig.ack("event")
    assert ids(rig.channel("event").published) == [*range(2, 17), 20, 21]


@pytest.mark.parametrize("code", [406, 541])
def test_silent_exchange_whose_channel_is_closed_for_another_reason_goes_on_in_order(code: int) -> None:
    rig = silent()
    rig.wait(2)
    rig.ack("state")
    rig.channel("event").close_by_broker(code)
    while not rig.journal.is_empty:
        rig.pump()
        rig.ack("event")
    assert ids(rig.channel("event").published) == [*range(2, 17), 20, 21]


def test_connection_lost_while_silent_tries_with_one_message_and_keeps_the_order() -> None:
    rig = silent()
    rig.wait(2)
    rig.ack("state")
    rig.client.lose()
    assert sorted(rig.journal.held) == [*range(2, 17), 20, 21]
    rig.connect()
    assert rig.unanswered("event") == [2]
    rig.accept(1, "state")
    rig.wait(60)
    assert rig.unanswered("event") == [2]
    assert rig.ack("state") == [22]
    rig.ack("event")
    while not rig.journal.is_empty:
        rig.ack("event")
    assert ids(rig.connection.published)[2:] == [*range(3, 17), 20, 21]


def test_publisher_that_crashed_beside_a_silent_exchange_loses_nothing() -> None:
    rig = silent()
    rig.wait(2)
    rig.publisher._recover()
    rig.client.lose()
    rig.connect()
    for _ in range(10):
        for exchange in ("event", "state"):
            if exchange in {message.exchange for message in rig.connection.published}:
                rig.ack(exchange)
    assert rig.journal.is_empty


# --- a broker that has stopped reading -----------------------------------------------------------------------------


def pings(rig: Rig, exchange: str = "event") -> int:
    return [name for name, _, _ in rig.channel(exchange).asked].count("ping")


def test_broker_is_asked_once_in_a_silence_whether_it_reads_while_others_wait() -> None:
    rig = silent()
    rig.wait(1)
    assert pings(rig) == 0
    for _ in range(20):
        rig.wait(1)
        rig.connection.heard_at = rig.clock.now
    assert pings(rig) == 1
    # It reads: what is unanswered is the exchange's own concern.
    assert rig.connection.lost is None
    rig.ack("event")
    rig.accept(1, "event")
    rig.ack("state")
    rig.wait(1)
    rig.accept(1, "state")
    rig.wait(3)
    assert pings(rig) == 2


def test_connection_that_the_broker_has_stopped_reading_is_replaced_for_the_others_sake() -> None:
    rig = silent()
    connection = rig.connection
    connection.is_read = False
    rig.wait(2)
    rig.wait(5)
    # Nothing was heard: it may be dead, which is the heartbeat's concern.
    assert connection.lost is None
    connection.heard_at = rig.clock.now
    rig.wait(1)
    connection.heard_at = rig.clock.now
    rig.wait(0)
    assert "stopped reading" in str(connection.lost)
    rig.client.lose()
    rig.connect()
    assert rig.ack("state") == [17, 18, 19]
    assert rig.unanswered("event") == [2]


def test_connection_on_which_something_is_confirmed_is_read() -> None:
    rig = silent()
    rig.connection.is_read = False
    for _ in range(10):
        rig.wait(2)
        rig.connection.heard_at = rig.clock.now
        rig.accept(1, "state")
        rig.channel("state").ack()
    assert rig.connection.lost is None


@pytest.mark.parametrize("exchanges", [1, 2])
def test_write_that_the_broker_does_not_take_is_ended_for_the_sake_of_other_exchanges_only(
    exchanges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    connection = rig.connect()
    for kind in ("event", "state")[:exchanges]:
        rig.accept(1, kind)
        rig.ack(kind)
    write = connection.write

    def stuck(buffer: bytes, channel: ScriptedChannel) -> bool:
        for _ in range(6):
            rig.clock.wait(1)
            connection.heard_at = rig.clock.now
            rig.publisher.tick()
        return write(buffer, channel)

    monkeypatch.setattr(connection, "write", stuck)
    rig.accept(1, "event")
    assert (connection.lost is not None) == (exchanges == 2)


def test_connection_of_a_single_exchange_is_not_replaced() -> None:
    rig = Rig("window = 10")
    rig.connect()
    rig.connection.is_read = False
    rig.accept(50)
    for _ in range(100):
        rig.wait(1)
        rig.connection.heard_at = rig.clock.now
    assert rig.connection.lost is None


# --- the table of states -------------------------------------------------------------------------------------------


def test_state_that_is_refused_by_the_table_raises_at_once() -> None:
    with pytest.raises(ImpossibleEvent, match="open: no held message"):
        next_state(State.OPEN, Event.EMPTIED)
    with pytest.raises(ImpossibleEvent):
        next_state(State.DRAINING, Event.DUE)


def test_every_state_but_open_leads_back_to_open() -> None:
    def after(state: State) -> set[State]:
        found = set()
        for event in Event:
            try:
                found.add(next_state(state, event))
            except ImpossibleEvent:
                continue
        return found

    for state in State:
        reached = {state}
        for _ in State:
            reached |= set(itertools.chain.from_iterable(map(after, reached)))
        assert State.OPEN in reached


def test_refusal_and_loss_are_possible_in_every_state() -> None:
    for state, event in itertools.product(State, (Event.REFUSED, Event.LOST)):
        next_state(state, event)


# --- the connection's own fate -------------------------------------------------------------------------------------


def problems(rig: Rig) -> list[str]:
    return [problem.name for problem in rig.publisher.problems()]


def test_broker_that_confirms_nothing_is_left_where_there_is_another() -> None:
    rig = Rig("confirm_timeout = 5")
    rig.client.has_others = True
    connection = rig.connect()
    rig.accept(2)
    rig.wait(4)
    rig.channel().ack(1)
    rig.wait(4)
    assert connection.lost is None
    rig.wait(2)
    assert isinstance(connection.lost, LeaveBroker)
    assert "1 messages sent and none confirmed" in str(connection.lost)


def test_only_broker_is_not_left_for_missing_confirms_but_the_state_says_so() -> None:
    rig = Rig("confirm_timeout = 15")
    connection = rig.connect()
    rig.accept(2)
    rig.wait(9)
    assert problems(rig) == []
    rig.wait(2)
    assert problems(rig) == ["exchange-silent"]
    rig.wait(5)
    assert connection.lost is None
    assert problems(rig) == ["exchange-silent", "confirms-missing"]
    [_, problem] = rig.publisher.problems()
    assert "2 messages sent and none confirmed for 16 s" in problem.text
    assert rig.ack() == [1, 2]
    assert problems(rig) == []
    assert ids(connection.published) == [1, 2]


def test_clock_of_confirms_stands_while_the_broker_blocks_and_while_nothing_is_on_its_way() -> None:
    rig = Rig("confirm_timeout = 5")
    connection = rig.connect()
    rig.wait(60)
    rig.accept(1)
    rig.client.block()
    rig.wait(60)
    rig.client.block(False)
    rig.wait(4)
    assert connection.lost is None
