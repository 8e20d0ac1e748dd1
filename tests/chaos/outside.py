"""Another program that writes to the journal's table. Knows SQLite and lines, not when it writes."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.chaos.lines import make_line
from tests.chaos.writers import Account, Written

NAME = "outside"
_LOCK_S = 20.0
_MAX_TEXT = 20


class OutsideWriter:
    """Puts messages into the table: what it has committed is as good as what a writer was told is safe."""

    def __init__(self, path: Path, account: Account, kinds: Sequence[str], seed: int) -> None:
        self._path = path
        self._account = account
        self._kinds = kinds
        self._chance = random.Random(seed)
        self._number = 0

    def put(self, count: int) -> None:
        """Put so many messages into the journal, or none where it is locked for long or its disk is full."""
        if not self._kinds:
            return
        lines = [
            make_line(self._chance, NAME, self._number + at, self._chance.choice(self._kinds), _MAX_TEXT)
            for at in range(1, count + 1)
        ]
        written = [Written(line, time.monotonic()) for line in lines]
        with closing(sqlite3.connect(self._path, timeout=_LOCK_S, isolation_level=None)) as file:
            try:
                file.execute("BEGIN IMMEDIATE")
                file.executemany("INSERT INTO tobus (msg) VALUES (?)", [(json.dumps(line.body),) for line in lines])
                # Before the commit: the connector may be quicker than this thread.
                self._account.written.extend(written)
                self._number += count
                file.execute("COMMIT")
            except sqlite3.OperationalError:
                # Not committed: then nobody is obliged to anything.
                return
        now_s = time.monotonic()
        for each in written:
            each.synced_at = now_s
