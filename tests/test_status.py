"""What a connector tells of itself: the pure parts in-process, the messages on the real broker."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from tests.support.bus import Bus, Message
from tests.support.connector import ConnectorProcess
from tests.support.proxy import TcpProxy
from tests.support.wait import wait_until
from vigiloconn.errors import BusRefused
from vigiloconn.handlers.base import Handler
from vigiloconn.interfaces import Batch, Level, Problem
from vigiloconn.options import parse_settings
from vigiloconn.status import REQUIRED, StatusPublisher, describe_state, machine_name, merge_figures, process_memory
from vigiloconn.supervisor import Supervisor

_SERVICE = "vigilo-connector-status_connector-1"
_FIGURES = {*REQUIRED, "process_rss", "process_uss"}
#: A period that does not end within a test.
_NEVER_S = 3600


class Counting(Handler):
    """A handler with figures and nothing else."""

    def __init__(self, name: str, **figures: float) -> None:
        self.name = name
        self._figures = figures

    def stats(self) -> dict[str, float]:
        return self._figures


# -- pure ------------------------------------------------------------------------------------------------------


def warning(text: str) -> Problem:
    return Problem("some-warning", Level.WARNING, text)


def test_nothing_wrong_is_ok_and_running() -> None:
    assert describe_state([]) == (0, "running")


def test_the_state_is_that_of_the_worst_problem_and_names_all_the_worst_first() -> None:
    problems = [warning("bus away"), Problem("disk-full", Level.CRITICAL, "disk full"), warning("bus away")]
    assert describe_state(problems) == (2, "disk full, bus away")


@pytest.mark.parametrize("bad", [";", "|", "\n", "\r", "\\n", "\0", "\x85", "\u2028"])
def test_a_text_can_not_break_out_of_its_field(bad: str) -> None:
    _, text = describe_state([warning(f"a{bad}b")])
    assert not set(text) & set(";|\n\r\\\0\x85\u2028")
    assert text[0] == "a"
    assert text[-1] == "b"


def test_a_state_stays_one_short_line_however_many_problems_there_are() -> None:
    code, text = describe_state([warning(f"problem {number} " + "x" * 50) for number in range(1000)])
    assert code == 1
    assert len(text) <= 400
    assert text.endswith("...")


def test_a_figure_keeps_its_name_for_the_first_source_and_gets_the_handlers_for_others() -> None:
    sources = [
        Counting("publisher", sent=1, parked=2), Counting("journal", parked=3, backup=4),
        Counting("client (consume)", sent=5), Counting("client (consume)", sent=6),
    ]  # fmt: skip
    assert merge_figures(sources) == {
        "sent": 1, "parked": 2, "journal_parked": 3, "backup": 4, "client_consume_sent": 5, "client_consume_2_sent": 6,
    }  # fmt: skip


def test_memory_is_what_the_process_really_holds() -> None:
    before = process_memory()
    ballast = bytearray(b"x" * (64 << 20))
    after = process_memory()
    del ballast
    assert after["process_uss"] - before["process_uss"] > 50 << 20
    assert after["process_rss"] >= after["process_uss"] > 0


def test_a_loopback_name_is_not_taken_for_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost.localdomain")
    monkeypatch.setattr(socket, "gethostname", lambda: "srv1")
    assert machine_name() == "srv1"
    monkeypatch.setattr(socket, "getfqdn", lambda: "srv1.example.com")
    assert machine_name() == "srv1.example.com"


class Broken(Counting):
    """A part whose author did not think of everything."""

    error: BaseException | None = None
    found: Any = ()

    def stats(self) -> dict[str, float]:
        if self.error is not None:
            raise self.error
        return super().stats()

    def problems(self) -> list[Problem]:
        if self.error is not None:
            raise self.error
        return self.found  # type: ignore[no-any-return]


def _status_of(*sources: Handler) -> StatusPublisher:
    return StatusPublisher(parse_settings("[connector]\nhostname = srv1\n"), FullSink(), sources)


@pytest.mark.parametrize("error", [ValueError("a\nbug"), KeyError(1), SystemExit(3), gevent.GreenletExit()])
def test_part_that_can_not_be_asked_is_a_problem_of_its_own_and_the_others_are_reported(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Broken("theirs", lines=1), Counting("ours", sent=7)
    status = _status_of(broken, sound)
    broken.error = error
    assert status.figures()["sent"] == 7
    for _ in range(3):
        code, text = status.state()
        assert code == 1
        assert "theirs does not tell its state: problems() failed" in text
        assert "stats() failed" in text
        assert text.isprintable()
    assert len(caplog.records) == 2
    broken.error = None
    assert status.figures()["lines"] == 1
    assert status.state() == (0, "running")


@pytest.mark.parametrize("found", [None, ["text"], [("name", 7, "text")], 5])
def test_problems_that_are_none_are_a_problem(found: Any) -> None:
    broken = Broken("theirs")
    broken.found = found
    code, text = _status_of(broken).state()
    assert code == 1
    assert "theirs does not tell its state" in text


@pytest.mark.parametrize("value", [None, "7", [1]])
def test_figure_that_is_no_number_is_not_sent(value: Any) -> None:
    status = _status_of(Counting("theirs", lines=value), Counting("ours", sent=7))
    figures = status.figures()
    assert figures["sent"] == 7
    assert "lines" not in figures
    assert "theirs does not tell its state: stats() failed" in status.state()[1]


class FullSink:
    """A journal without room until `room` is set."""

    def __init__(self) -> None:
        self.room = Event()
        self.batches: list[Batch] = []

    def put(self, batch: Batch) -> None:
        self.room.wait()
        self.batches.append(batch)


def test_a_journal_without_room_does_not_hold_the_status_up() -> None:
    settings = parse_settings("[connector]\nstatus_period = 0.05\nhostname = srv1\n")
    sink = FullSink()
    status = StatusPublisher(settings, sink)
    status.client = Counting("client")  # type: ignore[assignment]
    status.client.connection = None
    supervisor = Supervisor(stop_timeout_s=1.0)
    supervisor.add(status)
    running = gevent.spawn(supervisor.run)
    try:
        _wait_on_hub(lambda: status.stats()["figures_skipped"] >= 3 * len(_FIGURES))
        assert not sink.batches
        sink.room.set()
        # One batch has waited; from now on there is room for each.
        _wait_on_hub(lambda: len(sink.batches) >= 3)
    finally:
        supervisor.stop()
        running.join(10)
    assert running.value == 0


class ScriptedClient(Handler):
    """Stands for the client: what is sent waits for an answer that the test gives."""

    def __init__(self) -> None:
        self.connection: Any = SimpleNamespace(blocked=False)
        self.sent: list[str] = []
        self.answers: list[AsyncResult[None]] = []

    def send(self, exchange: str, key: str, message: dict[str, Any], **options: Any) -> AsyncResult[None]:
        self.sent.append(message["value"].removeprefix("srv1;here;"))
        self.answers.append(AsyncResult())
        return self.answers[-1]


class RecordingClient(Handler):
    """Stands for the client: notes the exchange and the time to live of what is sent."""

    def __init__(self) -> None:
        self.connection: Any = SimpleNamespace(blocked=False)
        self.sent: list[tuple[str, int | None]] = []

    def send(self, exchange: str, key: str, message: dict[str, Any], ttl_ms: int | None) -> AsyncResult[None]:
        self.sent.append((exchange, ttl_ms))
        return AsyncResult()


class Troubled(Handler):
    """A handler that has the problems that a test gives it."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def problems(self) -> list[Problem]:
        return self.found


