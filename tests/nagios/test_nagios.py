"""The whole circle with a real Nagios: its commands to the bus, and commands from the bus to its state."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.nagios.conftest import QUEUE
from tests.nagios.objects import ADDRESS, HOST
from tests.nagios.process import NagiosProcess
from tests.support.bus import Bus
from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until

Circle = tuple[ConnectorProcess, NagiosProcess]
#: Nagios, its workers, perl, a broker and a connector share a small machine.
_PATIENCE_S = 60.0


def take(bus: Bus, queue: str, count: int = 1) -> list[dict[str, Any]]:
    return [message.json() for message in bus.drain(queue, count, _PATIENCE_S)]


def without_time(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message without its timestamp, which has to be the present."""
    assert abs(time.time() - int(message["timestamp"])) < 300
    return {key: value for key, value in message.items() if key != "timestamp"}


def publish(bus: Bus, *arguments: object, command: str = "PROCESS_SERVICE_CHECK_RESULT") -> None:
    """Publish a check result for `HOST`, as another program on the bus would."""
    value = ";".join(map(str, (HOST, *arguments)))
    body = {"type": "nagios", "timestamp": str(int(time.time())), "cmdname": command, "value": value, "host": HOST}
    bus.publish("nagios", "nagios", body, content_type="application/json", delivery_mode=2)


def wait_for(read: Callable[[], dict[str, str]], **wanted: str) -> None:
    """Return once the block that `read` returns holds these values."""
    wait_until(lambda: wanted.items() <= read().items(), _PATIENCE_S, f"{wanted} in status.dat", 0.1)


def web_numbers(nagios: NagiosProcess) -> list[int]:
    """Return the numbers that the commands for the service Web had as their text, as Nagios carried them out."""
    return [int(command.rpartition(";")[2]) for command in nagios.commands() if ";Web;" in command]


def unread_bytes(pipe: Path) -> int:
    """Return how many bytes in a FIFO nobody has read yet. Opens its reading end for a moment, and reads nothing."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int(struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0])
    finally:
        os.close(reader)


def test_result_of_a_service_becomes_a_state_message(circle: Circle, bus: Bus) -> None:
    _, nagios = circle
    nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Load", 1, "load is 7")
    (state,) = take(bus, "state")
    assert without_time(state) == {
        "type": "state", "host": HOST, "ip": ADDRESS, "service": "Load", "code": "1", "statetype": "HARD",
        "attempt": "1", "message": "load is 7",
    }


def test_text_and_performance_data_arrive_as_the_plugin_wrote_them(circle: Circle, bus: Bus) -> None:
    _, nagios = circle
    text = """Déjà vu: "it's" `full` $HOME & <b> 日本"""
    data = """'a b'=1s;2;3;0;9 load=0.5;;;0 'it''s "é"'=-3.5% unknown=U"""
    nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Text", 2, f"{text} | {data}")
    (event,), (state,) = take(bus, "event"), take(bus, "state")
    assert (event["message"], state["message"]) == (text, text)
    perf = [without_time(message) for message in take(bus, "perf", 3)]
    wanted = {"a b": "1", "load": "0.5", """it's "é\"""": "-3.5"}
    assert perf == [
        {"type": "perf", "host": HOST, "datasource": label, "value": value} for label, value in wanted.items()
    ]


def test_changes_of_a_service_and_its_host_become_event_messages(circle: Circle, bus: Bus) -> None:
    _, nagios = circle
    nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Disk", 2, "disk full")
    (event,) = take(bus, "event")
    assert without_time(event) == {
        "type": "event", "host": HOST, "service": "Disk", "state": "CRITICAL", "message": "disk full",
    }
    # No change, no event: the next one is the host's.
    nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Disk", 2, "disk still full")
    take(bus, "state", 2)
    nagios.command("PROCESS_HOST_CHECK_RESULT", HOST, 1, "no answer | rta=0.25ms")
    (event,), (state,), (perf,) = take(bus, "event"), take(bus, "state"), take(bus, "perf")
    assert without_time(event) == {"type": "event", "host": HOST, "state": "DOWN", "message": "no answer"}
    assert without_time(state) == {
        "type": "state", "host": HOST, "ip": ADDRESS, "service": "", "code": "1", "statetype": "HARD",
        "attempt": "1", "message": "no answer",
    }
    assert without_time(perf) == {"type": "perf", "host": HOST, "datasource": "rta", "value": "0.25"}


