"""The examples of docs/authors.md on a bus in memory, beside the world that each talks to."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import pywsgi

from examples import bridge, echo, icinga, syslog
from vigiloconn.testing import MemoryBus, run_connector


class Icinga:
    """An API that answers as it is told, and notes what it is asked."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.server = pywsgi.WSGIServer(("127.0.0.1", 0), self._answer, log=None)
        self.server.start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        status = self.answers.pop(0) if self.answers and body else "200 OK"
        if body and status == "200 OK":
            gevent.sleep(0.01)
            self.results.append(json.loads(body))
        start_response(status, [("Content-Type", "application/json"), ("Retry-After", "0")])
        return [b"{}"]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Icinga]:
    # The program is patched as a whole; here the one module that the poster waits in is.
    monkeypatch.setattr(socket, "socket", gevent.socket.socket)
    monkeypatch.setattr(socket, "create_connection", gevent.socket.create_connection)
    made = Icinga()
    yield made
    made.server.stop()


def state(host: str, code: int) -> dict[str, Any]:
    return {"type": "state", "host": host, "service": "load", "code": str(code), "message": f"code {code}"}


def test_icinga_gets_each_hosts_states_in_order_and_what_it_does_not_know_is_a_dead_letter(api: Icinga) -> None:
    bus = MemoryBus()
    bus.declare_queue("states")
    for number in range(40):
        bus.publish("", "states", state(f"srv{number % 4}", number))
    api.answers = ["503 Busy", "404 Not Found"]
    settings = (
        "[bus]\nqueue = states\n[connector-icinga]\nuser = u\npassword = p\n"
        f"url = http://127.0.0.1:{api.server.server_port}\n"
    )
    with run_connector(icinga.build, settings, connector="icinga", bus=bus) as running:
        running.wait(lambda: bus.depth("states") == 0, "all posted", 30)
        assert bus.depth("states.dead") == 1
    assert len(api.results) == 39
    for host in range(4):
        codes = [each["exit_status"] for each in api.results if each["service"] == f"srv{host}!load"]
        assert codes == sorted(codes)


def test_the_bridge_keeps_order_keys_and_headers_through_a_loss_of_the_connection() -> None:
    bus = MemoryBus()
    bus.declare_queue("here")
    bus.declare_queue("there", bus.declare_exchange("far", "topic"), "#")
    settings = "[bus]\nqueue = here\n[bus:far]\n[connector-bridge]\nexchange = far\nsite = north\n"
    with run_connector(bridge.build, settings, connector="bridge", bus=bus) as running:
        for number in range(100):
            bus.publish("", "here", {"n": number}, application_headers={"n": number})
        running.wait(lambda: bus.depth("there") > 0)
        bus.lose()
        running.wait(lambda: bus.depth("here") == 0, "all taken", 20)
        found = bus.drain("there", bus.depth("there"))
    numbers = list(dict.fromkeys(each.json()["n"] for each in found))
    assert numbers == list(range(100))
    assert found[0].json() == {"n": 0, "site": "north"}
    assert (found[0].routing_key, found[0].headers["n"]) == ("here", 0)


def test_echo_has_its_setting_checked_before_anything_starts() -> None:
    with pytest.raises(Exception, match=r"\[connector-echo\] exchange: expected it"), run_connector(
        echo.build, "[bus]\nqueue = q\n", connector="echo"
    ):
        pass


@pytest.mark.parametrize(("line", "state_", "message"), [
    (b"<11>1 2026-01-01T00:00:00Z srv app - - - disk is full\n", "CRITICAL",
     "2026-01-01T00:00:00Z srv app - - - disk is full"),
    (b"<12>Jan  1 00:00:00 srv app: slow\n", "WARNING", "Jan  1 00:00:00 srv app: slow"),
    (b"no priority\n", "OK", "no priority"),
])  # fmt: skip
def test_a_line_of_syslog_is_an_event_whose_state_is_its_severity(line: bytes, state_: str, message: str) -> None:
    event = syslog.event_of(line, "10.0.0.1")
    assert (event["state"], event["message"], event["host"]) == (state_, message, "10.0.0.1")
