"""conf/nagios/vigilo-send by itself: which lines it makes of Nagios' environment, and how it fails."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nagios.process import SHIPPED

MACROS = {
    "TIMET": "1165939739", "HOSTNAME": "h", "HOSTADDRESS": "192.0.2.7", "SERVICEDESC": "S 1", "SERVICESTATE": "OK",
    "SERVICESTATEID": "0", "SERVICESTATETYPE": "HARD", "SERVICEATTEMPT": "1", "SERVICEOUTPUT": "fine",
    "SERVICEPERFDATA": "",
}


class Listener:
    """A socket in the connector's place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self._socket.settimeout(10)

    def read(self) -> str:
        link, _ = self._socket.accept()
        with link, link.makefile("rb") as stream:
            return stream.read().decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "s")
    yield made
    made.close()


def send(path: Path, *arguments: str, **macros: str) -> subprocess.CompletedProcess[str]:
    env = {f"NAGIOS_{name}": value for name, value in {**MACROS, **macros}.items()}
    argv = [str(SHIPPED / "vigilo-send"), "--socket", str(path), *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_bars_and_newlines_can_not_shift_fields_or_begin_lines(listener: Listener) -> None:
    done = send(listener.path, "service", "event", SERVICEOUTPUT="a|b\nevent|1|x\r\\n literal")
    assert (done.returncode, done.stderr) == (0, "")
    assert listener.read() == "event|1165939739|h|S 1|OK|a b event 1 x \\n literal\n"


def test_several_kinds_go_in_one_connection(listener: Listener) -> None:
    assert send(listener.path, "service", "state", "perf", SERVICEPERFDATA="a=1").returncode == 0
    assert listener.read() == "state|1165939739|h|192.0.2.7|S 1|0|HARD|1|fine\nperf|1165939739|h|a|1\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("load=0.5;;;0", [("load", "0.5")]),
        ("'a b'=1s;2;3;0;9 c=2", [("a b", "1"), ("c", "2")]),
        ("""'it''s "é"'=-3,5%""", [("""it's "é\"""", "-3.5")]),
        ("a b=1", [("a b", "1")]),
        ("'x=y'=1e-3ms;1;2", [("x=y", "1e-3")]),
        ("'a|b'=7B", [("a b", "7")]),
        ("a=U b=1", [("b", "1")]),
    ],
)
def test_each_metric_becomes_a_line(listener: Listener, data: str, expected: list[tuple[str, str]]) -> None:
    done = send(listener.path, "service", "perf", SERVICEPERFDATA=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert listener.read() == "".join(f"perf|1165939739|h|{label}|{value}\n" for label, value in expected)


def test_datasources_carry_the_service_where_that_is_asked_for(listener: Listener) -> None:
    assert send(listener.path, "--with-service", "service", "perf", SERVICEPERFDATA="a=1").returncode == 0
    assert listener.read() == "perf|1165939739|h|S 1-a|1\n"


def test_metric_without_a_number_is_named_and_the_others_are_sent(listener: Listener) -> None:
    done = send(listener.path, "service", "perf", SERVICEPERFDATA="a=~x b=1 'open=3")
    assert done.returncode == 1
    assert "a=~x, 'open=3" in done.stderr
    assert listener.read() == "perf|1165939739|h|b|1\n"


def test_nothing_is_sent_where_there_is_no_performance_data(tmp_path: Path) -> None:
    assert send(tmp_path / "missing", "service", "perf").returncode == 0


def test_missing_connector_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = send(tmp_path / "missing", "service", "state")
    assert done.returncode == 1
    assert done.stderr == f"vigilo-send: {tmp_path}/missing: No such file or directory: is the connector running?\n"


@pytest.mark.parametrize(("length", "status", "reason"), [
    (107, 1, "No such file or directory: is the connector running?"), (108, 2, "expected a shorter path"),
])  # fmt: skip
def test_path_that_does_not_fit_into_a_socket_address_is_refused(length: int, status: int, reason: str) -> None:
    path = Path("/" + "x" * (length - 1))
    done = send(path, "service", "state")
    assert (done.returncode, done.stderr) == (status, f"vigilo-send: {path}: {reason}\n")


def test_longest_path_is_reached(tmp_path: Path) -> None:
    place = tmp_path / ("s" * (107 - len(str(tmp_path)) - 1))
    listener = Listener(place)
    try:
        assert send(place, "service", "event").returncode == 0
        assert listener.read() == "event|1165939739|h|S 1|OK|fine\n"
    finally:
        listener.close()


def test_no_module_is_loaded_that_costs_more_than_the_sending() -> None:
    text = (SHIPPED / "vigilo-send").read_text(encoding="utf-8")
    assert re.findall(r"^\s*(?:use|require)\s+([\w:]+)", text, re.MULTILINE) == ["strict"]


def test_connector_that_takes_nothing_is_given_up_in_time(listener: Listener) -> None:
    done = send(listener.path, "--timeout", "1", "service", "event", SERVICEOUTPUT="x" * 100_000 + "y")
    assert done.returncode == 0, "one line of this size fits into the socket's buffer"
    # The backlog of one connection beside the one above is taken; the next writers wait for room.
    results = [send(listener.path, "--timeout", "1", "service", "event") for _ in range(2)]
    assert results[-1].returncode == 1
    assert "not taken within 1 s" in results[-1].stderr


def test_missing_macros_are_an_error_that_names_the_setting(listener: Listener) -> None:
    argv = [str(SHIPPED / "vigilo-send"), "--socket", str(listener.path), "host", "state"]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "enable_environment_macros=1" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["service"], ["service", "x"], ["x", "state"], ["--what", "host", "state"]])
def test_wrong_usage_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = send(tmp_path / "missing", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
