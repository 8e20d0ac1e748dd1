"""A TCP proxy before one port, to break a connection in every way. Knows commands; the bytes are the program's.

It runs in a process of its own (`proxy_server.py`), so that a test may patch or block its own threads as it likes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Literal

from tests.support.rabbit import HOST, free_ports


class TcpProxy:
    """Passes connections to a port of its own on to `target_port`. A context manager that ends its process.

    A target that `speaks_amqp` can have its answers swallowed.
    """

    host = HOST

    def __init__(self, target_port: int, *, speaks_amqp: bool = False) -> None:
        (self.port,) = free_ports(1)
        program = Path(__file__).with_name("proxy_server.py")
        self._process = subprocess.Popen(
            [
                sys.executable, "-I", "-S", str(program), str(self.port), str(target_port),
                *(["amqp"] if speaks_amqp else []),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True,
        )
        self._answer("start")

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def pause(self) -> None:
        """Let nothing through in either direction. Connections stay, new ones are taken and hang."""
        self._ask("pause")

    def resume(self) -> None:
        """Let everything through that `pause` held back, and what comes."""
        self._ask("resume")

    def cut(self, how: Literal["rst", "fin"] = "rst") -> None:
        """End every connection on both sides, by a reset or in order. New ones are taken as before."""
        self._ask(f"cut {how}")

    def refuse(self) -> None:
        """Refuse new connections. Open ones stay: `cut` them."""
        self._ask("refuse")

    def accept(self) -> None:
        """Take new connections again."""
        self._ask("accept")

    def delay(self, ms: float) -> None:
        """Deliver what is read from now on that much later, in each direction. The rate stays as it was."""
        self._ask(f"delay {ms}")

    def rate(self, bytes_s: int) -> None:
        """Let no more than that through in a second, in each direction of each connection; 0: as fast as it goes."""
        self._ask(f"rate {bytes_s}")

    def swallow(self, what: Literal["nothing", "confirms", "answers"]) -> None:
        """Keep the target's confirms, or all its answers but heartbeats, from whoever is connected.

        Only where the target `speaks_amqp`. What was swallowed never comes: `cut` the connection afterwards.
        """
        self._ask(f"swallow {what}")

    def connections(self) -> int:
        """Return the number of connections that are open."""
        return int(self._ask("connections"))

    def connections_ever(self) -> int:
        """Return the number of connections that were taken since the start."""
        return int(self._ask("connections_ever"))

    def close(self) -> None:
        """End the process. Its input's end does that too, so it can't outlive the test."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer(command)

    def _answer(self, command: str) -> str:
        assert self._process.stdout is not None
        status, _, value = self._process.stdout.readline().rstrip("\n").partition(" ")
        if status != "ok":
            raise RuntimeError(f"proxy on port {self.port}: {command}: {status} {value}".rstrip())
        return value