class Told:
    """A status publisher that is ticked by hand."""

    def __init__(self) -> None:
        settings = parse_settings("[connector]\nhostname = srv1\nstatus_service = here\n")
        self.client, self.source = ScriptedClient(), Troubled()
        self.status = StatusPublisher(settings, FullSink(), [self.source])
        self.status.client = self.client  # type: ignore[assignment]
        self._running = gevent.spawn(self.status.run)
        gevent.sleep(0)

    def tick(self) -> list[str]:
        """Return all that was sent up to now."""
        self.status.tick()
        # The event's waiters are called one round of the hub later.
        for _ in range(3):
            gevent.sleep(0)
        return self.client.sent

    def end(self) -> None:
        self.status.stop_service()
        self._running.join(5)
        assert self._running.successful()


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.end()


@pytest.mark.parametrize(
    ("override", "sent"),
    [
        ("", []),
        ("perf:60", []),
        ("perf", [("perf", None)]),
        ("perf:5", [("perf", 5000)]),
        ("own", [("own", None)]),
        ("own:7", [("own", 7000)]),
    ],
)
def test_an_exchange_of_their_own_gives_the_figures_its_ttl_and_no_other(
    override: str, sent: list[tuple[str, int | None]]
) -> None:
    text = f"[connector]\nhostname = h\nself_monitoring_perf_exchange = {override}\n[publications]\nperf = perf:60\n"
    sink, client = FullSink(), RecordingClient()
    sink.room.set()
    status = StatusPublisher(parse_settings(text), sink)
    status.client = client  # type: ignore[assignment]
    status.supervisor = Supervisor()
    status._send_figures()
    gevent.sleep(0)
    assert list(dict.fromkeys(client.sent)) == sent
    assert bool(sink.batches) == (not sent), "they go through the journal, where the type decides"


