"""How much of an exchange may be on its way at a time."""

from __future__ import annotations

from tests.support.publishing import Rig, names
from vigiloconn.publishing.pace import Pace
from vigiloconn.publishing.states import State


def earned(messages: int) -> Pace:
    """Return a pace at which `messages` more than at first may be on their way."""
    pace = Pace()
    pace.sent(200, is_more=True)
    pace.confirmed(messages)
    return pace


def test_first_messages_are_as_many_as_a_broker_takes_whatever_becomes_of_them() -> None:
    assert Pace().room(0, 0.0) == 200
    assert Pace().room(150, 0.0) == 50
    assert Pace().room(200, 0.0) == 0


def test_few_messages_wait_until_there_is_room_for_more() -> None:
    assert Pace().room(151, 0.0) == 0


def test_confirms_earn_more_while_the_pace_is_what_limits_the_sending() -> None:
    pace = earned(150)
    assert pace.room(200, 0.0) == 150
    pace.sent(350, is_more=True)
    pace.confirmed(50)
    assert pace.room(300, 0.0) == 100


def test_confirms_earn_nothing_while_less_is_sent_than_might_be() -> None:
    pace = Pace()
    pace.sent(200, is_more=False)
    pace.confirmed(200)
    pace.sent(150, is_more=True)
    pace.confirmed(200)
    assert pace.room(1, 0.0) == 199


def test_what_was_earned_counts_for_nothing_while_nothing_is_answered_and_again_afterwards() -> None:
    pace = earned(500)
    assert pace.room(100, 0.5) == 600
    assert pace.room(100, 0.6) == 100
    assert pace.room(100, 0.0) == 600


def test_what_was_earned_is_lost_once_nothing_was_sent_for_long() -> None:
    pace = earned(500)
    assert pace.room(0, 1.0) == 700
    assert pace.room(0, 1.1) == 200
    assert pace.room(0, 0.0) == 200


# --- in the publisher ----------------------------------------------------------------------------------------------


def test_exchange_that_answers_nothing_has_no_more_on_its_way_than_keeps_the_connection_read() -> None:
    rig = Rig("window = 1000")
    rig.connect()
    rig.accept(1, "state")
    rig.ack("state")
    rig.accept(2000)
    rig.wait(1)
    assert len(rig.unanswered()) == 200
    rig.wait(1)
    assert rig.state() is State.SILENT
    assert len(rig.unanswered()) == 200
    assert len(rig.journal.held) == 1800


def test_exchange_that_answers_fills_the_whole_window() -> None:
    rig = Rig("window = 1000")
    rig.connect()
    rig.journal.accept(10_000)
    rig.pump()
    most = 0
    while not rig.journal.is_empty:
        most = max(most, len(rig.unanswered()))
        rig.ack()
    assert most == 1000
    assert names(rig.channel().published) == [str(number) for number in range(1, 10_001)]
