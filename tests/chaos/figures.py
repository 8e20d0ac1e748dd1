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
    """The most and the latest that a process, life after life, has used."""

    def __init__(self) -> None:
        self.descriptors = self.most_descriptors = 0
        self.rss_mb = self.most_rss_mb = 0.0

    def look(self, pid: int) -> None:
        """Look at a process, which may be gone."""
        try:
            process = psutil.Process(pid)
            self.descriptors, self.rss_mb = process.num_fds(), process.memory_info().rss / 1e6
        except psutil.Error:
            return
        self.most_descriptors = max(self.most_descriptors, self.descriptors)
        self.most_rss_mb = max(self.most_rss_mb, self.rss_mb)

    def __str__(self) -> str:
        return (
            f"{self.descriptors} descriptors (at most {self.most_descriptors}), "
            f"{self.rss_mb:.0f} MB (at most {self.most_rss_mb:.0f})"
        )
