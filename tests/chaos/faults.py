"""The faults: how each begins and how it is cured. Knows the stage, not when or how often a fault strikes.

A fault bars the way to the bus while it lasts unless it `lets_pass`. One that `may_park` can leave a message without a
queue; under one that `may_refuse` a writer may be told `failed`; under one that `may_fail_start` a start may end with
status 1. Faults of one `place` exclude each other.
"""

from __future__ import annotations

import random
import signal
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos import points
from tests.chaos.cluster import SIZE, How
from tests.chaos.stage import CLUSTER, DIRECTIONS, EXCHANGES, HANDLER, LINES, PIPE, STATUS, Stage
from tests.support.bus import Bus

#: How long the orderly stop may take: `stop_timeout`, and as much again for a busy machine.
STOP_S = 10.0
FULL_QUEUE = "full"
HOUR_S = 3600.0
#: RabbitMQ's own `max_message_size`.
_LARGEST_BYTES = 128 << 20

Argument = Any


def _nothing(stage: Stage, argument: Argument) -> None:
    pass


def _no_argument(chance: random.Random) -> Argument:
    return None


@dataclass(frozen=True, slots=True)
class Fault:
    """How a fault begins and ends. `draw` gives what both are called with."""

    place: str
    hurt: Callable[[Stage, Argument], None]
    cure: Callable[[Stage, Argument], None] = _nothing
    draw: Callable[[random.Random], Argument] = _no_argument
    is_slow: bool = False
    """Its beginning and end take seconds: not for a run within `make test`."""
    lets_pass: bool = False
    may_park: bool = False
    may_refuse: bool = False
    may_fail_start: bool = False
    needs_mount: bool = False
    ends_life: bool = False
    """The connector's process ends."""
    flows_on: bool = False
    """The way must be free again while it lasts."""
    only: Sequence[str] = DIRECTIONS
    """The directions in which it means something."""


# -- the broker -------------------------------------------------------------------------------------------------


def _disk_alarm(stage: Stage, _: Argument) -> None:
    stage.node.ctl("set_disk_free_limit", "mem_relative", "1000")


def _end_disk_alarm(stage: Stage, _: Argument) -> None:
    stage.node.ctl("set_disk_free_limit", "50MB")


def _refuse_all(stage: Stage, _: Argument) -> None:
    stage.node.suspend_listeners()
    stage.node.close_all_connections()


# -- what is on the bus -----------------------------------------------------------------------------------------


def _some_exchange(chance: random.Random) -> str:
    return chance.choice(EXCHANGES)


def _delete_exchange(stage: Stage, exchange: Argument) -> None:
    stage.on_bus(lambda bus: bus.delete_exchange(exchange))


def _make_exchange(stage: Stage, exchange: Argument) -> None:
    stage.on_bus(lambda bus: stage.make_exchange(bus, exchange))


def _unbind(stage: Stage, exchange: Argument) -> None:
    stage.on_bus(lambda bus: bus.unbind(exchange, exchange, "#"))


def _bind(stage: Stage, exchange: Argument) -> None:
    stage.on_bus(lambda bus: bus.bind(exchange, exchange, "#"))


