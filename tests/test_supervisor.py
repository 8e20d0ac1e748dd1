"""Lives under the supervisor, with time of the tests' own. gevent is used here, the stdlib stays unpatched."""

from __future__ import annotations

import asyncio
from typing import Any

import gevent
import pytest
from gevent.event import Event

from vigiloconn import supervisor as supervisor_module
from vigiloconn.errors import StartError
from vigiloconn.handlers.base import Handler
from vigiloconn.kit.greenlets import Ended, Job
from vigiloconn.supervisor import Supervisor, backoff_delays


class Clock:
    """Time that passes only while somebody waits for it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, event: Event, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds
        gevent.sleep(0)


class Part(Handler):
    """Notes what happens to it, and crashes `crashes` times before it lives on."""

    def __init__(self, name: str, events: list[str], crashes: int = 0) -> None:
        self.name = name
        self.events = events
        self.crashes = crashes
        self.stop = Event()

    def start_service(self) -> None:
        self.events.append(f"start {self.name}")

    def run(self) -> None:
        self.events.append(f"run {self.name}")
        if self.crashes:
            self.crashes -= 1
            raise ValueError("a bug")
        self.stop.wait()

    def stop_service(self) -> None:
        self.events.append(f"stop {self.name}")
        self.stop.set()

    def close(self) -> None:
        self.events.append(f"close {self.name}")


def run(supervisor: Supervisor, stop_when: Any = lambda: True) -> int:
    """Run until `stop_when()`, at most ten seconds."""

    def watch() -> None:
        for _ in range(10_000):
            if stop_when():
                break
            gevent.sleep(0.001)
        supervisor.stop()

    gevent.spawn(watch)
    return supervisor.run()


def make(**options: Any) -> tuple[Supervisor, Clock, list[str]]:
    clock = Clock()
    return Supervisor(clock=clock, wait=clock.wait, **options), clock, []


def test_all_are_prepared_before_any_runs_and_they_stop_in_reverse_then_close_in_reverse() -> None:
    supervisor, _, events = make()
    for name in "ab":
        supervisor.add(Part(name, events))
    assert run(supervisor, lambda: "run b" in events) == 0
    assert events == ["start a", "start b", "run a", "run b", "stop b", "stop a", "close b", "close a"]


def test_crash_is_followed_by_another_life_after_growing_delays() -> None:
    supervisor, clock, events = make()
    supervisor.add(Part("a", events, crashes=5))
    assert run(supervisor, lambda: events.count("run a") == 6) == 0
    assert events.count("run a") == 6
    assert events.count("start a") == 1
    assert supervisor.crashes == 5
    for waited_s, full_s in zip(clock.waits, (0.1, 0.2, 0.4, 0.8, 1.6), strict=True):
        assert 0.75 * full_s <= waited_s <= full_s


def test_sixth_crash_within_a_minute_ends_all_in_order_with_status_1() -> None:
    supervisor, _, events = make()
    supervisor.add(Part("sound", events))
    supervisor.add(Part("sick", events, crashes=100))
    assert supervisor.run() == 1
    assert events.count("run sick") == 6
    assert events[-4:] == ["stop sick", "stop sound", "close sick", "close sound"]


def test_crashes_that_are_far_apart_are_forgotten() -> None:
    supervisor, clock, events = make(crash_period_s=60.0)
    part = Part("a", events, crashes=20)
    plain_run = part.run

    def run_for_a_while() -> None:
        clock.now_s += 61.0
        plain_run()

    part.run = run_for_a_while  # type: ignore[method-assign]
    supervisor.add(part)
    assert run(supervisor, lambda: part.crashes == 0) == 0
    assert len(clock.waits) == 20
    assert max(clock.waits) <= 0.1


class Owner(Part):
    """Has helpers that fail in its first life."""

    helpers = 1
    let_out: type[BaseException] = ValueError

    def run(self) -> None:
        self.events.append(f"run {self.name}")
        if self.events.count(f"run {self.name}") == 1:
            for number in range(self.helpers):
                self.supervisor.spawn(self.fail, name=f"helper {number}", owner=self)
            self.supervisor.spawn(self.live_on, name="bystander", owner=self)
        self.stop.wait()

    def fail(self) -> None:
        raise self.let_out("a bug in a helper")

    def live_on(self) -> None:
        try:
            gevent.sleep(60)
        finally:
            self.events.append("bystander ended")


@pytest.mark.parametrize("helpers", [1, 2, 3])
def test_helpers_that_fail_restart_their_owner_and_end_with_it(helpers: int) -> None:
    supervisor, _, events = make()
    owner = Owner("a", events)
    owner.helpers = helpers
    supervisor.add(owner)
    assert run(supervisor, lambda: events.count("run a") == 2) == 0
    assert events.count("run a") == 2
    assert "bystander ended" in events


LET_OUT: list[type[BaseException]] = [
    gevent.GreenletExit, SystemExit, asyncio.CancelledError, GeneratorExit, gevent.Timeout, BaseException,
]


@pytest.mark.parametrize("kind", LET_OUT)
def test_whatever_an_authors_code_lets_out_is_a_crash_and_too_many_end_all_in_order(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, _, events = make()
    supervisor.add(Part("sound", events))
    supervisor.add(LetsOut("sick", events, kind))
    with gevent.Timeout(10, AssertionError("it ended in silence")):
        assert supervisor.run() == 1
    assert events.count("run sick") == 6
    assert events[-4:] == ["stop sick", "stop sound", "close sick", "close sound"]
    assert kind.__name__ in caplog.text


@pytest.mark.parametrize("kind", LET_OUT)
def test_whatever_a_helper_lets_out_is_its_owners_crash(kind: type[BaseException]) -> None:
    supervisor, _, events = make()
    owner = Owner("a", events)
    owner.let_out = kind
    supervisor.add(owner)
    assert run(supervisor, lambda: events.count("run a") == 2) == 0
    assert (events.count("run a"), supervisor.crashes) == (2, 1)


@pytest.mark.parametrize("when", ["stop_service", "close"])
@pytest.mark.parametrize("kind", LET_OUT)
def test_whatever_is_let_out_at_the_stop_keeps_no_other_from_saving_its_data(
    kind: type[BaseException], when: str
) -> None:
    supervisor, _, events = make()
    supervisor.add(Part("first", events))
    sick = Part("sick", events)
    sound = getattr(sick, when)

    def let_out() -> None:
        sound()
        raise kind

    setattr(sick, when, let_out)
    supervisor.add(sick)
    assert run(supervisor) == (1 if when == "close" else 0)
    assert events[-4:] == ["stop sick", "stop first", "close sick", "close first"]


def test_part_that_exits_while_it_begins_ends_those_that_were_prepared() -> None:
    supervisor, _, events = make()
    supervisor.add(Part("first", events))
    sick = Part("sick", events)
    sick.start_service = lambda: (_ for _ in ()).throw(SystemExit(7))  # type: ignore[method-assign]
    supervisor.add(sick)
    with pytest.raises(SystemExit):
        supervisor.run()
    assert events == ["start first", "close first"]


@pytest.mark.parametrize("end", [lambda job: job.kill(), lambda job: gevent.killall([job])])
def test_greenlet_that_is_killed_from_outside_has_not_failed(end: Any) -> None:
    supervisor, _, events = make()
    seen: list[BaseException] = []

    class Kills(Part):
        def run(self) -> None:
            super_run = super().run
            helper = self.supervisor.spawn(self.wait, name="helper", owner=self)
            gevent.sleep(0)
            end(helper)
            super_run()

        def wait(self) -> None:
            try:
                gevent.sleep(60)
            except BaseException as exc:
                seen.append(exc)
                raise

    supervisor.add(Kills("a", events))
    assert run(supervisor, lambda: "run a" in events) == 0
    assert (events.count("run a"), supervisor.crashes) == (1, 0)
    assert [type(exc) for exc in seen] == [Ended]


class LetsOut(Part):
    def __init__(self, name: str, events: list[str], kind: type[BaseException]) -> None:
        super().__init__(name, events)
        self._kind = kind

    def run(self) -> None:
        self.events.append(f"run {self.name}")
        raise self._kind


class Hanging(Part):
    def run(self) -> None:
        Event().wait()


class Join:
    """A stop's clock, on which a part that hangs uses up exactly the time that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.given_s: list[float] = []
        stop = self

        class Life(Job):
            is_ended = False

            def kill(self, *args: Any, **options: Any) -> None:
                self.is_ended = True
                super().kill(*args, **options)

            def join(self, timeout: float | None = None) -> None:
                assert timeout is not None, "every wait ends"
                if self.is_ended:
                    return super().join(timeout)
                stop.given_s.append(round(timeout, 6))
                super().join(timeout=0.01)
                if not self.dead:
                    stop.now_s += timeout
                return None

        monkeypatch.setattr(supervisor_module, "Job", Life)

    def __call__(self) -> float:
        return self.now_s


