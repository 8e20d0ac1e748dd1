"""A connector that runs inside a test. Knows `build` and a supervisor, on a bus in memory or on a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from vigiloconn.options import Settings, parse_settings
from vigiloconn.supervisor import Handler, Supervisor
from vigiloconn.testing.memory import MemoryBus, wait_until

Build = Callable[[Settings, Supervisor], None]

_STOP_TIMEOUT_S = 5.0


class Running:
    """What a test has of the connector that runs."""

    def __init__(self, supervisor: Supervisor, settings: Settings, bus: MemoryBus | None) -> None:
        self.supervisor = supervisor
        self.settings = settings
        self.exit_status: int | None = None
        """None while it runs."""
        self._bus = bus

    @property
    def bus(self) -> MemoryBus:
        """The bus in memory. Raises `RuntimeError` where the connector is on a real broker."""
        if self._bus is None:
            raise RuntimeError(
                "running.bus: there is no bus in memory with on_memory=False;"
                " talk to the broker that the settings name by a client of the test's own"
            )
        return self._bus

    def handler(self, kind: type[Handler] | str) -> Any:
        """Return the part of that class or name."""
        found = [
            each for each in self.supervisor.handlers
            if (each.name == kind if isinstance(kind, str) else isinstance(each, kind))
        ]  # fmt: skip
        assert found, f"expected a part {kind!r} among {[each.name for each in self.supervisor.handlers]}"
        return found[0]

    def wait(self, condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
        """Let it work until `condition()` is true. Raises `AssertionError`."""
        wait_until(condition, what or "the condition of the test", timeout_s)


@contextmanager
def run_connector(
    build: Build, settings: str = "", *, connector: str = "test", bus: MemoryBus | None = None, on_memory: bool = True
) -> Iterator[Running]:
    """Run what `build` makes with these settings, the text of a file, until the block is left; then stop it in order.

    The bus is `bus`, a new one where there is none, or with `on_memory=False` the broker that the settings name. Where
    they name no journal it is in memory. What it raises at the start is raised here; `exit_status` is there at the end.
    Raises `ValueError` for a `bus` that `on_memory=False` leaves unused.
    """
    if bus is not None and not on_memory:
        raise ValueError("run_connector: expected bus= or on_memory=False, got both: the connector is on one bus")
    own = getattr(sys.modules.get(build.__module__), "SETTINGS", None)
    if "backup_file" not in settings:
        settings = _with_journal_in_memory(settings)
    parsed = parse_settings(settings, connector=connector, own=own)
    supervisor = Supervisor(stop_timeout_s=_STOP_TIMEOUT_S)
    memory = (bus or MemoryBus()) if on_memory else None
    if memory is not None:
        supervisor.open_connection = memory.connect
    build(parsed, supervisor)
    running = Running(supervisor, parsed, memory)
    greenlet = gevent.spawn(supervisor.run)
    try:
        gevent.sleep(0)
        yield running
    finally:
        supervisor.stop()
        running.exit_status = greenlet.get(timeout=_STOP_TIMEOUT_S * 2)


def _with_journal_in_memory(settings: str) -> str:
    if "[connector]" in settings:
        return settings.replace("[connector]", "[connector]\nbackup_file = :memory:", 1)
    return f"{settings}\n[connector]\nbackup_file = :memory:\n"
