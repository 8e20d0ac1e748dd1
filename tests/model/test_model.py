"""One model of journal, publisher and outlets: whatever happens, in whatever order, the promise holds.

Hypothesis chooses what happens; after every step a ledger of the test's own is held against the file, the counters
and the wire; at the end all is healed, and every message must have ended in one of the four ways. `make test` draws
the same examples each time. Free ones by hand, as many as wanted:

    MODEL_EXAMPLES=5000 MODEL_STEPS=60 pytest tests/model/test_model.py

A failure prints the steps that lead to it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model.core import IN_CYCLE, IN_PUMP
from tests.model.world import ANSWERS, ASIDES, KINDS, LARGE, POISON, UNSENDABLE, UNWANTED, World

FREE = "MODEL_EXAMPLES" in os.environ

numbers = st.integers(0, 7)
traits = st.sampled_from(["", "", "", "", "", "", "", POISON, UNWANTED, UNSENDABLE, LARGE])
kinds = st.sampled_from(sorted(KINDS))
messages = st.lists(st.tuples(kinds, traits), min_size=1, max_size=6)
many = st.lists(kinds, min_size=3, max_size=9)
codes = st.sampled_from([403, 404, 406, 311])
perf = st.lists(st.tuples(st.just("perf"), st.just("")), min_size=1, max_size=2)


def while_running(machine: Model) -> bool:
    return machine.world.core.is_running


def while_answers_are_due(machine: Model) -> bool:
    return any(channel.unanswered for channel in machine.world.core.channels)


class Model(RuleBasedStateMachine):
    """All that may happen to a connector. What hinders it has few rules, that something goes on in between."""

    world: World

    @initialize(
        window=st.sampled_from([1, 4, 8, 30]), batch_send_perf=st.sampled_from([1, 3]),
        memory_messages=st.sampled_from([1, 4, 12]), journal_max_messages=st.sampled_from([15, 1000, 1000]),
        durability=st.sampled_from(["journal", "journal", "overflow"]), has_others=st.booleans(),
        limits=st.sampled_from([{}, {}, {"max_channels": 1}, {"max_channels": 2}, {"max_channels_of_user": 1}]),
    )  # fmt: skip
    def begin(self, limits: dict[str, int], **chosen: object) -> None:
        self.world = World(**limits, **chosen)  # type: ignore[arg-type]

    # -- writers and the crank

    @precondition(while_running)
    @rule(writer=st.integers(0, 2), chosen=many, answers=st.lists(numbers, max_size=3))
    def work(self, writer: int, chosen: list[str], answers: list[int]) -> None:
        """What a connector does all day."""
        self.world.put(*chosen, writer=writer)
        self.world.turn()
        for number in answers:
            self.world.answer(number)

    @precondition(while_running)
    @rule(writer=st.integers(0, 2), chosen=messages | perf, wants_answer=st.booleans(), then_turn=st.booleans())
    def put(self, writer: int, chosen: list[tuple[str, str]], wants_answer: bool, then_turn: bool) -> None:
        self.world.put(*chosen, writer=writer, wants_answer=wants_answer)
        if then_turn:
            self.world.turn()

    @precondition(while_running)
    @rule()
    def turn(self) -> None:
        self.world.turn()

    @precondition(lambda self: self.world.core.is_running and self.world.core.is_cycle_due())
    @rule()
    def cycle(self) -> None:
        self.world.cycle()

    @precondition(lambda self: self.world.core.is_running and self.world.core.is_pump_due())
    @rule()
    def pump(self) -> None:
        self.world.pump()

    @precondition(while_running)
    @rule(seconds=st.sampled_from([0.2, 1.1, 5.0, 35.0]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.world.turn()

    # -- answers

    @precondition(while_answers_are_due)
    @rule(number=numbers, multiple=st.booleans())
    def ack(self, number: int, multiple: bool) -> None:
        self.world.answer(number, multiple=multiple)

    @precondition(while_answers_are_due)
    @rule(then_turn=st.booleans())
    def ack_all(self, then_turn: bool) -> None:
        self.world.ack_all()
        if then_turn:
            self.world.turn()

    @precondition(while_answers_are_due)
    @rule(kind=st.sampled_from(["nack", "return", "close"]), number=numbers, code=codes, is_more=st.booleans())
    def refuse(self, kind: str, number: int, code: int, is_more: bool) -> None:
        if kind == "nack":
            self.world.answer(number, multiple=is_more, acked=False)
        elif kind == "return":
            self.world.return_(number, confirm=is_more)
        else:
            self.world.close_channel(number, code, taken=number % 4)

    # -- bad weather

    @precondition(while_running)
    @rule(point=st.sampled_from(IN_PUMP + IN_CYCLE), aside=st.sampled_from(ASIDES), number=numbers)
    def meanwhile(self, point: str, aside: str, number: int) -> None:
        self.world.meanwhile(point, aside, number)

    @precondition(while_answers_are_due)
    @rule(point=st.sampled_from(IN_PUMP + IN_CYCLE), aside=st.sampled_from(ANSWERS), number=numbers, chosen=messages)
    def answer_meanwhile(self, point: str, aside: str, number: int, chosen: list[tuple[str, str]]) -> None:
        self.world.meanwhile(point, aside, number)
        self.world.put(*chosen)
        self.world.turn()

    @precondition(while_running)
    @rule(kind=st.sampled_from(["lose", "lose", "close", "block", "fill", "fill", "lock"]), number=st.integers(0, 3))
    def hinder(self, kind: str, number: int) -> None:
        if kind == "lose":
            self.world.lose(number)
        elif kind == "close":
            self.world.close_connection(number)
        elif kind == "block":
            self.world.block()
        elif kind == "fill":
            self.world.fill_disk(number)
        elif kind == "lock":
            self.world.lock()

    @rule(kind=st.sampled_from(["jump", "jump", "insert", "put back", "delete"]), number=st.integers(-2, 2))
    def interfere(self, kind: str, number: int) -> None:
        if kind == "jump":
            self.world.clocks.jump(number * 43_200.5)
        elif kind == "insert":
            self.world.insert("event", "perf")
        elif kind == "put back":
            self.world.put_back()
        elif kind == "delete":
            self.world.delete()

    @precondition(while_running)
    @rule(
        kind=st.sampled_from(["stop", "kill", "reboot"]), taken=st.integers(0, 3), starts_again=st.booleans(),
        moves=st.booleans(),
    )  # fmt: skip
    def end(self, kind: str, taken: int, starts_again: bool, moves: bool) -> None:
        if kind == "reboot":
            self.world.reboot()
        elif kind == "kill":
            self.world.kill(taken)
        else:
            self.world.stop(taken)
        if moves:
            self.world.move_events()
        if starts_again:
            self.world.start()

    @precondition(lambda self: self.world.is_hindered())
    @rule()
    def mend(self) -> None:
        self.world.mend()

    @precondition(lambda self: self.world.is_hindered())
    @rule()
    def mend_and_turn(self) -> None:
        self.world.mend()
        self.world.turn()

    # -- what must hold

    @invariant()
    def promise_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.heal()
            finally:
                self.world.close()


Model.TestCase.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "150")),
    stateful_step_count=int(os.environ.get("MODEL_STEPS", "40")),
    derandomize=not FREE,
    database=None,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes minutes: it is for whoever looks for the fault.
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if FREE else [])],
)
TestModel = Model.TestCase