def test_part_that_hangs_is_ended_after_an_equal_share_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    clock = Join(monkeypatch)
    supervisor = Supervisor(stop_timeout_s=4.0, clock=clock)
    for part in (Part("journal", events), Hanging("client", events), Part("sound", events), Hanging("source", events)):
        supervisor.add(part)
    assert run(supervisor) == 0
    # 4 s among four; what the second did not need is the next ones'.
    assert clock.given_s == [1.0, 1.0, 1.5, 1.5]
    assert events[-8:] == [
        "stop source", "stop sound", "stop client", "stop journal",
        "close source", "close sound", "close client", "close journal",
    ]  # fmt: skip


def test_part_gets_a_moment_to_end_when_the_budget_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    clock = Join(monkeypatch)
    supervisor = Supervisor(stop_timeout_s=1.0, clock=clock)
    supervisor.add(Part("journal", events))
    supervisor.add(Late("late", events, clock))
    assert run(supervisor) == 0
    assert clock.given_s == [0.5, supervisor_module._KILL_GRACE_S]
    assert events[-4:] == ["stop late", "stop journal", "close late", "close journal"]


class Late(Part):
    """Blocks the loop for longer than the whole budget when it is asked to stop."""

    def __init__(self, name: str, events: list[str], clock: Join) -> None:
        super().__init__(name, events)
        self._clock = clock

    def run(self) -> None:
        super().run()
        self._clock.now_s += 5.0


