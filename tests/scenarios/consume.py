"""Consumers that do what the messages say and write down, in their working directory, what they have done.

A message `{"n": N}` becomes the line `N` of `done.txt`. With `do` it fails: `raise` always, `twice` the first two
times, `bad` for ever. While the file `closed` exists nothing can be done: PipeClosed, until it is gone.
`gate` makes a message wait until a file of that name exists.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import gevent

from vigiloconn.client import vigiloclient_factory
from vigiloconn.consuming import boundqueue
from vigiloconn.errors import BadMessage, PipeClosed
from vigiloconn.handlers.message import ItemFailed, MessageHandler, messagehandler_factory
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor


class Recorder(MessageHandler):
    name = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self._tries: Counter[str] = Counter()
        self._done = os.open("done.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def start_service(self) -> None:
        super().start_service()
        self.supervisor.spawn(self._watch, name="watch")

    def _watch(self) -> None:
        paused = False
        while True:
            gevent.sleep(0.05)
            if Path("pause").exists() != paused:
                paused = not paused
                (self.pause_producing if paused else self.resume_producing)()
            if self._not_now is not None and not Path("closed").exists():
                self.resume_producing()
            report = {**self.stats(), "problems": [problem.text for problem in self.problems()]}
            Path("stats.tmp").write_text(json.dumps(report))
            Path("stats.tmp").replace("stats.json")

    def process_message(self, message: dict[str, Any]) -> None:
        number, do = message["n"], message.get("do")
        if Path("closed").exists():
            raise PipeClosed("told so by a test")
        while "gate" in message and not Path(message["gate"]).exists():
            gevent.sleep(0.02)
        self._tries[number] += 1
        if do == "raise" or (do == "twice" and self._tries[number] < 3):
            raise RuntimeError(f"told to fail at {number}")
        if do == "bad":
            raise BadMessage(f"told to be bad at {number}")
        os.write(self._done, f"{number}\n".encode())


class Batches(Recorder):
    """Notes each batch as a line `# SIZE`, and says how many of it were done before a failure."""

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        os.write(self._done, f"# {len(batch)}\n".encode())
        for done, message in enumerate(batch):
            try:
                self.process_message(message)
            except Exception as exc:
                raise ItemFailed(done, exc) from exc


class Blind(Recorder):
    """Works whole batches or nothing, and can't tell which message of a batch failed."""

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        for message in batch:
            if message.get("do") == "raise":
                raise RuntimeError(f"told to fail at {message['n']}")
        for message in batch:
            self.process_message(message)


class Idle(MessageHandler):
    """Does nothing, for measuring what the rest costs."""

    def process_message(self, message: dict[str, Any]) -> None:
        pass


def _wire(settings: Settings, supervisor: Supervisor, handler: MessageHandler) -> None:
    consume = vigiloclient_factory(settings, role="consume")
    publish = vigiloclient_factory(settings, role="publish")
    messagehandler_factory(settings, handler, client=consume, publisher=publish)
    for part in (publish, consume, handler):
        supervisor.add(part)


def build(settings: Settings, supervisor: Supervisor) -> None:
    _wire(settings, supervisor, Recorder())


def build_ensuring(settings: Settings, supervisor: Supervisor) -> None:
    """Its bindings are made again after half a second, not a minute."""
    boundqueue.ENSURE_PERIOD_S = 0.5
    build(settings, supervisor)


def build_batches(settings: Settings, supervisor: Supervisor) -> None:
    _wire(settings, supervisor, Batches())


def build_blind(settings: Settings, supervisor: Supervisor) -> None:
    _wire(settings, supervisor, Blind())


def build_idle(settings: Settings, supervisor: Supervisor) -> None:
    _wire(settings, supervisor, Idle())
