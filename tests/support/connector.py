"""The connector as a process of its own, as an operator runs it. Knows its command line, socket and log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from tests.support import children
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
#: How long a test's writer waits for room on the socket or for an answer before it fails.
_SOCKET_TIMEOUT_S = 30.0

Section = Mapping[str, object]


class Writer:
    """One connection to the connector's socket."""

    def __init__(self, path: Path) -> None:
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.settimeout(_SOCKET_TIMEOUT_S)
        self._unread = b""
        try:
            self._link.connect(str(path))
        except OSError:
            self._link.close()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, lines: Iterable[str | bytes] | str | bytes) -> None:
        """Write lines, each with a newline added. One string is one line. Blocks while the connector takes none."""
        if isinstance(lines, (str, bytes)):
            lines = [lines]
        self.send_raw(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))

    def send_raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._link.sendall(data)

    def ask_sync(self, token: str) -> None:
        """Write `sync|TOKEN` and don't wait for the answer."""
        self.send(f"sync|{token}")

    def sync(self, token: str = "t", timeout_s: float = 30.0) -> None:
        """Return once everything written before is accepted. Raises `AssertionError` on any other answer."""
        self.ask_sync(token)
        answer = self.read_line(timeout_s)
        if answer != f"synced|{token}":
            raise AssertionError(f"expected synced|{token}, got {answer!r}")

    def read_line(self, timeout_s: float = 30.0) -> str:
        """Return the next answer without its newline; what is left at the connection's end, be it empty.

        Raises `TimeoutError` when the connector stays silent for `timeout_s`.
        """
        self._link.settimeout(timeout_s)
        try:
            while b"\n" not in self._unread:
                data = self._link.recv(4096)
                if not data:
                    break
                self._unread += data
        finally:
            self._link.settimeout(_SOCKET_TIMEOUT_S)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def finish(self) -> None:
        """Close the writing half; answers can still be read."""
        self._link.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._link.close()


class ConnectorProcess:
    """A connector with its files in `directory`: settings.ini, send.sock, backup.sqlite, connector.log.

    Sections are given as mappings from key to value; socket and journal are set unless the sections do it.
    It runs with `directory` as its working directory, or `cwd`; `program` is the module that is run in place of the
    connector's own, with `environment` in addition.
    A context manager that starts it and always ends it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bus: Section,
        connector: Section | None = None,
        nagios: Section | None = None,
        publications: Section | None = None,
        log_level: str = "INFO",
        name: str = "nagios",
        cwd: Path | None = None,
        program: str = "vigiloconn",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._cwd = cwd or directory
        self._environment = dict(environment or {})
        self.directory = directory
        self.settings_path = directory / "settings.ini"
        self.log_path = directory / "connector.log"
        nagios = {"listen_unix": directory / "send.sock", **(nagios or {})}
        connector = {"backup_file": directory / "backup.sqlite", **(connector or {})}
        self.socket_path = Path(str(nagios["listen_unix"]))
        self.journal_path = Path(str(connector["backup_file"]))
        self._argv = [sys.executable, "-m", program, "run", name, "--config", str(self.settings_path)]
        self._argv += ["--log-level", log_level]
        sections = {"bus": bus, "connector": connector, "connector-nagios": nagios, "publications": publications or {}}
        directory.mkdir(parents=True, exist_ok=True)
        self.settings_path.touch(mode=0o600)
        self.settings_path.write_text(render_settings(sections), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: Writer | None = None

    def __enter__(self) -> ConnectorProcess:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running or ended process. Raises `AssertionError` before the first start."""
        if self._process is None:
            raise AssertionError("the connector was not started")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process and don't wait for anything."""
        assert not self.is_running, "the connector runs already"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        env.update(self._environment)
        with self.log_path.open("ab") as log:
            self._process = children.spawn(self._argv, env=env, cwd=self._cwd, stdout=log)

    def start(self, timeout_s: float = 15.0) -> None:
        """Start, again after `kill` or `terminate` too, and wait until the socket takes connections."""
        self.launch()
        wait_until(self._is_ready, timeout_s, f"the connector listens on {self.socket_path}")

    def writer(self) -> Writer:
        """Return another connection to the socket. It is the caller's to close."""
        return Writer(self.socket_path)

    def send(self, lines: Iterable[str | bytes] | str | bytes) -> None:
        """Write lines on the connection that this object keeps."""
        self._own_writer().send(lines)

    def sync(self, token: str = "t", timeout_s: float = 30.0) -> None:
        """Return once everything that `send` wrote is accepted. Raises `AssertionError` on any other answer."""
        self._own_writer().sync(token, timeout_s)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Return the exit status once the process has ended by itself."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"the connector runs on after {timeout_s:g} s\n{self.log_text()}") from exc

    def terminate(self, timeout_s: float = 10.0) -> int:
        """Ask for the orderly stop (SIGTERM) and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """End it at this moment (SIGKILL)."""
        children.end(self.process)
        self._forget_writer()

    def close(self) -> None:
        """End it in whatever state it is. Harmless when called twice."""
        self._forget_writer()
        if self._process is not None:
            children.end(self._process)

    def rss_mb(self) -> float:
        """Return the resident memory in units of a million bytes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def cpu_s(self) -> float:
        """Return the seconds of CPU that it has used, its threads included."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def log_text(self) -> str:
        """Return what it has logged in all its lives."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def wait_log(self, text: str, timeout_s: float = 15.0) -> None:
        """Return once the log holds `text`. Raises `AssertionError` with the log otherwise."""
        try:
            wait_until(lambda: text in self.log_text(), timeout_s, f"{text!r} in the connector's log")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.log_text()}") from None

    def _is_ready(self) -> bool:
        if not self.is_running:
            raise AssertionError(f"the connector ended with status {self.process.returncode}\n{self.log_text()}")
        try:
            Writer(self.socket_path).close()
        except OSError:
            return False
        return True

    def _own_writer(self) -> Writer:
        if self._writer is None:
            self._writer = self.writer()
        return self._writer

    def _forget_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def render_settings(sections: Mapping[str, Section]) -> str:
    """Return the text of a settings file. Sequences become lists with commas."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{key} = {text}")
        lines.append("")
    return "\n".join(lines)
