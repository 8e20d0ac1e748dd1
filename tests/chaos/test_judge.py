"""The judge finds what it is there to find, and nothing else."""

from __future__ import annotations

import json
import random

import pytest

from tests.chaos.consumer import Delivery
from tests.chaos.judge import Evidence, Parked, Span, Verdict, judge
from tests.chaos.lines import Line, make_line
from tests.chaos.writers import Written

ACCEPTED_S = 100.0


def line(number: int, kind: str = "event", writer: str = "w") -> Line:
    return make_line(random.Random(number), writer, number, kind, 20)


def written(number: int, kind: str = "event", synced: bool = True) -> Written:
    return Written(line(number, kind), ACCEPTED_S, ACCEPTED_S if synced else None)


def delivery(*lines: Line, message_id: str = "") -> Delivery:
    kind = lines[0].kind
    body = lines[0].body if len(lines) == 1 else {"type": "perf", "messages": [line.body for line in lines]}
    return Delivery(0.0, kind, kind, message_id or f"j-{lines[0].number}", json.dumps(body).encode(), False)


def found(**evidence: object) -> list[str]:
    return judge(Evidence(**{"written": [], "deliveries": [], **evidence})).findings  # type: ignore[arg-type]


def test_everything_once_in_order_is_in_order() -> None:
    lines = [line(number, kind) for number, kind in enumerate(("event", "perf", "state") * 3)]
    verdict = judge(Evidence(
        [Written(each, 0.0, 0.0) for each in lines], [delivery(each) for each in lines]
    ))
    assert verdict == Verdict(obligations=9, delivered=9)


def test_obligation_that_did_not_come_is_lost_and_an_unanswered_line_is_not() -> None:
    findings = found(written=[written(1), written(2, synced=False), written(3)], deliveries=[delivery(line(3))])
    assert findings == ["1 obligations lost: w 1 (event)"]


def test_parked_message_is_no_loss_but_needs_a_cause() -> None:
    parked = [Parked("event", json.dumps(line(1).body).encode(), "no queue")]
    assert found(written=[written(1)], parked=parked, may_park=True) == []
    assert found(written=[written(1)], parked=parked) == ["1 messages parked without a cause: no queue"]


@pytest.mark.parametrize(("barred", "is_lost"), [
    ([Span(90.0, 110.0)], False),
    ([Span(103.0, 104.5)], False),
    # The way was free when its time had passed.
    ([Span(90.0, 103.9)], True),
    ([Span(104.1, 110.0)], True),
    ([], True),
])  # fmt: skip
def test_message_may_expire_only_while_its_way_is_barred(barred: list[Span], is_lost: bool) -> None:
    findings = found(written=[written(1)], ttl_s={"event": 4.0}, barred=barred)
    assert findings == (["1 obligations lost: w 1 (event)"] if is_lost else [])


def test_message_without_a_time_to_live_never_expires() -> None:
    assert found(written=[written(1)], ttl_s={"perf": 4.0}, barred=[Span(0.0, 1e9)])


@pytest.mark.parametrize(("barred", "is_lost"), [
    ([Span(99.0, 110.0)], False),
    ([Span(101.0, 110.0)], False),
    ([Span(90.0, 99.9)], True),
    ([Span(103.0, 110.0)], True),
])  # fmt: skip
def test_message_may_be_dropped_only_where_nobody_may_have_been_bound(barred: list[Span], is_lost: bool) -> None:
    wanted = ["1 obligations lost: w 1 (event)"] if is_lost else []
    evidence = {"written": [written(1)], "barred": barred}
    assert found(**evidence, may_park=True, drops_unwanted=True) == wanted
    assert found(**evidence, may_park=True)
    assert found(**evidence, drops_unwanted=True)


def test_message_that_the_broker_let_expire_was_delivered() -> None:
    assert found(written=[written(1)], expired_on_bus=[delivery(line(1))]) == []


def test_repeat_is_no_fault_and_a_first_copy_behind_a_newer_one_is() -> None:
    one, two = line(1), line(2)
    everything = [written(1), written(2)]
    assert found(written=everything, deliveries=[delivery(one), delivery(two), delivery(one)]) == []
    findings = found(written=everything, deliveries=[delivery(two), delivery(one)])
    assert findings == ["1 messages out of order in event: w 1 after 2"]


def test_what_the_broker_takes_back_from_a_lost_node_may_come_late_and_nothing_else_may() -> None:
    one, two, three = line(1), line(2), line(3)
    everything = [written(1), written(2), written(3)]
    taken_back = delivery(one)._replace(redelivered=True)
    came = [delivery(two), taken_back, delivery(three)]
    assert found(written=everything, deliveries=came, has_given_before=True) == []
    assert found(written=everything, deliveries=came) == ["1 messages out of order in event: w 1 after 2"]
    late = [delivery(three), taken_back, delivery(two)]
    assert found(written=everything, deliveries=late, has_given_before=True) == [
        "1 messages out of order in event: w 2 after 3"
    ]  # fmt: skip


def test_changed_body_and_foreign_message_are_found() -> None:
    changed = delivery(line(1)._replace(body={**line(1).body, "state": "DOWN"}))
    assert "1 bodies that are not what was written" in found(written=[written(1)], deliveries=[changed])[0]
    assert "1 messages that nobody wrote" in found(deliveries=[delivery(line(1))])[0]
    nothing = Delivery(0.0, "event", "event", "j-1", b"[", False)
    assert "1 bodies that are no JSON objects" in found(deliveries=[nothing])[0]


def test_half_a_line_of_a_writer_that_was_cut_off_is_no_foreign_message() -> None:
    whole = written(1, synced=False)
    torn = delivery(whole.line._replace(body={**whole.line.body, "message": whole.line.body["message"][:4]}))
    assert found(written=[whole], deliveries=[torn]) == []


def test_message_that_comes_again_under_another_id_is_found() -> None:
    again = [delivery(line(1)), delivery(line(1), message_id="j-2")]
    assert found(written=[written(1)], deliveries=again) == ["1 messages that came again under another id: w 1 as j-1 "
                                                            "and j-2"]


def test_id_with_two_bodies_is_found() -> None:
    first, second = line(1), line(2)
    findings = found(
        written=[written(1), written(2)], deliveries=[delivery(first), delivery(second, message_id="j-1")]
    )
    assert findings == ["1 ids with more than one body: j-1"]


def test_batch_that_is_grouped_anew_is_recognised_by_its_range() -> None:
    rows = [line(number, "perf") for number in (1, 2, 3)]
    everything = [written(number, "perf") for number in (1, 2, 3)]
    grown = [delivery(*rows[:2], message_id="j-1-2-2"), delivery(*rows, message_id="j-1-3-3")]
    assert found(written=everything, deliveries=grown) == []
    elsewhere = [delivery(*rows[:2], message_id="j-1-2-2"), delivery(*rows[1:], message_id="j-7-8-2")]
    assert "came again under another id" in found(written=everything, deliveries=elsewhere)[0]


def test_message_without_an_id_is_found() -> None:
    findings = found(written=[written(1)], deliveries=[delivery(line(1))._replace(message_id="")])
    assert findings == ["1 messages without an id: 1 in event"]
