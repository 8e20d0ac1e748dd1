"""Endpoints of TCP services as people write them. Knows text, nothing of sockets."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple


class Endpoint(NamedTuple):
    """A host, by name or address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, default_port: int) -> Endpoint:
    """Return the endpoint that `host`, `host:port`, `[v6]` or `[v6]:port` names.

    Raises `ValueError` with a reason for the one who wrote it.
    """
    text = text.strip()
    if "://" in text:
        raise ValueError(f"expected host or host:port, got the URL {text!r}")
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing:
            raise ValueError(f"the bracket in {text!r} is not closed: expected [address] or [address]:port")
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise ValueError(f"expected an IPv6 address in brackets, got {text!r}: {exc}") from exc
        if rest and not rest.startswith(":"):
            raise ValueError(f"expected nothing or :port after the bracket, got {text!r}")
        return Endpoint(host, _parse_port(rest[1:], text) if rest else default_port)
    if text.count(":") > 1:
        raise ValueError(f"{text!r} does not tell address from port: put an IPv6 address in brackets, [address]:port")
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError(f"expected a host, got {text!r}")
    if any(character.isspace() or character in "/@[]," for character in host):
        raise ValueError(f"expected a host name or an address, got {host!r}")
    return Endpoint(host, _parse_port(port, text) if colon else default_port)


def _parse_port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"expected a port from 1 to 65535, got {port!r} in {text!r}")
    return int(port)
