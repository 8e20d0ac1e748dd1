"""How a confirm channel matches the broker's answers to what was published on it, on a scripted bus."""

from __future__ import annotations

import random

import pytest

from tests.support.scripted import ScriptedChannel, ScriptedConnection
from vigiloconn.bus.confirms import ConfirmChannel, Returned
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BusDown, BusRefused


class Rig:
    """A confirm channel whose tokens are letters, and what it has told: letters and whether they were acknowledged."""

    def __init__(self) -> None:
        self.connection = ScriptedConnection()
        self.told: list[tuple[str, bool]] = []
        self.returned: list[tuple[str, Returned]] = []
        self.closed: list[tuple[BusRefused, str]] = []
        self.channel = ConfirmChannel[str](
            self.connection,
            on_settled=lambda tokens, acked: self.told.append(("".join(tokens), acked)),
            on_returned=lambda message_id, returned: self.returned.append((message_id, returned)),
            on_closed=lambda error, unanswered: self.closed.append((error, "".join(unanswered))),
        )
        self.frames = PublishFrames(self.channel.id, "x", "key", frame_max=4096)

    @property
    def broker(self) -> ScriptedChannel:
        return self.connection.opened[0]

    def send(self, letters: str) -> None:
        self.channel.send(b"".join(self.frames.render(b"{}", letter.encode()) for letter in letters), letters)

    def answer(self, tag: int, multiple: bool, acked: bool) -> None:
        """Answer as no broker should: whatever was answered before, or was never sent."""
        self.connection.confirms[self.channel.id](tag, multiple, acked)

    @property
    def unanswered(self) -> str:
        return "".join(self.channel.unanswered())


@pytest.fixture
def rig() -> Rig:
    """A channel with seven publishes on their way, a to g."""
    made = Rig()
    made.send("abcdefg")
    return made


def test_answers_in_order_settle_one_each(rig: Rig) -> None:
    rig.broker.ack(1)
    rig.broker.nack(2)
    assert rig.told == [("a", True), ("b", False)]
    assert (rig.channel.outstanding, rig.unanswered) == (5, "cdefg")


def test_multiple_settles_all_up_to_its_tag_in_order(rig: Rig) -> None:
    rig.broker.ack(3, multiple=True)
    rig.broker.nack(5, multiple=True)
    assert rig.told == [("abc", True), ("de", False)]
    assert (rig.channel.outstanding, rig.unanswered) == (2, "fg")


def test_single_answers_that_come_early_are_settled_once(rig: Rig) -> None:
    rig.broker.ack(3)
    rig.broker.nack(2)
    assert (rig.channel.outstanding, rig.unanswered) == (5, "adefg")
    rig.broker.ack(4, multiple=True)
    assert rig.told == [("c", True), ("b", False), ("ad", True)]
    for tag in (7, 6, 5):
        rig.broker.ack(tag)
    assert rig.told[3:] == [("g", True), ("f", True), ("e", True)]
    assert (rig.channel.outstanding, rig.unanswered) == (0, "")
    rig.send("h")
    rig.broker.ack(8)
    assert rig.told[-1] == ("h", True)


def test_answer_at_the_head_passes_over_those_that_came_early(rig: Rig) -> None:
    rig.broker.ack(2)
    rig.broker.ack(3)
    rig.broker.ack(1)
    assert rig.unanswered == "defg"
    rig.broker.ack(5)
    rig.broker.ack(7, multiple=True)
    assert rig.told[-1] == ("dfg", True)


def test_answer_to_nothing_that_was_sent_changes_nothing(rig: Rig) -> None:
    rig.broker.ack(2, multiple=True)
    for tag, multiple in ((0, False), (0, True), (1, False), (2, True), (8, False), (8, True), (99, True)):
        rig.answer(tag, multiple, True)
    assert rig.told == [("ab", True)]
    assert rig.channel.outstanding == 5


def test_early_answer_that_is_repeated_is_settled_once(rig: Rig) -> None:
    rig.answer(3, False, True)
    rig.answer(3, False, False)
    rig.answer(3, True, True)
    assert rig.told == [("c", True), ("ab", True)]


def test_return_comes_with_its_message_id_its_code_and_its_reason(rig: Rig) -> None:
    rig.broker.return_(2, 312, "NO_ROUTE")
    [(message_id, returned)] = rig.returned
    assert message_id == "b"
    assert returned == Returned(312, "312 NO_ROUTE: no queue is bound for 'key'")


def test_channel_closed_by_the_broker_gives_back_what_has_no_answer_once(rig: Rig) -> None:
    rig.broker.ack(1)
    rig.broker.ack(4)
    confirmed = rig.connection.confirms[rig.channel.id]
    rig.broker.close_by_broker(404)
    [(error, unanswered)] = rig.closed
    assert (error.code, unanswered) == (404, "bcefg")
    assert (rig.channel.closed, rig.unanswered, rig.channel.outstanding) == (True, "", 0)
    confirmed(7, True, True)
    assert rig.told == [("a", True), ("d", True)]
    with pytest.raises(BusRefused) as caught:
        rig.send("h")
    assert caught.value.code == 404


def test_channel_closed_by_the_broker_leaves_nobody_to_hear_the_answers_of_the_next_with_its_number(rig: Rig) -> None:
    rig.broker.close_by_broker(404)
    assert rig.connection.confirms == {}


def test_channel_that_is_handed_over_tells_the_other_one() -> None:
    rig = Rig()
    rig.send("a")
    rig.broker.ack()
    told: list[tuple[list[str], bool]] = []
    rig.channel.hand_over(
        on_settled=lambda tokens, acked: told.append((tokens, acked)),
        on_returned=lambda *_: None, on_closed=lambda *_: None,
    )  # fmt: skip
    rig.send("b")
    rig.broker.ack()
    assert (rig.told, told) == ([("a", True)], [(["b"], True)])


def test_lost_connection_tells_nothing_and_what_has_no_answer_can_be_asked_for(rig: Rig) -> None:
    rig.broker.ack(2)
    rig.connection.abort("lost")
    assert rig.unanswered == "acdefg"
    assert rig.closed == []
    with pytest.raises(BusDown):
        rig.send("h")
    # It may have been written: a caller that asks must hear of it.
    assert rig.unanswered == "acdefgh"


def test_channel_that_can_t_be_had_raises() -> None:
    connection = ScriptedConnection()
    connection.refuse("confirm_select", 540)
    with pytest.raises(BusRefused):
        ConfirmChannel[str](connection, on_settled=print, on_returned=print, on_closed=print)


@pytest.mark.parametrize("seed", range(30))
def test_random_answers_settle_what_a_plain_list_of_tags_says(seed: int) -> None:
    draw = random.Random(seed)
    rig = Rig()
    open_tags: dict[int, str] = {}
    expected: list[tuple[str, bool]] = []
    sent = 0
    for _ in range(200):
        if draw.random() < 0.3:
            letters = "".join(chr(0x4E00 + sent + n) for n in range(draw.randint(1, 8)))
            rig.send(letters)
            for letter in letters:
                sent += 1
                open_tags[sent] = letter
        elif open_tags:
            tag, multiple, acked = draw.choice(list(open_tags)), draw.random() < 0.4, draw.random() < 0.8
            answered = [each for each in open_tags if each == tag or (multiple and each < tag)]
            expected.append(("".join(open_tags.pop(each) for each in answered), acked))
            rig.answer(tag, multiple, acked)
        assert rig.channel.outstanding == len(open_tags)
        assert rig.unanswered == "".join(open_tags.values())
    assert rig.told == expected