@pytest.mark.parametrize(
    ("override", "sent"), [("", ("nagios", 60_000)), ("own", ("own", None)), ("own:7", ("own", 7000))]
)
def test_an_exchange_of_its_own_gives_the_state_its_ttl_and_no_other(
    override: str, sent: tuple[str, int | None]
) -> None:
    own = f"[connector]\nhostname = h\nself_monitoring_nagios_exchange = {override}\n"
    text = own + "[publications]\nnagios = nagios:60\n"
    client = RecordingClient()
    status = StatusPublisher(parse_settings(text), FullSink(), [source := Troubled()])
    status.client = client  # type: ignore[assignment]
    source.found = [warning("something")]
    status._send_state()
    assert client.sent == [sent]


def test_a_count_that_grows_is_no_change_of_state(told: Told) -> None:
    assert told.tick() == []
    told.source.found = [warning("3 messages are parked")]
    assert told.tick() == ["1;WARNING: 3 messages are parked"]
    told.client.answers[-1].set(None)
    told.source.found = [warning("4 messages are parked")]
    assert len(told.tick()) == 1
    told.source.found = [Problem("some-problem", Level.CRITICAL, "4 messages are parked")]
    assert told.tick()[1:] == ["2;CRITICAL: 4 messages are parked"]


def test_only_the_latest_state_is_sent_after_one_that_is_unanswered(told: Told) -> None:
    for text in ("one", "two", "three"):
        told.source.found = [warning(text)]
        told.tick()
    assert told.client.sent == ["1;WARNING: one"]
    told.client.answers[-1].set_exception(BusRefused("no such exchange", 404))
    assert told.tick() == ["1;WARNING: one", "1;WARNING: three"]


@pytest.mark.parametrize("how", ["away", "blocked"])
def test_no_state_is_sent_while_the_bus_does_not_take_it(told: Told, how: str) -> None:
    connection = told.client.connection
    told.client.connection = None if how == "away" else SimpleNamespace(blocked=True)
    told.source.found = [warning("bad")]
    assert told.tick() == []
    told.source.found = []
    told.client.connection = connection
    assert told.tick() == []


def _wait_on_hub(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.01)


# -- on the bus ------------------------------------------------------------------------------------------------


@pytest.fixture
def perf(bus: Bus) -> str:
    return bus.declare_queue("q-perf", bus.declare_exchange("perf"))


@pytest.fixture
def nagios(bus: Bus) -> str:
    return bus.declare_queue("q-nagios", bus.declare_exchange("nagios"))


