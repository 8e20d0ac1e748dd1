"""A consuming connector as a process (tests/scenarios/consume.py): the files by which it is watched and steered."""

from __future__ import annotations

import json
from typing import Any

from tests.support.connector import ConnectorProcess
from tests.support.rabbit import RabbitError, RabbitNode
from tests.support.wait import wait_until

QUEUE = "work"
DEAD = "work.dead"


class Consuming:
    """Wraps a `ConnectorProcess` and knows the node that it consumes from, for telling who stands still."""

    def __init__(self, process: ConnectorProcess, node: RabbitNode, vhost: str) -> None:
        self.process = process
        self._node = node
        self._vhost = vhost
        self.directory = process.directory

    def start(self, subscribed: bool = True) -> Consuming:
        """Launch it, and wait for its subscription."""
        before = self.process.log_text().count(": subscribed")
        self.process.launch()
        self.wait((self.directory / "stats.json").exists, "its figures")
        if subscribed:
            self.wait(lambda: self.process.log_text().count(": subscribed") > before, "subscribed")
        return self

    def wait_subscriptions(self, count: int) -> None:
        """Wait until it has subscribed that many times in all its lives."""
        self.wait(lambda: self.process.log_text().count(": subscribed") == count, f"{count} subscriptions")

    def lines(self) -> list[str]:
        path = self.directory / "done.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def done(self) -> list[int]:
        """Return the numbers that it has done, in its order."""
        return [int(line) for line in self.lines() if not line.startswith("#")]

    def stats(self) -> dict[str, Any]:
        path = self.directory / "stats.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def touch(self, name: str) -> None:
        (self.directory / name).touch()

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()

    def wait(self, condition: Any, what: str, timeout_s: float = 40.0) -> None:
        try:
            wait_until(condition, timeout_s, what)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self._describe()}") from None

    def wait_log(self, text: str, timeout_s: float = 15.0) -> None:
        """Wait until its log holds `text`."""
        self.wait(lambda: text in self.process.log_text(), f"{text!r} in its log", timeout_s)

    def _describe(self) -> str:
        """Return both sides' view: what the broker has in its queues first, for a consumer to which nothing comes."""
        try:
            queues = "\n".join(map(str, self._node.queues(self._vhost)))
        except RabbitError as exc:
            queues = f"can't be asked: {exc}"
        log = self.process.log_text()[-6000:]
        return f"broker: {queues}\nfigures: {self.stats()}\ndone: {self.done()[-20:]}\n{log}"

    def wait_done(self, numbers: list[int], timeout_s: float = 40.0) -> None:
        """Wait until exactly these are done, in this order."""
        self.wait(lambda: len(self.done()) >= len(numbers), f"{len(numbers)} messages done", timeout_s)
        assert self.done() == numbers

    def wait_settled(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until it has received that many messages and the broker was told what became of each."""

        def settled() -> bool:
            figures = self.stats()
            return bool(figures["received"] == figures["acknowledged"] + figures["rejected"] == count)

        self.wait(settled, f"{count} messages settled", timeout_s)
