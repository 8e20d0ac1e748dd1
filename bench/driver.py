"""Writes lines to a UNIX socket, as a process of its own: `python -m bench.driver JSON`.

Writes the warm-up lines and says `warm`; waits for a line on stdin; writes the lines and prints how long that took.
Paced, one line a write, when there is a rate; else as fast as the socket takes them, each writer by a thread.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.lines import STANDARD, WARM_WRITER, Shape

ROOT = Path(__file__).resolve().parents[1]
WARM_LINES = 40
_PIECE_LINES = 500
#: An answer, or room on the socket, that does not come for so long is a failure.
_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Load:
    """What is written. `rate` in lines/s, 0: full speed; `lines` in all, shared by `writers`."""

    lines: int
    rate: float = 0.0
    writers: int = 1
    sync: bool = False
    shape: Shape = STANDARD


class Driver:
    """Runs the process. A context manager that ends it."""

    def __init__(self, path: Path, load: Load) -> None:
        text = json.dumps({"path": str(path), **asdict(load)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.driver", text],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_warm(self) -> None:
        """Return once the warm-up lines are written."""
        if self._line() != "warm":
            raise AssertionError("the driver did not start")

    def go(self) -> None:
        """Let it write."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, float]:
        """Return `began` and `ended`, monotonic seconds, once all is written (and accepted, with `sync`)."""
        line = self._line()
        if not line:
            raise AssertionError("the driver ended before its last line")
        return dict(json.loads(line))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _connect(path: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(_TIMEOUT_S)
    link.connect(path)
    return link


def _write_paced(links: Sequence[socket.socket], shape: Shape, lines: int, rate: float) -> None:
    make = shape.maker()
    began = time.monotonic()
    for number in range(lines):
        pause = began + number / rate - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        writer = number % len(links)
        links[writer].sendall(make(writer, number // len(links), time.monotonic_ns()))


def _write_all(links: Sequence[socket.socket], pieces: Sequence[Sequence[bytes]]) -> None:
    failed: list[BaseException] = []

    def write(link: socket.socket, mine: Sequence[bytes]) -> None:
        try:
            for piece in mine:
                link.sendall(piece)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in zip(links, pieces, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _pieces(shape: Shape, writer: int, count: int) -> list[bytes]:
    make = shape.maker()
    numbers = [range(start, min(start + _PIECE_LINES, count)) for start in range(0, count, _PIECE_LINES)]
    return [b"".join([make(writer, number, 0) for number in piece]) for piece in numbers]


def _wait_accepted(link: socket.socket) -> None:
    link.sendall(b"sync|bench\n")
    answer = link.recv(200)
    if answer != b"synced|bench\n":
        raise SystemExit(f"expected synced, got {answer!r}")


def main(order: dict[str, Any]) -> None:
    """Do what the order says."""
    shape = Shape(**order["shape"])
    load = Load(order["lines"], order["rate"], order["writers"], order["sync"], shape)
    links = [_connect(order["path"]) for _ in range(load.writers)]
    share = load.lines // load.writers
    pieces = [] if load.rate else [_pieces(load.shape, writer, share) for writer in range(load.writers)]
    make = load.shape.maker()
    for number in range(WARM_LINES):
        links[0].sendall(make(WARM_WRITER, number, 0))
        time.sleep(0.005)
    print("warm", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    if load.rate:
        _write_paced(links, load.shape, load.lines, load.rate)
    else:
        _write_all(links, pieces)
    if load.sync:
        for link in links:
            _wait_accepted(link)
    print(json.dumps({"began": began, "ended": time.monotonic()}), flush=True)
    # The sockets stay open until the other side is done measuring.
    sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