def test_escalation_asks_all_to_stop_once_and_keeps_the_first_status() -> None:
    supervisor, _, events = make()
    supervisor.add(Part("sick", events, crashes=100))
    supervisor.add(Part("sick too", events, crashes=100))
    assert supervisor.run() == 1
    supervisor.stop(3)
    assert supervisor.exit_status == 1
    assert events.count("stop sick") == events.count("stop sick too") == 1


def test_crash_while_stopping_is_no_other_life() -> None:
    supervisor, _, events = make()
    part = CrashesAtTheEnd("a", events)
    supervisor.add(part)
    assert run(supervisor, lambda: "run a" in events) == 0
    assert (events.count("run a"), supervisor.crashes) == (1, 0)


class CrashesAtTheEnd(Part):
    def run(self) -> None:
        super().run()
        raise ValueError("a bug at the end")


class Failing(Part):
    def stop_service(self) -> None:
        super().stop_service()
        raise OSError("can't be asked")


def test_handler_that_can_not_be_asked_to_stop_keeps_no_other_from_saving_its_data() -> None:
    supervisor, _, events = make()
    supervisor.add(Part("first", events))
    supervisor.add(Failing("failing", events))
    assert run(supervisor) == 0
    assert events[-4:] == ["stop failing", "stop first", "close failing", "close first"]


class Unable(Part):
    def start_service(self) -> None:
        raise StartError("in use")


def test_part_that_can_not_begin_ends_those_that_were_prepared_and_none_ever_runs() -> None:
    supervisor, _, events = make()
    supervisor.add(Part("first", events))
    supervisor.add(Unable("unable", events))
    with pytest.raises(StartError, match="in use"):
        supervisor.run()
    assert events == ["start first", "close first"]


def test_delays_double_up_to_the_longest_and_are_shortened_by_a_quarter_at_most() -> None:
    longest, shortest = backoff_delays(1, 5, lambda: 0.0), backoff_delays(1, 5, lambda: 1.0)
    assert [next(longest) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [next(shortest) for _ in range(5)] == [0.75, 1.5, 3, 3.75, 3.75]
