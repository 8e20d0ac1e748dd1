"""The file that a real Nagios writes: each result is on the bus once, in order, whatever ends when."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.nagios.feed import PATIENCE_S, SERVICES, Feed
from tests.nagios.objects import HOST, host, passive_host, service
from tests.nagios.process import GROUP, NagiosProcess
from tests.support.bus import Bus
from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

MakeFeed = Callable[..., Feed]


@pytest.fixture
def make_feed(rabbit: RabbitNode, vhost: str, bus: Bus, directory: Path) -> Iterator[MakeFeed]:
    """A function that makes and starts a Nagios and a connector; its arguments are the connector's settings."""
    for exchange in ("event", "state", "perf", "status"):
        bus.declare_queue(exchange, bus.declare_exchange(exchange))
    path = directory / "nagios" / "feed" / "results"
    path.parent.mkdir()

    with ExitStack() as stack:

        def make(
            *, reclaim: str = "keep", is_connector_started: bool = True, objects: str = "", main: str = "",
            **settings: object,
        ) -> Feed:
            connector = ConnectorProcess(
                directory / "connector",
                bus={"hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost},
                connector={
                    "socket_group": GROUP if os.geteuid() == 0 else os.getgid(),
                    "self_monitoring_nagios_exchange": "status", "self_monitoring_perf_exchange": "status", **settings,
                },
                nagios={"follow": path, "follow_reclaim": reclaim},
            )
            objects = objects or passive_host(SERVICES)
            nagios = NagiosProcess(directory / "nagios", objects, feed_path=path, main=main)
            stack.callback(connector.close)
            stack.callback(nagios.close)
            if is_connector_started:
                connector.start()
            nagios.start()
            return Feed(connector, nagios, bus, path)

        yield make


def test_results_and_their_metrics_are_on_the_bus(make_feed: MakeFeed, bus: Bus) -> None:
    feed = make_feed()
    feed.nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Load", 2, 'high: "9"|load=9.5;5 \'a b\'=1s')
    messages = [bus.drain(queue, count, PATIENCE_S) for queue, count in (("event", 1), ("state", 1), ("perf", 2))]
    bodies = [message.json() for each in messages for message in each]
    assert all(abs(int(body.pop("timestamp")) - time.time()) < 300 for body in bodies)
    assert bodies == [
        {"type": "event", "host": HOST, "service": "Load", "state": "CRITICAL", "message": 'high: "9"'},
        {"type": "state", "host": HOST, "ip": "192.0.2.7", "service": "Load", "code": "2", "statetype": "HARD",
         "attempt": "1", "message": 'high: "9"'},
        {"type": "perf", "host": HOST, "datasource": "load", "value": "9.5"},
        {"type": "perf", "host": HOST, "datasource": "a b", "value": "1"},
    ]  # fmt: skip


def test_kills_of_the_connector_lose_and_repeat_nothing(make_feed: MakeFeed) -> None:
    feed = make_feed(reclaim="punch")
    chosen = random.Random(3)
    for _ in range(6):
        feed.give(500)
        time.sleep(chosen.uniform(0.0, 0.1))
        feed.connector.kill()
        feed.connector.start()
    feed.wait_written()
    assert feed.on_the_bus(3000) == feed.given


def test_host_that_becomes_hard_after_a_kill_of_the_connector_has_its_event(make_feed: MakeFeed, bus: Bus) -> None:
    """Nagios 4.4 does not tell of that change: what the host was before is kept with the lines."""
    feed = make_feed(objects=host(attempts=2) + service("Load"), main="passive_host_checks_are_soft=1\n")
    for number, code in enumerate([0, 1, 1, 1, 0, 0]):
        feed.nagios.command("PROCESS_HOST_CHECK_RESULT", HOST, code, f"number {number}")
        # What was not known to be confirmed at a kill comes again.
        while bus.drain("state", 1, PATIENCE_S)[0].json()["message"] != f"number {number}":
            pass
        if number in (1, 3):
            feed.connector.kill()
            feed.connector.start()
    events: dict[str, str] = {}
    while "number 4" not in events:
        event = bus.drain("event", 1, PATIENCE_S)[0].json()
        events[event["message"]] = event["state"]
    assert events == {"number 1": "DOWN", "number 2": "DOWN", "number 4": "UP"}


def test_nagios_is_killed_restarted_and_reloaded_and_the_file_renamed(make_feed: MakeFeed) -> None:
    """What Nagios had written is what counts: results that it had only read are lost with it."""
    feed = make_feed()
    paths = []
    for step in range(4):
        feed.give(300)
        if step == 1:
            feed.nagios.kill()
            feed.nagios.start()
        elif step == 2:
            feed.wait_written()
            feed.nagios.stop()
            feed.connector.terminate()
            feed.nagios.start()
            feed.give(50)
            feed.connector.start()
        paths.append(feed.path.with_name(f"results.{step}"))
        feed.path.rename(paths[-1])
        # Until the reload Nagios goes on in the renamed file.
        feed.give(50)
        feed.nagios.reload()
    feed.give(100)
    feed.wait_written()
    written = feed.written([*paths, feed.path])
    total = sum(map(len, written.values()))
    assert total >= 1200
    assert feed.on_the_bus(total) == written


def test_results_of_a_file_that_was_emptied_or_replaced_are_taken(make_feed: MakeFeed) -> None:
    feed = make_feed()
    feed.give(200)
    feed.wait_written()
    assert feed.on_the_bus(200) == feed.given
    feed.path.write_bytes(b"")
    feed.give(40)
    feed.wait_written()
    assert feed.on_the_bus(240) == feed.given
    feed.path.unlink()
    feed.nagios.reload()
    feed.give(40)
    feed.wait_written()
    assert feed.on_the_bus(280) == feed.given


def test_site_goes_from_the_commands_to_the_feed_and_back(make_feed: MakeFeed) -> None:
    """As docs/nagios.md says: the connector has both, then Nagios is told which."""
    feed = make_feed()

    def use(socket_path: Path | None, feed_path: Path | None) -> None:
        # Not a reload: Nagios 4.4 aborts at one that takes these settings away.
        feed.nagios.stop()
        feed.nagios.set_ways(socket_path, feed_path)
        feed.nagios.start()

    use(feed.connector.socket_path, None)
    feed.give(20)
    assert _sorted(feed.on_the_bus(20)) == feed.given
    use(None, feed.path)
    feed.give(20)
    feed.wait_written()
    use(feed.connector.socket_path, None)
    feed.give(20)
    assert _sorted(feed.on_the_bus(60)) == feed.given


def _sorted(found: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return it without the order, which commands don't keep."""
    return {name: sorted(numbers) for name, numbers in found.items()}


def test_results_wait_in_the_file_while_the_journal_is_full(make_feed: MakeFeed, bus: Bus) -> None:
    """Performance data too, whatever `when_full` says to writers."""
    # Without a queue nothing can be sent, and what is parked stays in the journal.
    for queue in ("state", "perf"):
        bus.unbind(queue, queue)
    feed = make_feed(journal_max_messages=300)
    feed.give(1000)
    feed.wait_written()
    feed.connector.wait_log("the journal is full")
    feed.connector.kill()
    feed.connector.start()
    feed.connector.wait_log("the journal is full")
    for queue in ("state", "perf"):
        bus.bind(queue, queue)
    feed.connector.terminate()
    _send_parked_again(feed.connector.journal_path)
    feed.connector.start()
    states = feed.on_the_bus(1000)
    assert _sorted(states) == feed.given
    perf = [int(message.json()["value"]) for message in bus.drain("perf", 1000, PATIENCE_S)]
    assert sorted(perf) == list(range(1, 1001))


def _send_parked_again(journal: Path) -> None:
    """Do what README says."""
    sql = "INSERT INTO tobus (id, msg) SELECT id, msg FROM vigiloconn_parked; DELETE FROM vigiloconn_parked;"
    with closing(sqlite3.connect(journal)) as connection:
        connection.executescript(sql)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_full_disk_under_the_file_makes_no_wrong_result_of_a_torn_one(make_feed: MakeFeed, directory: Path) -> None:
    place = directory / "nagios" / "feed"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k,mode=0777", "none", place], check=True)
    try:
        feed = make_feed(is_connector_started=False)
        feed.give(900, "x" * 80)
        wait_until(lambda: os.statvfs(place).f_bavail == 0, PATIENCE_S, "the disk is full")
        feed.connector.start()
        wait_until(feed.has_arrived, PATIENCE_S, "the connector has begun")
        subprocess.run(["mount", "-o", "remount,size=2m", place], check=True)
        feed.give(40)
        feed.wait_written()
        written = feed.written([feed.path])
        assert 40 < sum(map(len, written.values())) < 940
        assert feed.on_the_bus(sum(map(len, written.values()))) == written
        for service, numbers in feed.given.items():
            assert written[service][-10:] == numbers[-10:]
            assert set(written[service]) <= set(numbers)
        feed.connector.wait_log("malformed line skipped")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
