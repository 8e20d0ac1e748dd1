"""Fixtures on the real broker: a node for the session, a virtual host for each test, a second node to break."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.bus import Bus, connect
from tests.support.connector import ConnectorProcess
from tests.support.proxy import TcpProxy
from tests.support.rabbit import RabbitError, RabbitNode


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitNode]:
    """The session's broker. Leave it as it is: stop, pause and alarm `spare_node` instead."""
    with RabbitNode() as node:
        yield node


@pytest.fixture
def vhost(rabbit: RabbitNode) -> Iterator[str]:
    """A virtual host on `rabbit` for this test alone."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    rabbit.add_vhost(name)
    yield name
    rabbit.delete_vhost(name)


@pytest.fixture
def bus(rabbit: RabbitNode, vhost: str) -> Iterator[Bus]:
    """A client of `rabbit` on this test's virtual host."""
    with connect(rabbit, vhost) as client:
        yield client


@pytest.fixture(scope="session")
def _spare_nodes() -> Iterator[list[RabbitNode]]:
    nodes: list[RabbitNode] = []
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture
def spare_node(_spare_nodes: list[RabbitNode]) -> RabbitNode:
    """A second broker, to be hurt. Started when first asked for, healed and emptied before each test that uses it.

    Its user `guest` and virtual host `/` are there; all else that an earlier test made on it is gone.
    """
    if _spare_nodes:
        try:
            _spare_nodes[0].reset()
        except (RabbitError, OSError):
            _spare_nodes.pop().close()
    if not _spare_nodes:
        node = RabbitNode()
        _spare_nodes.append(node)
        node.start()
    return _spare_nodes[0]


@pytest.fixture
def proxy(rabbit: RabbitNode) -> Iterator[TcpProxy]:
    """A proxy before `rabbit`."""
    with TcpProxy(rabbit.port) as proxy:
        yield proxy


@pytest.fixture
def connector(rabbit: RabbitNode, tmp_path: Path) -> Iterator[Callable[..., ConnectorProcess]]:
    """A function that makes a connector for a virtual host of `rabbit`, not started, and ends it after the test.

    Arguments: the virtual host, then `ConnectorProcess`'s own, of which `bus` may override hosts and the like.
    """
    with ExitStack() as stack:

        def make(vhost: str, *, bus: dict[str, object] | None = None, **options: object) -> ConnectorProcess:
            settings = {"hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost}
            made = ConnectorProcess(tmp_path, bus={**settings, **(bus or {})}, **options)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make