def test_nagios_log_tells_when_the_connector_is_away(circle: Circle) -> None:
    connector, nagios = circle
    connector.terminate()
    nagios.command("PROCESS_SERVICE_CHECK_RESULT", HOST, "Load", 1, "nobody hears it")
    wait_until(lambda: "is the connector running?" in nagios.log_text(), _PATIENCE_S, "the sender's words in the log")


def test_result_from_the_bus_changes_the_state_in_nagios_and_comes_back(circle: Circle, bus: Bus) -> None:
    _, nagios = circle
    publish(bus, "Web", 2, "no answer: \"503\" é|time=3s")
    wait_for(
        lambda: nagios.service("Web"), current_state="2", plugin_output='no answer: "503" é',
        performance_data="time=3s",
    )
    (state,), (perf,) = take(bus, "state"), take(bus, "perf")
    assert (state["service"], state["code"], state["message"]) == ("Web", "2", 'no answer: "503" é')
    assert (perf["datasource"], perf["value"]) == ("time", "3")
    publish(bus, 1, "gone", command="PROCESS_HOST_CHECK_RESULT")
    wait_for(nagios.host, current_state="1", plugin_output="gone")


def test_commands_that_come_while_nagios_is_stopped_are_done_when_it_is_back(circle: Circle, bus: Bus) -> None:
    connector, nagios = circle
    publish(bus, "Mail", 1, "before")
    wait_for(lambda: nagios.service("Mail"), plugin_output="before")
    nagios.stop()
    for number in range(100):
        publish(bus, "Web", 2, f"away {number}")
    publish(bus, "Mail", 2, "while it was away")
    connector.send(f"event|1165939739|{HOST}|Load|OK|the connector takes lines meanwhile|")
    take(bus, "event", 2)
    connector.wait_log("commands wait on the bus")
    nagios.start()
    wait_for(lambda: nagios.service("Mail"), current_state="2", plugin_output="while it was away")
    done = [command for command in nagios.commands() if ";Web;" in command]
    assert done == [f"PROCESS_SERVICE_CHECK_RESULT;{HOST};Web;2;away {number}" for number in range(100)]
    wait_until(lambda: bus.queue_depth(QUEUE) == 0, _PATIENCE_S, "the queue is empty")


def test_kill_9_of_nagios_loses_no_more_than_it_had_read(circle: Circle, bus: Bus) -> None:
    """What is lost is one run of commands that its worker, which lives on for a moment, took before it noticed."""
    _, nagios = circle
    for number in range(200):
        publish(bus, "Web", 2, number)
    wait_until(nagios.commands, _PATIENCE_S, "Nagios has begun")
    nagios.kill()
    wait_until(lambda: not nagios.is_reading(), _PATIENCE_S, "nobody reads the pipe")
    for number in range(200, 400):
        publish(bus, "Web", 2, number)
    nagios.start()
    publish(bus, "Mail", 2, "last")
    wait_for(lambda: nagios.service("Mail"), plugin_output="last")
    done = web_numbers(nagios)
    assert done == sorted(set(done)), "out of order or done twice"
    lost = sorted(set(range(400)) - set(done))
    assert lost == list(range(lost[0], lost[-1] + 1) if lost else [])
    assert all(number < 200 for number in lost), "lost although nobody read the pipe"


def test_commands_in_the_pipe_outlive_kill_9_of_nagios(circle: Circle, bus: Bus) -> None:
    """The worker reads nothing more: what the connector then wrote and acknowledged is for the next Nagios."""
    _, nagios = circle
    publish(bus, "Mail", 1, "before")
    wait_for(lambda: nagios.service("Mail"), plugin_output="before")
    nagios.pause_worker()
    for number in range(200):
        publish(bus, "Web", 2, number)
    wait_until(lambda: unread_bytes(nagios.pipe_path) >= 200 * 50, _PATIENCE_S, "the commands are in the pipe")
    nagios.kill()
    nagios.start()
    wait_for(lambda: nagios.service("Web"), plugin_output="199")
    assert web_numbers(nagios) == list(range(200))
