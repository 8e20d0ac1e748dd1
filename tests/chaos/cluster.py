"""A cluster of three brokers that loses its members. Knows nodes, not what flows through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import amqp
from amqp.exceptions import MessageNacked

from tests.support.bus import connect
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

SIZE = 3
#: How long a majority may take to find a leader for each queue; that is up to the brokers.
_ELECTION_S = 120.0
_ANSWER_S = 3.0

How = Literal["killed", "stopped", "frozen"]


class Cluster:
    """Some nodes, of which some are lost at the moment. One node alone is a cluster that can't lose any."""

    def __init__(self, nodes: Sequence[RabbitNode]) -> None:
        self.nodes = list(nodes)
        self._lost: dict[int, How] = {}

    @property
    def is_alone(self) -> bool:
        return len(self.nodes) == 1

    @property
    def living(self) -> RabbitNode:
        """Return a node that is not lost."""
        return next(node for number, node in enumerate(self.nodes) if number not in self._lost)

    def lose(self, number: int, how: How) -> None:
        """Lose a node."""
        self._lost[number] = how
        node = self.nodes[number]
        {"killed": node.kill, "stopped": node.stop, "frozen": node.pause}[how]()

    def regain(self, number: int) -> None:
        """Have a node again."""
        node = self.nodes[number]
        if self._lost[number] == "frozen":
            node.resume()
        else:
            node.start()
        del self._lost[number]

    def wait_usable(self, vhost: str, queues: Sequence[str]) -> None:
        """Wait until a plain client gets a confirm for each queue. Leaves a message there, past every exchange."""
        wait_until(
            lambda: all(self._confirms(vhost, queue) for queue in queues), _ELECTION_S, "every queue confirms", 0.2
        )

    def _confirms(self, vhost: str, queue: str) -> bool:
        try:
            with connect(self.living, vhost, timeout_s=_ANSWER_S) as bus:
                message = amqp.Message(b"probe", delivery_mode=2)
                bus.channel.basic_publish_confirm(message, exchange="", routing_key=queue, confirm_timeout=_ANSWER_S)
        # ValueError, AttributeError: what py-amqp makes of a connection that ends under it. A queue between two leaders
        # refuses, and that error is no `AMQPError`.
        except (OSError, amqp.AMQPError, MessageNacked, ValueError, AttributeError):
            return False
        return True


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start three nodes that are one cluster, and end them."""
    with ExitStack() as stack:
        first = stack.enter_context(RabbitNode())
        yield Cluster([first, *(stack.enter_context(RabbitNode(peer=first)) for _ in range(SIZE - 1))])
