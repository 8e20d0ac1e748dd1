"""One request and its reply, as the functions behind a path see them. Values only, no sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from vigiloconn.errors import VigiloError

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"


class Peer(NamedTuple):
    """The process at the other end of the UNIX socket, as the kernel tells."""

    pid: int
    uid: int
    gid: int


class Request(NamedTuple):
    """What is asked for."""

    method: str
    path: str
    query: Mapping[str, str]
    """Parameters behind the `?`, the last one of each name."""
    body: bytes
    peer: Peer | None
    """None where it came over TCP."""


class Reply(NamedTuple):
    """What is answered."""

    body: bytes | Iterable[bytes]
    """An iterable is sent piece by piece, as it comes: for what is too long for memory."""
    content_type: str = TEXT
    status: int = 200


Function = Callable[[Request], Reply]


class Refused(VigiloError):
    """Raised by the function behind a path when it can't do what is asked; `status` is HTTP's."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def as_json(value: Any, status: int = 200) -> Reply:
    """Return a value as a JSON document that a person can read as well."""
    return Reply(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", JSON, status)


def as_text(text: str, status: int = 200) -> Reply:
    """Return one line of text."""
    return Reply(f"{text}\n".encode(), TEXT, status)
