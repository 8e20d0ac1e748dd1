"""Connecting to a TCP service over IPv6 and IPv4 alike (RFC 8305, "Happy Eyeballs"). Knows addresses, not protocols."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

# gevent's socket by name: it cooperates whether or not the stdlib's is patched.
from gevent import Greenlet, socket
from gevent.queue import Empty, SimpleQueue

from vigiloconn.errors import BusDown
from vigiloconn.kit.endpoint import Endpoint, parse_endpoint

__all__ = ["Endpoint", "connect", "interleave", "parse_endpoint"]

#: RFC 8305, section 5: how long an attempt runs alone before the next address is tried beside it.
ATTEMPT_DELAY_S = 0.25

#: What `getaddrinfo` gives: family, kind, protocol, canonical name, address.
_AddressInfo = tuple[Any, Any, int, str, Any]


def connect(
    endpoint: Endpoint,
    timeout_s: float,
    *,
    spawn: Callable[..., Greenlet[..., Any]],
    attempt_delay_s: float = ATTEMPT_DELAY_S,
) -> socket.socket:
    """Return a TCP connection to the first address of `endpoint` that answers: blocking, `TCP_NODELAY` set.

    Both families take turns; the next address is tried when the one before has failed or has not answered within
    `attempt_delay_s`, beside it. `spawn(function, *args)` starts a greenlet; the function never raises. Raises
    `BusDown`, naming what each address said, when nothing has answered within `timeout_s`, name resolution included.
    """
    deadline_s = time.monotonic() + timeout_s
    race = _Race(spawn)
    try:
        return race.run(_resolve(endpoint, timeout_s), endpoint, deadline_s, attempt_delay_s)
    finally:
        race.end()


def interleave(addresses: list[_AddressInfo]) -> list[_AddressInfo]:
    """Return the addresses with the families taking turns, the first one's first, each once, else in their order."""
    families: dict[Any, list[_AddressInfo]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address[0], []).append(address)
    queues = list(families.values())
    longest = max(map(len, queues), default=0)
    return [queue[index] for index in range(longest) for queue in queues if index < len(queue)]


def _resolve(endpoint: Endpoint, timeout_s: float) -> list[_AddressInfo]:
    try:
        with gevent.Timeout(timeout_s, TimeoutError(f"no answer within {timeout_s:g} s")):
            addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    # UnicodeError: a label that is empty or too long fails in the IDNA codec, before the resolver sees it.
    except (OSError, UnicodeError) as exc:
        raise BusDown(f"{endpoint}: name can't be resolved: {exc}") from exc
    return interleave(list(addresses))


class _Race:
    """Attempts to connect that run side by side until one has won. Leaves neither greenlets nor sockets behind."""

    def __init__(self, spawn: Callable[..., Greenlet[..., Any]]) -> None:
        self._spawn = spawn
        self._results: SimpleQueue[tuple[str, socket.socket | OSError]] = SimpleQueue()
        self._attempts: list[Greenlet[..., Any]] = []
        self._over = False

    def run(
        self, addresses: list[_AddressInfo], endpoint: Endpoint, deadline_s: float, attempt_delay_s: float
    ) -> socket.socket:
        failures: dict[str, str] = {}
        waiting = list(reversed(addresses))
        failed = 0
        next_attempt_s = 0.0
        while waiting or failed < len(self._attempts):
            now_s = time.monotonic()
            if now_s >= deadline_s:
                break
            all_failed = failed == len(self._attempts)
            if waiting and (all_failed or now_s >= next_attempt_s):
                self._attempts.append(self._spawn(self._attempt, waiting.pop(), deadline_s))
                next_attempt_s = now_s + attempt_delay_s
            until_s = min(deadline_s, next_attempt_s) if waiting else deadline_s
            try:
                address, outcome = self._results.get(timeout=max(0.0, until_s - now_s))
            except Empty:
                continue
            if not isinstance(outcome, OSError):
                return outcome
            failed += 1
            failures[address] = outcome.strerror or str(outcome)
            # At once: what has failed does not hold back the next address.
            next_attempt_s = 0.0
        said = (f"{address[4][0]}: {failures.get(address[4][0], 'no answer in time')}" for address in addresses)
        raise BusDown(f"{endpoint}: no connection: {'; '.join(said)}")

    def end(self) -> None:
        """End what still runs and close what connected too late."""
        self._over = True
        for attempt in self._attempts:
            attempt.kill(block=False)
        while not self._results.empty():
            _, outcome = self._results.get()
            if not isinstance(outcome, OSError):
                outcome.close()

    def _attempt(self, info: _AddressInfo, deadline_s: float) -> None:
        family, kind, protocol, _, address = info
        connection = None
        handed_over = False
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            connection.connect(address)
            if connection.getsockname() == connection.getpeername():
                # Nobody listens on a local port of the ephemeral range, and the kernel joined the socket to itself.
                raise ConnectionRefusedError("nobody listens there")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(None)
            if not self._over:
                self._results.put((address[0], connection))
                handed_over = True
        except OSError as exc:
            self._results.put((address[0], exc))
        finally:
            if connection is not None and not handed_over:
                connection.close()
