"""The reading side of a relay: one writer on a UNIX socket. Knows lines, no library and no broker."""

from __future__ import annotations

import os
import socket


def listen(path: str) -> socket.socket:
    """Return a listening socket at `path`, which appears there at once ready for connections."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen(8)
    os.rename(f"{path}.new", path)
    return server


class LineReader:
    """Reads one connection; those that close without a word (somebody looks whether we listen) are passed over."""

    def __init__(self, path: str) -> None:
        self._server = listen(path)
        self._link: socket.socket | None = None
        self._rest = b""

    def read(self) -> list[bytes]:
        """Return the whole lines that the next read brings, without newlines; none at the end."""
        while True:
            if self._link is None:
                self._link, _ = self._server.accept()
            data = self._link.recv(65536)
            if not data and self._rest == b"":
                self._link = None
                continue
            if not data:
                return []
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return lines
