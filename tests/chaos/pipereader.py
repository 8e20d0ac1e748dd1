"""Stands in for Nagios: reads a command pipe, and files of commands that it is told of. Knows FIFOs."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

_TURN_S = 0.05
_FILE = b"PROCESS_FILE;"


class PipeReader:
    """A thread that reads the pipe `path`, which it makes, until it is told to stop. `commands` are whole lines."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.commands: list[bytes] = []
        self._unread = b""
        # For writing as well: without a writer a reader would see an end each time that the connector dies.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._may_read = threading.Event()
        self._may_read.set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pipe reader", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Read nothing, as a Nagios does that is busy."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read again."""
        self._may_read.set()

    def finish(self) -> None:
        """Read what is there, and no more. Harmless when called twice."""
        self.resume()
        self._stop.set()
        self._thread.join(10.0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        while True:
            self._may_read.wait()
            if select.select([self._fd], [], [], _TURN_S)[0]:
                self._take(os.read(self._fd, 65536))
            elif self._stop.is_set():
                return

    def _take(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if _FILE in line:
                self._take_file(Path(os.fsdecode(line.split(b";")[1])))
            else:
                self.commands.append(line)

    def _take_file(self, path: Path) -> None:
        try:
            self.commands += path.read_bytes().splitlines()
            path.unlink()
        except FileNotFoundError:
            pass  # told of twice, which is harmless: the first time it was read and deleted