def _add_full_queue(stage: Stage, exchange: Argument) -> None:
    def act(bus: Bus) -> None:
        bus.declare_queue(FULL_QUEUE, exchange, "#", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    stage.on_bus(act)


def _delete_full_queue(stage: Stage, _: Argument) -> None:
    stage.on_bus(lambda bus: bus.delete_queue(FULL_QUEUE))


def _withdraw_permission(stage: Stage, _: Argument) -> None:
    stage.node.set_permissions(stage.user, write="^$", vhost=stage.vhost)
    # A channel remembers what was allowed.
    stage.node.close_all_connections()


def _give_permission(stage: Stage, _: Argument) -> None:
    stage.node.set_permissions(stage.user, vhost=stage.vhost)


def _allow_small(stage: Stage, size: Argument) -> None:
    stage.node.eval(f"application:set_env(rabbit, max_message_size, {size})")
    # A channel remembers what was allowed.
    stage.node.close_all_connections()


def _allow_large(stage: Stage, _: Argument) -> None:
    _allow_small(stage, _LARGEST_BYTES)


# -- the way between --------------------------------------------------------------------------------------------


def _cut(stage: Stage, how: Argument) -> None:
    stage.proxy.cut(how)


def _black_hole_ends(stage: Stage, _: Argument) -> None:
    stage.proxy.cut()
    stage.proxy.resume()


def _unswallow(stage: Stage, _: Argument) -> None:
    stage.proxy.swallow("nothing")
    # What was swallowed never comes: on a real way such a connection does not go on.
    stage.proxy.cut()


def _refuse(stage: Stage, _: Argument) -> None:
    stage.proxy.refuse()
    stage.proxy.cut()


# -- the connector ----------------------------------------------------------------------------------------------


def _kill(stage: Stage, _: Argument) -> None:
    stage.keeper.kill()


def _release(stage: Stage, _: Argument) -> None:
    stage.keeper.release()


def _stop(stage: Stage, _: Argument) -> None:
    status = stage.keeper.stop(STOP_S)
    if status != 0:
        raise AssertionError(f"the orderly stop: expected status 0 within {STOP_S:g} s, got {status}")


def _draw_point(*groups: tuple[points.Point, ...]) -> Callable[[random.Random], Argument]:
    names = [point.name for group in groups for point in group]
    return lambda chance: (chance.choice(names), round(10 ** chance.uniform(0, 2)))


def _arm(stage: Stage, argument: Argument) -> None:
    name, passages = argument
    stage.controls.arm(points.number(name), passages)


def _disarm(stage: Stage, _: Argument) -> None:
    stage.controls.disarm()


def _die_at_start(stage: Stage, argument: Argument) -> None:
    stage.keeper.kill()
    stage.controls.arm(points.number(argument), 1)
    stage.keeper.release()


def _die_at_stop(stage: Stage, argument: Argument) -> None:
    stage.controls.arm(points.number(argument), 1)
    stage.keeper.stop(STOP_S)


def _disarm_and_release(stage: Stage, _: Argument) -> None:
    stage.controls.disarm()
    stage.keeper.release()


def _freeze(stage: Stage, _: Argument) -> None:
    stage.keeper.signal(signal.SIGSTOP)


def _thaw(stage: Stage, _: Argument) -> None:
    stage.keeper.signal(signal.SIGCONT)


# -- the journal's disk, its lock, Nagios, the clock -----------------------------------------------------------


def _fill(stage: Stage, _: Argument) -> None:
    assert stage.disk is not None
    stage.disk.fill()


def _free(stage: Stage, _: Argument) -> None:
    assert stage.disk is not None
    stage.disk.free()


def _slow(stage: Stage, commit_s: Argument) -> None:
    stage.controls.commit_stall_s = commit_s


def _fast(stage: Stage, _: Argument) -> None:
    stage.controls.commit_stall_s = 0.0


def _lock(stage: Stage, _: Argument) -> None:
    path = stage.connector.journal_path
    intruder = sqlite3.connect(path, timeout=20.0, isolation_level=None, check_same_thread=False)
    try:
        intruder.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        # A connector that was stopped in the middle of a commit has the lock.
        intruder.close()
        return
    stage.intruders.append(intruder)


def _unlock(stage: Stage, _: Argument) -> None:
    while stage.intruders:
        intruder = stage.intruders.pop()
        intruder.execute("ROLLBACK")
        intruder.close()


def _put_outside(stage: Stage, count: Argument) -> None:
    assert stage.outside is not None
    stage.outside.put(count)


def _pause_reader(stage: Stage, _: Argument) -> None:
    assert stage.reader is not None
    stage.reader.pause()


def _resume_reader(stage: Stage, _: Argument) -> None:
    assert stage.reader is not None
    stage.reader.resume()


def _jump(stage: Stage, by_s: Argument) -> None:
    stage.controls.clock_offset_s += by_s


# -- a cluster --------------------------------------------------------------------------------------------------


def _draw_loss(count: int, hows: Sequence[How]) -> Callable[[random.Random], Argument]:
    return lambda chance: tuple((number, chance.choice(hows)) for number in chance.sample(range(SIZE), count))


def _lose(stage: Stage, losses: Argument) -> None:
    for number, how in losses:
        stage.cluster.lose(number, how)
    if len(losses) <= SIZE // 2:
        _wait_usable(stage)


def _regain(stage: Stage, losses: Argument) -> None:
    # The last one that was lost knows the most, and the others wait for it.
    for number, _ in reversed(losses):
        stage.cluster.regain(number)
    _wait_usable(stage)


def _restart_in_turn(stage: Stage, _: Argument) -> None:
    for number in range(SIZE):
        stage.cluster.lose(number, "stopped")
        stage.cluster.regain(number)
        _wait_usable(stage)


def _wait_usable(stage: Stage) -> None:
    stage.cluster.wait_usable(stage.vhost, (*EXCHANGES, STATUS))


FAULTS: dict[str, Fault] = {
    "one node lost": Fault(
        "broker", _lose, _regain, _draw_loss(1, ("killed", "stopped", "frozen")), only=(CLUSTER,), flows_on=True),
    "majority lost": Fault("broker", _lose, _regain, _draw_loss(2, ("killed", "stopped")), only=(CLUSTER,)),
    "nodes restarted in turn": Fault("broker", _restart_in_turn, only=(CLUSTER,)),
    "broker stopped in order": Fault(
        "broker", lambda stage, _: stage.node.stop(), lambda stage, _: stage.node.start(), is_slow=True),
    "broker killed": Fault(
        "broker", lambda stage, _: stage.node.kill(), lambda stage, _: stage.node.start(), is_slow=True),
    "broker frozen": Fault(
        "broker", lambda stage, _: stage.node.pause(), lambda stage, _: stage.node.resume()),
    "broker under a memory alarm": Fault(
        "broker", lambda stage, _: stage.node.memory_alarm(True), lambda stage, _: stage.node.memory_alarm(False)),
    "broker under a disk alarm": Fault("broker", _disk_alarm, _end_disk_alarm, is_slow=True),
    "all connections closed": Fault("broker", lambda stage, _: stage.node.close_all_connections()),
    "connections closed and refused": Fault(
        "broker", _refuse_all, lambda stage, _: stage.node.resume_listeners()),
    # Between the exchange and its binding there is a moment in which nobody is bound.
    "exchange deleted and made again": Fault(
        "broker", _delete_exchange, _make_exchange, _some_exchange, may_park=True, only=(LINES,)),
    "nobody bound": Fault("broker", _unbind, _bind, _some_exchange, may_park=True, only=(LINES,)),
    "queue that refuses": Fault(
        "broker", _add_full_queue, _delete_full_queue, _some_exchange, only=(LINES,)),
    "permission withdrawn": Fault("broker", _withdraw_permission, _give_permission, only=(LINES,)),
    "broker takes small messages only": Fault(
        "broker", _allow_small, _allow_large, lambda chance: chance.choice((400, 1500, 5000)), may_park=True,
        only=(LINES,)),
    "connection cut": Fault("way", _cut, draw=lambda chance: chance.choice(("rst", "fin"))),
    "connection hangs": Fault(
        "way", lambda stage, _: stage.proxy.pause(), lambda stage, _: stage.proxy.resume()),
    "black hole": Fault("way", lambda stage, _: stage.proxy.pause(), _black_hole_ends),
    "way refused": Fault("way", _refuse, lambda stage, _: stage.proxy.accept()),
    "way with a delay": Fault(
        "way", lambda stage, ms: stage.proxy.delay(ms), lambda stage, _: stage.proxy.delay(0),
        lambda chance: chance.randint(50, 800)),
    "narrow way": Fault(
        "way", lambda stage, rate: stage.proxy.rate(rate), lambda stage, _: stage.proxy.rate(0),
        lambda chance: chance.randint(5, 200) * 1000),
    "confirms swallowed": Fault("way", lambda stage, _: stage.proxy.swallow("confirms"), _unswallow),
    "answers swallowed": Fault("way", lambda stage, _: stage.proxy.swallow("answers"), _unswallow),
    "connector killed": Fault("connector", _kill, _release, ends_life=True),
    "connector killed at a point": Fault(
        "connector", _arm, _disarm, _draw_point(points.PUBLISHING, points.IN_TROUBLE), ends_life=True,
        only=(LINES, CLUSTER)),
    "connector killed at a point of consuming": Fault(
        "connector", _arm, _disarm, _draw_point(points.CONSUMING), ends_life=True, only=(HANDLER, PIPE)),
    "connector killed at the pipe": Fault(
        "connector", _arm, _disarm, _draw_point(points.PIPING), ends_life=True, only=(PIPE,)),
    "connector killed at its start": Fault(
        "connector", _die_at_start, _disarm_and_release,
        lambda chance: chance.choice([point.name for point in points.STARTING]), ends_life=True,
        only=(LINES, PIPE)),
    "connector killed at its stop": Fault(
        "connector", _die_at_stop, _disarm_and_release,
        lambda chance: chance.choice([point.name for point in points.STOPPING]), ends_life=True,
        only=(LINES, PIPE)),
    "connector stopped in order": Fault("connector", _stop, _release, ends_life=True),
    "connector frozen": Fault("connector", _freeze, _thaw),
    "disk full": Fault("disk", _fill, _free, needs_mount=True, may_refuse=True, only=(LINES,)),
    "disk slow": Fault(
        "disk", _slow, _fast, lambda chance: round(chance.uniform(0.05, 1.5), 2), only=(LINES,)),
    "journal locked by another program": Fault("disk", _lock, _unlock, may_fail_start=True, only=(LINES,)),
    "messages of another program in the journal": Fault(
        "outside", _put_outside, draw=lambda chance: chance.randint(1, 200), lets_pass=True, only=(LINES,)),
    "Nagios reads nothing": Fault("nagios", _pause_reader, _resume_reader, only=(PIPE,)),
    "clock jumps": Fault(
        "clock", _jump, draw=lambda chance: chance.choice((24, 1, -1, -24)) * HOUR_S, lets_pass=True),
}
