"""Keeps a connector running, as systemd would, and notes each end that nobody asked for. Knows processes."""

from __future__ import annotations

import signal
import threading
import time

from tests.chaos.controls import Controls
from tests.support.connector import ConnectorProcess

_RESTART_S = 0.2
#: How long a start may take until SIGTERM means the orderly stop; before that nothing has begun that it could end.
_START_S = 2.0


class Keeper:
    """A thread that starts the connector again whenever it has ended, unless it is told to keep it down.

    `surprises` are ends that neither `kill`, `stop` nor a point in the code have caused: (monotonic seconds, status).
    """

    def __init__(self, connector: ConnectorProcess, controls: Controls) -> None:
        self.surprises: list[tuple[float, int]] = []
        self.starts = 0
        self._connector = connector
        self._controls = controls
        self._deaths = 0.0
        self._launched_s = 0.0
        self._may_run = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._asked = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Let it run from now on."""
        self._may_run.set()
        self._thread.start()

    def release(self) -> None:
        """Let it run again."""
        self._may_run.set()

    def kill(self) -> None:
        """SIGKILL; it stays down until `release`."""
        self._end(signal.SIGKILL, 10.0)

    def stop(self, timeout_s: float) -> int | None:
        """Ask for the orderly stop and return the status; None, and SIGKILL, when there was no end in time.
        It stays down until `release`."""
        return self._end(signal.SIGTERM, timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal that does not end it."""
        with self._lock:
            if self._connector.is_running:
                self._connector.process.send_signal(number)

    def close(self) -> None:
        """Look after it no more."""
        self._closing.set()
        self._may_run.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _end(self, number: int, timeout_s: float) -> int | None:
        with self._lock:
            self._may_run.clear()
            self._asked = True
            if not self._connector.is_running:
                return 0
            self._connector.process.send_signal(signal.SIGCONT)
            self._connector.process.send_signal(number)
            is_young = time.monotonic() - self._launched_s < _START_S
            try:
                status = self._connector.wait(timeout_s)
                return 0 if is_young and status == -signal.SIGTERM else status
            except AssertionError:
                self._connector.kill()
                return None

    def _run(self) -> None:
        while not self._closing.is_set():
            self._may_run.wait()
            if self._closing.is_set():
                return
            with self._lock:
                if self._may_run.is_set() and not self._connector.is_running:
                    self._note_end()
                    self._connector.launch()
                    self._launched_s = time.monotonic()
                    self.starts += 1
            self._closing.wait(_RESTART_S)

    def _note_end(self) -> None:
        if self.starts:
            status = self._connector.process.returncode
            was_meant = self._asked or self._controls.deaths > self._deaths
            if not was_meant:
                self.surprises.append((time.monotonic(), status))
        self._deaths = self._controls.deaths
        self._asked = False
