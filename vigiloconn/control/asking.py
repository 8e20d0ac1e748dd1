"""Asking a running connector by its control socket. Knows HTTP on a UNIX socket; imports no gevent."""

from __future__ import annotations

import http.client
import os
import socket
import struct
from typing import NamedTuple

from vigiloconn.errors import VigiloError
from vigiloconn.kit.limits import MAX_SOCKET_PATH_BYTES

#: What the kernel takes as a time limit: seconds and microseconds.
_TIMEVAL = struct.Struct("@ll")


class CantAsk(VigiloError):
    """Raised when no answer was to be had. `is_absent`: nobody listens there."""

    def __init__(self, text: str, is_absent: bool = False) -> None:
        super().__init__(text)
        self.is_absent = is_absent


class Answer(NamedTuple):
    """What the connector has answered."""

    status: int
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without the last newline."""
        return self.body.decode("utf-8", "replace").removesuffix("\n")


def ask(
    path: str | os.PathLike[str], target: str, body: bytes | None = None, *, timeout_s: float = 10.0
) -> Answer:
    """GET `target`, or POST `body` there, on the control socket at `path`; return the answer, whatever its status.

    Each step may take `timeout_s`. Raises `CantAsk`.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request("GET" if body is None else "POST", target, body)
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("Content-Type", ""), response.read())
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise CantAsk(f"control socket {path}: {exc.strerror}: is the connector running?", is_absent=True) from exc
    except PermissionError as exc:
        raise CantAsk(f"control socket {path}: {exc.strerror}: is this user in socket_group?") from exc
    except (TimeoutError, BlockingIOError) as exc:
        raise CantAsk(f"control socket {path}: no answer within {timeout_s:g} s") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise CantAsk(f"control socket {path}: {exc}") from exc
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str | os.PathLike[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = os.fspath(path)
        self._timeout_s = timeout_s

    def connect(self) -> None:
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH_BYTES:
            raise OSError(f"the path has more than {MAX_SOCKET_PATH_BYTES} bytes")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket with Python's timeout does not wait for a place in the listener's queue, this one does.
        seconds, left = divmod(self._timeout_s, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(left * 1e6)))
        self.sock.connect(self._path)
        self.sock.settimeout(self._timeout_s)