@pytest.fixture
def telling(
    connector: Callable[..., ConnectorProcess], vhost: str, perf: str, nagios: str
) -> Callable[..., ConnectorProcess]:
    """A function that starts a connector whose host is `srv1`; `[connector]` settings by keyword."""

    def start(own: dict[str, object] | None = None, bus: dict[str, object] | None = None, **conn: object) -> Any:
        made = connector(
            vhost, bus=bus, name="tests.scenarios.status_connector:build",
            connector={"hostname": "srv1", "status_period": _NEVER_S, **conn},
        )
        if own:
            with made.settings_path.open("a", encoding="utf-8") as file:
                file.write("[connector-status_connector]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()))
        made.start()
        return made

    return start


def states(messages: list[Message]) -> list[str]:
    return [message.json()["value"] for message in messages]


def reports(messages: list[Message]) -> dict[str, float]:
    """Return datasource -> value, of which each comes once."""
    figures = {message.json()["datasource"]: message.json()["value"] for message in messages}
    assert len(figures) == len(messages)
    return figures


def take_report(bus: Bus, queue: str, at_least: int = len(_FIGURES)) -> list[Message]:
    """Return one report: its messages come at once, and the state's after them."""
    wait_until(lambda: bus.queue_depth(queue) >= at_least, 30, f"{at_least} figures in {queue}")
    previous = -1
    while previous != (depth := bus.queue_depth(queue)):
        previous = depth
        gevent.sleep(0.2)
    return bus.drain_all(queue)


def test_the_first_report_has_the_form_that_the_bus_knows(
    telling: Callable[..., ConnectorProcess], bus: Bus, perf: str, nagios: str
) -> None:
    telling()
    [state] = bus.drain(nagios, 1)
    body = state.json()
    assert isinstance(body.pop("timestamp"), int)
    assert body == {
        "type": "nagios", "cmdname": "PROCESS_SERVICE_CHECK_RESULT", "routing_key": "Vigilo",
        "value": f"srv1;{_SERVICE};0;OK: running",
    }  # fmt: skip
    assert (state.exchange, state.routing_key) == ("nagios", "Vigilo")
    messages = take_report(bus, perf)
    for message in messages:
        body = message.json()
        assert isinstance(body["timestamp"], int)
        assert isinstance(body["value"], (int, float))
        assert {**body, "timestamp": 0, "value": 0, "datasource": ""} == {
            "type": "perf", "host": "srv1", "routing_key": "Vigilo", "timestamp": 0, "value": 0, "datasource": "",
        }  # fmt: skip
        assert (message.exchange, message.routing_key) == ("perf", "Vigilo")
        assert message.properties["content_type"] == "application/json"
        assert message.properties["delivery_mode"] == 2
    figures = reports(messages)
    assert {f"{_SERVICE}-{name}" for name in _FIGURES} <= set(figures)
    assert figures[f"{_SERVICE}-connected"] == 1
    assert figures[f"{_SERVICE}-process_rss"] > 1e6


def test_figures_count_what_went_through_and_come_every_period(
    telling: Callable[..., ConnectorProcess], bus: Bus, perf: str
) -> None:
    bus.declare_queue("q", bus.declare_exchange("event"))
    one = telling(status_period=1)
    one.send(["event|1|h|s|OK|m"] * 7)
    one.sync()
    bus.drain("q", 7)
    seen: dict[str, list[float]] = {}

    def has_counted() -> bool:
        for body in (message.json() for message in bus.drain_all(perf)):
            seen.setdefault(body["datasource"].removeprefix(f"{_SERVICE}-"), []).append(body["value"])
        return len(seen.get("sent", [])) >= 3 and seen["sent"][-1] >= 7 + 2 * len(_FIGURES)

    wait_until(has_counted, 30, "three reports, and their own figures among those sent")
    assert seen["received"][-1] == 7
    assert seen["sent"] == sorted(seen["sent"])


def test_names_and_exchanges_can_be_set(
    telling: Callable[..., ConnectorProcess], bus: Bus, perf: str, nagios: str
) -> None:
    own_perf = bus.declare_queue("q-own-perf", bus.declare_exchange("own-perf"))
    own_nagios = bus.declare_queue("q-own-nagios", bus.declare_exchange("own-nagios"))
    telling(
        status_service="bus link", self_monitoring_perf_exchange="own-perf",
        self_monitoring_nagios_exchange="own-nagios",
    )  # fmt: skip
    assert states(bus.drain(own_nagios, 1)) == ["srv1;bus link;0;OK: running"]
    messages = take_report(bus, own_perf)
    assert {f"bus link-{name}" for name in _FIGURES} <= set(reports(messages))
    assert {(m.exchange, m.routing_key) for m in messages} == {("own-perf", "Vigilo")}
    assert bus.queue_depth(perf) == bus.queue_depth(nagios) == 0


def test_without_a_service_the_state_is_the_hosts(
    telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str
) -> None:
    telling(own={"state_of": "host"})
    [state] = bus.drain(nagios, 1)
    assert state.json()["cmdname"] == "PROCESS_HOST_CHECK_RESULT"
    assert state.json()["value"] == "srv1;0;OK: running"


def test_a_change_of_state_is_told_at_once_and_so_is_its_end(
    telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str
) -> None:
    # The exchange is tried again as soon as it is there, perhaps before its queue is.
    one = telling(when_unroutable="drop")
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};0;OK: running"]
    one.send("event|1|h|s|OK|m")
    [held] = states(bus.drain(nagios, 1))
    assert held.startswith(f"srv1;{_SERVICE};1;WARNING: exchange event is held, 1 messages wait: ")
    # Routed from its first moment on: what is tried before a queue is bound would be parked.
    bus.declare_queue("q", bus.declare_exchange("elsewhere"))
    routed = {"alternate-exchange": "elsewhere"}
    bus.channel.exchange_declare("event", "fanout", durable=True, auto_delete=False, arguments=routed)
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};0;OK: running"]


