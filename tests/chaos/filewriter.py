"""A writer that appends lines to a followed file, and renames it now and then. Knows neither connector nor faults.

Whatever becomes of the connector, its lines are in the file: each is an obligation as soon as it is written.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.lines import make_line
from tests.chaos.writers import Account, Written

_NAME = "file"
_PAUSE_S = 0.1
_MOST_LINES = 5
_RENAMED_SHARE = 0.01


class FileWriter:
    """A thread that appends until it is told to stop."""

    def __init__(self, path: Path, kinds: Sequence[str], account: Account, seed: int) -> None:
        self._path = path
        self._kinds = kinds
        self._account = account
        self._chance = random.Random(seed)
        self._number = account.newest[_NAME] = 0
        self._renamed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file writer", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Write no more. Answers whether it has ended."""
        self._stop.set()
        self._thread.join(max(timeout_s, 2 * _PAUSE_S))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S * self._chance.uniform(0.5, 1.5)):
            self._append()
            if self._chance.random() < _RENAMED_SHARE:
                self._renamed += 1
                self._path.rename(self._path.with_name(f"{self._path.name}-{self._renamed:03}"))

    def _append(self) -> None:
        lines = []
        for _ in range(self._chance.randint(1, _MOST_LINES)):
            self._number += 1
            kind = self._kinds[self._number % len(self._kinds)]
            lines.append(make_line(self._chance, _NAME, self._number, kind, 200))
        now = time.monotonic()
        # Known before they are written: they may be on the bus at once.
        self._account.written.extend(Written(line, now, now) for line in lines)
        self._account.newest[_NAME] = self._number
        data = b"".join(line.text.encode() + b"\n" for line in lines)
        cut = self._chance.randrange(len(data))
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, data[:cut])
            os.write(fd, data[cut:])
        finally:
            os.close(fd)
