"""What `bus_session` and `apply_topology` do in a script. Run patched, by `tests/test_configure.py`."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.support.patched import hear, say
from vigiloconn.bus.session import bus_session
from vigiloconn.configure import Outcome, apply_topology
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.options import BusSettings, parse_settings
from vigiloconn.topology.wanted import Binding, Exchange, Queue, Topology

Bus = dict[str, Any]


def settings_of(bus: Bus) -> BusSettings:
    return parse_settings("[bus]\n" + "\n".join(f"{key} = {value}" for key, value in bus.items())).bus


def applies(bus: Bus) -> None:
    wanted = Topology((Exchange("e"),), (Queue("q"),), (Binding("b", "e", "q", "k"),))
    with bus_session(settings_of(bus), name="script") as connection:
        told: list[str] = []
        results = apply_topology(connection, wanted, report=lambda result: told.append(str(result)))
        assert [result.outcome for result in results] == [Outcome.CREATED] * 3
        assert told == ["exchange e: created", "queue q: created", "binding b: created"]
        again = apply_topology(connection, wanted)
        assert [result.outcome for result in again] == [Outcome.UNCHANGED, Outcome.UNCHANGED, Outcome.ENSURED]
        assert not any(result.is_failure for result in again)


def closes_after_an_error(bus: Bus) -> None:
    with pytest.raises(ZeroDivisionError), bus_session(settings_of(bus), name="script") as connection:
        raise ZeroDivisionError
    assert "closed by us" in str(connection.lost)
    with pytest.raises(BusDown):
        connection.open_channel()


def refuses_what_cannot_be_reached(bus: Bus) -> None:
    for change, error in (({"hosts": "127.0.0.1:1"}, BusDown), ({"password": "wrong"}, BusRefused)):
        with pytest.raises(error), bus_session(settings_of({**bus, **change}), name="script"):
            raise AssertionError("connected")


def declare_for_ever(channel: Any) -> None:
    # More than once: a broker may still answer what it had begun with when it was paused.
    while True:
        channel.queue_declare("", exclusive=True)


def is_lost(bus: Bus) -> None:
    with bus_session(settings_of(bus), name="script") as connection:
        channel = connection.open_channel()
        gevent.sleep(3.2)
        assert channel.queue_declare("", exclusive=True).queue
        say("ready")
        hear()
        with pytest.raises(BusDown, match="nothing heard"):
            declare_for_ever(channel)
