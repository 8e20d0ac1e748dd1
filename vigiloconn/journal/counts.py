"""Totals of a journal's tables, as a transaction changes them. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from vigiloconn.journal.clock import Stamp


@dataclass(slots=True)
class Counts:
    """Gauges that change with a transaction, or not at all."""

    rows: int = 0
    """In the main and the held table."""
    size_bytes: int = 0
    held: dict[str, int] = field(default_factory=dict)
    parked_rows: int = 0
    parked_bytes: int = 0
    newest_range: Stamp | None = None
    """Acceptance time of the newest range."""
    ranges: int = 0
    """Ranges whose times are stored."""

    def copy(self) -> Counts:
        # By hand: each transaction begins with it.
        return Counts(
            self.rows, self.size_bytes, dict(self.held), self.parked_rows, self.parked_bytes,
            self.newest_range, self.ranges,
        )  # fmt: skip

    def add_held(self, exchange: str, rows: int) -> None:
        left = self.held.get(exchange, 0) + rows
        if left:
            self.held[exchange] = left
        else:
            self.held.pop(exchange, None)
