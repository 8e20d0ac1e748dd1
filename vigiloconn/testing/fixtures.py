"""Fixtures of pytest's: `from vigiloconn.testing.fixtures import rabbit_settings` in a `conftest.py`."""

from __future__ import annotations

import os
import socket

import pytest

from vigiloconn.kit.endpoint import parse_endpoint

#: `host:port` of a broker that tests may use, with the account `guest`.
VARIABLE = "VIGILO_TEST_BROKER"


@pytest.fixture(scope="session")
def rabbit_settings() -> str:
    """The lines of `[bus]` that lead to a real broker. Where there is none the test is skipped; in CI it fails."""
    return broker_settings()


def broker_settings() -> str:
    """Return those lines. Raises pytest's outcomes: skipped, or failed in CI."""
    address = os.environ.get(VARIABLE, "localhost")
    endpoint = parse_endpoint(address, 5672)
    try:
        socket.create_connection((endpoint.host, endpoint.port), 2).close()
    except OSError as exc:
        text = f"no broker at {endpoint} ({VARIABLE} names another one): {exc}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return f"hosts = {address}\n"
