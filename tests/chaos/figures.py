"""The connector's figures, as it tells them on the bus; and what the kernel says of its process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import psutil

from tests.chaos.consumer import Delivery


def total_figures(deliveries: Iterable[Delivery], names: Iterable[str]) -> dict[str, int]:
    """Return what the connector has counted in all its lives, as far as it has told: what falls begins anew."""
    totals: Counter[str] = Counter()
    latest: dict[str, int] = {}
    wanted = tuple(f"-{name}" for name in names)
    for delivery in deliveries:
        message = json.loads(delivery.body)
        source = message.get("datasource", "")
        if message.get("type") != "perf" or not source.endswith(wanted):
            continue
        name, value = source.rpartition("-")[2], int(message["value"])
        before = latest.get(name, 0)
        totals[name] += value - before if value >= before else value
        latest[name] = value
    return dict(totals)


class Usage:
    """What a process, life after life, has used: at first, at most and at last."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._rss_mb: list[float] = []

    def look(self, pid: int) -> None:
        """Look at a process, which may be gone."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                self._descriptors.append(process.num_fds())
                self._rss_mb.append(process.memory_info().rss / 1e6)
        except psutil.Error:
            pass

    def __str__(self) -> str:
        if not self._rss_mb:
            return "nothing seen of its process"
        few, much = self._descriptors, self._rss_mb
        return (
            f"descriptors {few[0]} at first, {max(few)} at most, {few[-1]} at last; "
            f"memory {much[0]:.0f}, {max(much):.0f}, {much[-1]:.0f} MB"
        )
