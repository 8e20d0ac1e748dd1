"""A running connector asked from outside, as an operator does it: no broker is needed for that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.control.asking import Answer, CantAsk, ask

#: Nobody listens there.
_NO_BROKER = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorProcess]:
    with ConnectorProcess(tmp_path / "c", bus=_NO_BROKER) as running:
        yield running


def asked(connector: ConnectorProcess, target: str, body: bytes | None = None) -> Answer:
    path = connector.directory / "control.sock"
    wait_until(path.exists, 10.0, f"{path} is there")
    return ask(path, target, body)


def test_a_connector_without_a_broker_is_alive_and_accepts(connector: ConnectorProcess) -> None:
    assert asked(connector, "/healthz") == (200, "text/plain; charset=utf-8", b"alive\n")
    assert asked(connector, "/readyz").text == "accepting"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl_can_ask_it(connector: ConnectorProcess) -> None:
    asked(connector, "/healthz")
    command = ["curl", "-sS", "--unix-socket", str(connector.directory / "control.sock"), "http://localhost/healthz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_after_the_stop_the_socket_is_gone_and_the_one_who_asks_is_told(connector: ConnectorProcess) -> None:
    asked(connector, "/healthz")
    assert connector.terminate() == 0
    with pytest.raises(CantAsk, match="is the connector running") as raised:
        ask(connector.directory / "control.sock", "/healthz")
    assert raised.value.is_absent


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(CantAsk, match="more than 107 bytes"):
        ask(tmp_path / ("x" * 108), "/healthz")