def test_parked_messages_are_a_warning(telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str) -> None:
    bus.declare_exchange("event")
    one = telling()
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};0;OK: running"]
    one.send("event|1|h|s|OK|m")
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};1;WARNING: 1 messages are parked"]


def test_a_connector_that_begins_in_a_bad_state_does_not_wait_to_say_so(
    telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str
) -> None:
    telling(own={"first_delay": _NEVER_S}, backup_file=":memory:")
    [state] = states(bus.drain(nagios, 1))
    assert state.startswith(f"srv1;{_SERVICE};1;WARNING: the journal is in memory only")


def test_an_outage_leaves_no_hole_in_the_figures_and_no_state_from_its_time(
    telling: Callable[..., ConnectorProcess], bus: Bus, perf: str, nagios: str, proxy: TcpProxy
) -> None:
    one = telling(bus={"hosts": proxy.address, "max_reconnect_delay": 1}, own={"first_delay": "0.1"}, status_period=1)
    bus.drain(nagios, 1)
    proxy.refuse()
    proxy.cut()
    one.wait_log("bus lost")
    bus.drain_all(nagios)
    wait_until(lambda: len(_reports_of_outage(one.journal_path)) >= 3, 30, "three reports in the journal")
    assert bus.queue_depth(nagios) == 0
    proxy.accept()
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};0;OK: running"]
    away: list[int] = []

    def has_all() -> bool:
        bodies = [message.json() for message in bus.drain_all(perf)]
        away.extend(body["timestamp"] for body in bodies if _is_of_outage(body))
        return len(away) >= 3

    wait_until(has_all, 30, "the figures of the outage")
    assert away == sorted(away)
    # One a second, none of them missing; a busy machine may be late by a second.
    assert all(0 < later - earlier <= 2 for earlier, later in pairwise(away))


def test_the_end_of_an_outage_is_a_change_of_state(
    telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str, proxy: TcpProxy
) -> None:
    telling(bus={"hosts": proxy.address, "max_reconnect_delay": 1})
    bus.drain(nagios, 1)
    proxy.cut()
    assert states(bus.drain(nagios, 1)) == [f"srv1;{_SERVICE};0;OK: running"]


def _is_of_outage(body: dict[str, Any]) -> bool:
    return bool(body["datasource"] == f"{_SERVICE}-connected" and body["value"] == 0)


def _reports_of_outage(journal: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=5)) as db:
        rows = [row[0] for row in db.execute("SELECT msg FROM tobus")]
    return [row for row in rows if _is_of_outage(json.loads(row))]


def test_figures_with_an_exchange_of_their_own_wait_out_an_outage_too(
    telling: Callable[..., ConnectorProcess], bus: Bus, nagios: str, proxy: TcpProxy
) -> None:
    own_perf = bus.declare_queue("q-own-perf", bus.declare_exchange("own-perf"))
    one = telling(
        bus={"hosts": proxy.address, "max_reconnect_delay": 1}, own={"first_delay": "0.1"}, status_period=1,
        self_monitoring_perf_exchange="own-perf",
    )  # fmt: skip
    bus.drain(nagios, 1)
    proxy.refuse()
    proxy.cut()
    one.wait_log("bus lost")
    bus.drain_all(own_perf)
    wait_until(lambda: one.log_text().count("can't connect to") >= 3, 30, "some seconds of outage")
    proxy.accept()

    seen: list[dict[str, Any]] = []

    def has_away_figure() -> bool:
        seen.extend(message.json() for message in bus.drain_all(own_perf))
        return any(map(_is_of_outage, seen))

    wait_until(has_away_figure, 30, "a figure from the outage")
