"""A Nagios that hands on each result in both ways at once: the file and the commands give the same messages."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nagios.objects import host, passive_host, service, set_plugin
from tests.nagios.process import NagiosProcess
from tests.support.wait import wait_until
from vigiloconn.nagios.records import RecordReader
from vigiloconn.serialize import parse_chunk

_PATIENCE_S = 60.0
#: Checked by a plugin, or by results from outside; with one attempt, or hard at the third.
SERVICES = {f"{how}{attempts}": attempts for how in ("active", "passive") for attempts in (1, 3)}
HOSTS = {f"{how}-host{attempts}": attempts for how in ("active", "passive") for attempts in (1, 3)}
VOLATILE = "volatile"
ALL = [*SERVICES, *HOSTS, VOLATILE]


class Taken:
    """What both ways have given: a socket in the connector's place, and the file read by the connector's parser."""

    def __init__(self, directory: Path) -> None:
        self.socket_path = directory / "send.sock"
        self.feed_path = directory / "nagios" / "feed"
        self._commands: list[dict[str, Any]] = []
        self._reader = RecordReader({})
        self._read = 0
        self._feed: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.socket_path))
        os.chmod(self.socket_path, 0o777)
        self._socket.listen(100)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def feed(self) -> list[dict[str, Any]]:
        """Return the messages of the file so far."""
        if self.feed_path.exists():
            data = self.feed_path.read_bytes()[self._read:]
            data = data[: data.rfind(b"\n") + 1]
            self._read += len(data)
            parsed = self._reader.parse(data.split(b"\n"))
            # The sender names such a metric on its standard error.
            assert {why.partition(" of ")[0] for _, why in parsed.rejected} <= {"no number in the performance data"}
            self._feed += [json.loads(body) for _, body in parsed.items]
        return self._feed

    def states(self) -> int:
        """Return how many results the file has given so far."""
        return sum(message["type"] == "state" for message in self.feed())

    def both(self) -> tuple[list[str], list[str]]:
        """Return the messages of the file and of the commands, sorted, once both are complete."""
        wait_until(lambda: len(self._commands) >= len(self.feed()), _PATIENCE_S, "the commands have sent all", 0.05)
        return _comparable(self._feed), _comparable(self._commands)

    def close(self) -> None:
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            with link, link.makefile("rb") as stream:
                items, _, rejected = parse_chunk(stream.read().split(b"\n"))
            assert rejected == []
            self._commands += [json.loads(body) for _, body in items]


def _comparable(messages: list[dict[str, Any]]) -> list[str]:
    # The two ways tell a recovery's type and attempt differently, and can be a second apart.
    recovery = {"statetype": "", "attempt": "", "timestamp": ""}
    return sorted(
        json.dumps({**message, "timestamp": "", **(recovery if message.get("code") == "0" else {})}, sort_keys=True)
        for message in messages
    )


@pytest.fixture
def taken(directory: Path) -> Iterator[Taken]:
    made = Taken(directory)
    yield made
    made.close()


@pytest.fixture
def nagios(directory: Path, taken: Taken) -> Iterator[NagiosProcess]:
    objects = passive_host(())
    for name, attempts in HOSTS.items():
        objects += host(name, plugin=name, attempts=attempts)
    for name, attempts in SERVICES.items():
        objects += service(name, plugin=name, attempts=attempts)
    objects += service(VOLATILE).replace("}\n", "    is_volatile 1\n}\n")
    made = NagiosProcess(
        directory / "nagios", objects, socket_path=taken.socket_path, feed_path=taken.feed_path,
        main="passive_host_checks_are_soft=1\n",
    )
    try:
        made.start()
        yield made
    finally:
        made.close()


def check(nagios: NagiosProcess, name: str, code: int, output: str | bytes) -> None:
    """Give Nagios one result for the host or service `name`, in the way that its name says."""
    if name.startswith("active"):
        # For a host, a plugin's WARNING is UP.
        set_plugin(nagios.directory, name, 2 if code and "host" in name else code, output)
        nagios.check_now(host=name) if "host" in name else nagios.check_now(name)
    elif name in HOSTS:
        nagios.command("PROCESS_HOST_CHECK_RESULT", name, min(code, 1), output)
    else:
        nagios.command("PROCESS_SERVICE_CHECK_RESULT", "host1", name, code, output)


def test_states_events_and_performance_data_are_the_same_over_all_transitions(
    nagios: NagiosProcess, taken: Taken
) -> None:
    """All at once, a step as soon as Nagios has done the one before: many results lie within one second."""
    for step, code in enumerate([0, 2, 2, 2, 2, 1, 0, 0, 2, 0, 0]):
        for name in ALL:
            check(nagios, name, code, f"step {step} of {name}|'a b'={step}s;1;2")
        wait_until(lambda: taken.states() == len(ALL) * (step + 1), _PATIENCE_S, f"step {step} is done", 0.02)  # noqa: B023
    feed, commands = taken.both()
    assert feed == commands
    assert {json.loads(message).get("state") for message in feed} >= {"OK", "WARNING", "CRITICAL", "UP", "DOWN"}


ODD = [
    'quotes " \' ` and $HOME $USER1$ $$ & <b> \\ ; \\t',
    "a tab\tHOSTNAME::other\tEND::1|tab=1\tSERVICESTATEID::2",
    "first line\\nsecond line|a=1\\nthird line|b=2",
    "Déjà vu 日本|'é \"x\"'=1 'it''s'=2;;",
    "Déjà vu €|'é'=1".encode("iso-8859-15"),
    "no output follows|unknown=U none=~ x y=3%",
    "DATATYPE::SERVICEPERFDATA\tTIMET::1|a=1 DATATYPE::SERVICEPERFDATA\tTIMET::1\tHOSTNAME::x",
    "long " + "x" * 6000 + "|" + " ".join(f"metric{number}=1s;2;3;4;5" for number in range(40)),
    "|a=1", "", "   blanks   |   a=1   ",
]


@pytest.mark.parametrize("name", ["active1", "passive1"])
def test_odd_output_is_the_same(nagios: NagiosProcess, taken: Taken, name: str) -> None:
    outputs = [text for text in ODD if name == "active1" or (isinstance(text, str) and len(text) < 2000)]
    for number, output in enumerate(outputs):
        check(nagios, name, 0, output)
        wait_until(lambda: taken.states() == number + 1, _PATIENCE_S, f"{output!r} is there", 0.02)  # noqa: B023
    feed, commands = taken.both()
    assert feed == commands
