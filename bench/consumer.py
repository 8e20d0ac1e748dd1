"""A consumer as a process of its own: `python -m bench.consumer HOST:PORT USER COUNT`, the password on stdin.

Prints `ready`, and once COUNT messages have arrived the monotonic time, in seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import amqp

from bench.support import QUEUE
from tests.support.rabbit import RabbitNode

_PREFETCH = 1000
_ACK_EVERY = 200


def main(address: str, user: str, count: int) -> None:
    """Consume `count` messages."""
    connection = amqp.Connection(address, userid=user, password=sys.stdin.readline().strip())
    connection.connect()
    channel = connection.channel()
    channel.basic_qos(0, _PREFETCH, False)
    seen = 0

    def got(message: amqp.Message) -> None:
        nonlocal seen
        seen += 1
        if seen % _ACK_EVERY == 0 or seen == count:
            channel.basic_ack(message.delivery_tag, multiple=True)

    channel.basic_consume(QUEUE, callback=got)
    print("ready", flush=True)
    while seen < count:
        connection.drain_events(timeout=120)
    print(time.monotonic(), flush=True)
    connection.close()


class Consumer:
    """Runs the process and waits for its word."""

    def __init__(self, node: RabbitNode, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.consumer", node.address, node.user, str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(f"{node.password}\n")
        self._process.stdin.flush()
        if self._line() != "ready":
            raise AssertionError("the consumer did not start")

    def done_at(self) -> float:
        """Return the monotonic time at which the last message arrived, in seconds."""
        line = self._line()
        self._process.communicate()
        if not line:
            raise AssertionError("the consumer ended before the last message")
        return float(line)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
