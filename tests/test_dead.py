"""`vigilo-bus-config dead` on a real broker: what it shows stays, what it sends back is lost by no kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

from tests.support import children
from tests.support.bus import Bus
from tests.support.connector import ROOT
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

Done = subprocess.CompletedProcess[str]


def argv(rabbit: RabbitNode, vhost: str, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "vigiloconn", "bus", "--server", rabbit.address, "--vhost", vhost, "dead", *arguments
    ]  # fmt: skip


def run(rabbit: RabbitNode, vhost: str, *arguments: str) -> Done:
    return subprocess.run(argv(rabbit, vhost, *arguments), capture_output=True, text=True, timeout=60, cwd=ROOT)


def fill(bus: Bus, count: int, queue: str = "q", **properties: object) -> None:
    bus.declare_queue(queue)
    bus.declare_queue(f"{queue}.dead")
    for number in range(count):
        headers = {"x-vigilo-reason": "odd" if number % 2 else "even", "x-vigilo-exchange": "e", "own": number}
        bus.publish("", f"{queue}.dead", {"n": number}, confirm=number == count - 1, delivery_mode=2,
                    application_headers=headers, message_id=f"m{number}", **properties)


def numbers(bus: Bus, queue: str) -> list[int]:
    return [json.loads(message.body)["n"] for message in bus.drain_all(queue)]


def test_letters_are_shown_with_their_reasons_and_stay(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 5)
    done = run(rabbit, vhost, "list", "q", "--reason", "odd")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [["2", "odd"], ["4", "odd"]]
    shown = run(rabbit, vhost, "show", "q", "3").stdout
    assert "even" in shown
    assert '{"n": 2}' in shown
    assert numbers(bus, "q.dead") == [0, 1, 2, 3, 4]


def test_letters_go_to_their_queue_itself_as_they_were(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 250)
    done = run(rabbit, vhost, "requeue", "q", "--reason", "even")
    assert (done.returncode, done.stdout) == (0, "125 dead letters are in queue q again\n"), done.stderr
    [first, *_] = messages = bus.drain_all("q")
    assert [json.loads(message.body)["n"] for message in messages] == list(range(0, 250, 2))
    assert first.properties["message_id"] == "m0"
    assert first.properties["application_headers"] == {"own": 0}
    assert numbers(bus, "q.dead") == list(range(1, 250, 2))


def test_a_letter_has_its_own_properties_again(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    bus.declare_queue("q")
    bus.declare_queue("q.dead")
    own = {"priority": 3, "correlation_id": "c1", "reply_to": "answers", "timestamp": 1_577_836_800, "app_id": "shop"}
    # An expiration and a user id are not for a second time, and what can't be encoded keeps nothing from going.
    rest = {"expiration": "1", "user_id": "nobody", "type": 7}
    headers = {"x-vigilo-reason": "odd", "x-vigilo-properties": {**own, **rest}, "own": 1}
    bus.publish("", "q.dead", {"n": 1}, delivery_mode=2, application_headers=headers)
    assert run(rabbit, vhost, "requeue", "q").returncode == 0
    [message] = bus.drain_all("q")
    found = message.properties
    assert {name: found.get(name) for name in own} == own
    assert found["application_headers"] == {"own": 1, "x-vigilo-properties": rest}
    assert not {"expiration", "user_id", "type"} & set(found)


def test_letters_of_a_queue_that_is_gone_stay(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 3)
    bus.delete_queue("q")
    done = run(rabbit, vhost, "requeue", "q")
    assert done.returncode == 1
    assert "queue 'q' is not there" in done.stderr
    assert numbers(bus, "q.dead") == [0, 1, 2]


def test_nothing_is_dropped_without_yes(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 3)
    assert run(rabbit, vhost, "drop", "q").returncode == 2
    assert run(rabbit, vhost, "drop", "q", "--yes", "--limit", "2").stdout == "2 dead letters deleted\n"
    assert numbers(bus, "q.dead") == [2]


def test_a_look_at_a_quorum_queue_takes_yes(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    bus.channel.queue_declare("q.dead", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    bus.publish("", "q.dead", {"n": 1})
    done = run(rabbit, vhost, "list", "q")
    assert done.returncode == 2
    assert "delivery limit" in done.stderr
    assert run(rabbit, vhost, "list", "q", "--yes").returncode == 0


#: 10000 for a trial of its own.
LETTERS = int(os.environ.get("VIGILO_TEST_LETTERS", "1500"))


def test_no_letter_is_lost_when_it_is_killed_in_the_middle(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    count, kills = LETTERS, 2 + LETTERS // 2000
    fill(bus, count)
    for _ in range(kills):
        before = bus.queue_depth("q")
        asking = children.spawn(argv(rabbit, vhost, "requeue", "q"), cwd=ROOT)
        wait_until(lambda: bus.queue_depth("q") > before or asking.poll() is not None, 20, "letters go")  # noqa: B023
        children.end(asking)
    assert run(rabbit, vhost, "requeue", "q").returncode == 0
    found = Counter(numbers(bus, "q"))
    assert sorted(found) == list(range(count))
    # What was on its way at a kill comes twice, and no more than that.
    assert found.total() <= count + kills * 100
    assert numbers(bus, "q.dead") == []


def test_without_the_right_to_send_it_ends_at_once_and_letters_stay(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 5)
    rabbit.add_user("reader", "secret", vhost)
    rabbit.set_permissions("reader", write="^$", vhost=vhost)
    try:
        command = argv(rabbit, vhost, "requeue", "q")
        command[command.index("dead"):0] = ["--user", "reader", "--password", "secret"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    finally:
        rabbit.delete_user("reader")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ACCESS_REFUSED" in done.stderr
    assert numbers(bus, "q.dead") == [0, 1, 2, 3, 4]


def test_an_interruption_is_one_line_and_loses_no_letter(rabbit: RabbitNode, vhost: str, bus: Bus) -> None:
    fill(bus, 5000)
    program = subprocess.Popen(
        argv(rabbit, vhost, "requeue", "q"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        wait_until(lambda: bus.queue_depth("q") > 100, 30.0, "the first letters in their queue")
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    finally:
        program.kill()
    assert (program.returncode, out) == (1, "")
    assert err == "vigilo-bus-config: interrupted: what the broker has confirmed until now is done\n"
    assert set(numbers(bus, "q")) | set(numbers(bus, "q.dead")) == set(range(5000))
