"""A connector with a hundred types: `vigilo-connector run bench.manytypes:build`.

Lines are renamed in turn, `event00` to `event99`. The fixed formats have four types, so four exchanges are all that
Nagios' connector fills by itself.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from vigiloconn.connectors.parts import add_journal
from vigiloconn.interfaces import Batch, RouteKey, Sink
from vigiloconn.options import Settings
from vigiloconn.socket import SocketListener
from vigiloconn.supervisor import Supervisor

_TYPES = 100
_HEAD = b'{"type":"event"'


class Spread:
    """A sink that gives each message the next type, then hands the batch on. For one writer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        names = [f"event{number:02d}" for number in range(_TYPES)]
        heads = [(RouteKey(name, None, True), b'{"type":"%s"' % name.encode()) for name in names]
        self._turns = itertools.cycle(heads)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def put(self, batch: Batch, *arguments: Any, **options: Any) -> Any:
        pairs = zip(batch.items, self._turns, strict=False)
        renamed = [(key, head + body[len(_HEAD) :]) for (_, body), (key, head) in pairs]
        size = sum(len(body) for _, body in renamed)
        return self._sink.put(replace(batch, items=renamed, size_bytes=size), *arguments, **options)


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Build it from `[connector-nagios] listen_unix`."""
    assert settings.path is not None
    lines = settings.path.read_text().splitlines()
    path = next(line.partition("=")[2].strip() for line in lines if line.startswith("listen_unix"))
    provider = add_journal(settings, supervisor)
    supervisor.add(SocketListener(path, Spread(provider)))
