"""The main direction on a disk that is full or read-only, in a journal that is full or damaged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.flow import Flood, collect, line, lines, numbers
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path], check=False).returncode:
        pytest.skip("may not mount here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def declare(bus: Bus, queue: str = "event") -> None:
    bus.declare_exchange("event")
    bus.declare_queue(queue, "event")


@needs_root
def test_full_disk_accepts_no_more_and_what_was_accepted_arrives_when_the_bus_is_back(
    spare_node: RabbitNode, tmp_path: Path, small_disk: Path
) -> None:
    with connect(spare_node) as bus:
        declare(bus)
    spare_node.suspend_listeners()
    with ConnectorProcess(
        tmp_path, bus={"hosts": spare_node.address, "max_reconnect_delay": 1},
        connector={"backup_file": small_disk / "journal"},
    ) as process:
        sent = 0
        padding = "|" + "k" * 100
        with process.writer() as writer:
            while "the disk is full" not in process.log_text():
                writer.send([text + padding for text in lines(sent, sent + 500)])
                sent += 500
                writer.ask_sync(str(sent))
                try:
                    assert writer.read_line(1.0) == f"synced|{sent}"
                except TimeoutError:
                    break
            process.wait_log("the disk is full")
            assert sent > 1000
            spare_node.resume_listeners()
            with connect(spare_node) as bus:
                # The last portion waits in memory until publishing has made room, and nothing was lost on the way.
                assert numbers(collect(bus, "event", sent)) == {"w": list(range(sent))}
            assert writer.read_line() == f"synced|{sent}"
        assert process.terminate() == 0


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@needs_root
def test_writer_and_bus_go_on_under_a_disk_that_fills_and_empties(
    bus: Bus, rabbit: RabbitNode, vhost: str, tmp_path: Path, small_disk: Path
) -> None:
    declare(bus)
    with (
        ConnectorProcess(
            tmp_path, bus={"hosts": rabbit.address, "vhost": vhost},
            connector={"backup_file": small_disk / "journal"},
        ) as process,
        Flood(process.socket_path) as flood,
    ):
        for round_number in (1, 2):
            accepted = flood.synced
            wait_until(lambda accepted=accepted: flood.synced >= accepted + 200, 20, "accepted")  # type: ignore[misc]
            ballast = small_disk / "ballast"
            with pytest.raises(OSError, match="No space"):
                fill(ballast)
            wait_until(lambda n=round_number: process.log_text().count("the disk is full") >= n,  # type: ignore[misc]
                       30, "the disk is seen to be full")
            ballast.unlink()
        sent = flood.finish()
        assert numbers(collect(bus, "event", sent)) == {"w": list(range(sent))}


@needs_root
def test_on_a_tiny_disk_what_has_gathered_goes_in_small_portions_once_the_bus_is_back(
    spare_node: RabbitNode, tmp_path: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    with connect(spare_node) as bus:
        declare(bus)
    spare_node.suspend_listeners()
    names, count = ("a", "b", "c"), 6000
    with (
        ConnectorProcess(
            tmp_path, bus={"hosts": spare_node.address, "max_reconnect_delay": 1},
            connector={"backup_file": small_disk / "journal"},
        ) as process,
        ThreadPoolExecutor() as pool,
    ):
        def pour(name: str) -> None:
            with process.writer() as writer:
                writer.send([text + "|" + "k" * 100 for text in lines(0, count, name)])
                writer.sync()

        pouring = [pool.submit(pour, name) for name in names]
        process.wait_log("the disk is full")
        spare_node.resume_listeners()
        with connect(spare_node) as bus:
            arrived = numbers(collect(bus, "event", len(names) * count))
        assert arrived == {name: list(range(count)) for name in names}
        for each in pouring:
            each.result(30)


def test_full_journal_blocks_events_and_drops_the_newest_performance_data(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    with connect(spare_node) as bus:
        declare(bus)
        bus.declare_exchange("perf")
        bus.declare_queue("perf", "perf")
    spare_node.suspend_listeners()
    with ConnectorProcess(
        tmp_path, bus={"hosts": spare_node.address, "max_reconnect_delay": 1},
        connector={"journal_max_messages": 100},
    ) as process:
        with process.writer() as events, process.writer() as figures:
            events.send(lines(0, 90))
            events.sync()
            figures.send(line(0, kind="perf"))
            figures.ask_sync("f")
            answer = figures.read_line()
            assert answer.startswith("failed|f|")
            assert "dropped" in answer
            events.send(lines(90, 110))
            events.sync()
            events.send(lines(110, 120))
            events.ask_sync("e")
            with pytest.raises(TimeoutError):
                events.read_line(0.5)
            spare_node.resume_listeners()
            assert events.read_line() == "synced|e"
        with connect(spare_node) as bus:
            assert numbers(collect(bus, "event", 120)) == {"w": list(range(120))}
            assert bus.drain_all("perf") == []
            process.send(line(1, kind="perf"))
            assert numbers(bus.drain("perf", 1)) == {"w": [1]}


def test_stop_with_a_full_journal_ends_in_time_and_loses_nothing_that_was_accepted(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    with connect(spare_node) as bus:
        declare(bus)
    spare_node.suspend_listeners()
    with ConnectorProcess(
        tmp_path, bus={"hosts": spare_node.address, "max_reconnect_delay": 1},
        connector={"journal_max_messages": 100, "stop_timeout": 2},
    ) as process:
        with process.writer() as writer:
            writer.send(lines(0, 100))
            writer.sync()
            writer.send(lines(100, 200))
            assert process.terminate() == 0
        spare_node.resume_listeners()
        process.start()
        with connect(spare_node) as bus:
            assert numbers(collect(bus, "event", 100))["w"][:100] == list(range(100))


@pytest.mark.parametrize("durability", ["journal", "overflow"])
def test_journal_that_disappears_while_running_is_set_aside_and_the_flow_goes_on(
    durability: str, bus: Bus, rabbit: RabbitNode, vhost: str, tmp_path: Path
) -> None:
    declare(bus)
    with ConnectorProcess(
        tmp_path, bus={"hosts": rabbit.address, "vhost": vhost, "heartbeat": 2},
        connector={"durability": durability}, publications={"perf": "missing"},
    ) as process:
        process.send([*lines(0, 100), *lines(0, 10, kind="perf")])
        process.sync()
        process.wait_log("exchange missing: held")
        # A page that is overwritten shows only when it is read again; a file that is gone shows at once.
        process.journal_path.unlink()
        with Flood(process.socket_path) as flood:
            wait_until(lambda: "set aside as" in process.log_text(), 20, "the damage is found")
            accepted = flood.synced
            wait_until(lambda: flood.synced >= accepted + 200, 20, "lines are accepted in the new file")
            sent = flood.finish()
        assert numbers(collect(bus, "event", max(100, sent))) == {"w": list(range(max(100, sent)))}
        # The exchange that was held, and whose messages are in the old file, must come free again.
        process.send(lines(10, 20, kind="perf"))
        process.sync()
        bus.declare_exchange("missing")
        bus.declare_queue("perf", "missing")
        found = numbers(collect(bus, "perf", 10))["w"]
        assert [number for number in found if number >= 10] == list(range(10, 20))
    assert list(tmp_path.glob("backup.sqlite.damaged-*"))


def test_backlog_that_was_overwritten_is_set_aside_and_newer_messages_arrive(
    spare_node: RabbitNode, tmp_path: Path
) -> None:
    with connect(spare_node) as bus:
        declare(bus)
    spare_node.suspend_listeners()
    with ConnectorProcess(tmp_path, bus={"hosts": spare_node.address, "max_reconnect_delay": 1}) as process:
        padding = "|" + "k" * 200
        # More than is kept in memory, so that it is read from the file again.
        process.send([text + padding for text in lines(0, 20000)])
        process.sync()
        for path in (process.journal_path, process.journal_path.with_name("backup.sqlite-wal")):
            with path.open("r+b") as file:
                file.write(os.urandom(os.path.getsize(path)))
        spare_node.resume_listeners()
        process.wait_log("set aside as", 30)
        process.send(lines(20000, 20100))
        process.sync()
        with connect(spare_node) as bus:
            wait_until(lambda: 20099 in numbers(bus.drain_all("event")).get("w", []), 30, "the last message")
        assert process.terminate() == 0


def test_journal_damaged_at_the_start_is_set_aside_with_a_clear_line(
    bus: Bus, rabbit: RabbitNode, vhost: str, tmp_path: Path
) -> None:
    declare(bus)
    content = os.urandom(8192)
    (tmp_path / "backup.sqlite").write_bytes(content)
    with ConnectorProcess(tmp_path, bus={"hosts": rabbit.address, "vhost": vhost}) as process:
        process.send(lines(0, 10))
        assert numbers(bus.drain("event", 10)) == {"w": list(range(10))}
        assert "set aside as" in process.log_text()
    [aside] = [path for path in tmp_path.glob("backup.sqlite.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
    assert aside.read_bytes() == content


@needs_root
def test_read_only_directory_ends_with_status_1_and_a_clear_line(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    process = ConnectorProcess(tmp_path, bus={}, connector={"backup_file": small_disk / "journal"})
    process.launch()
    try:
        assert process.wait() == 1
        assert "not writable" in process.log_text()
        assert "Traceback" not in process.log_text()
    finally:
        process.close()
