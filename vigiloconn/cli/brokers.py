"""What `check --connect` can see of the brokers: logs in, looks at names and rights, delivers and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vigiloconn.bus.session import bus_session
from vigiloconn.client import VigiloClient
from vigiloconn.consuming.deadletter import SUFFIX
from vigiloconn.errors import BusDown, BusRefused, SettingsError
from vigiloconn.handlers.publisher import BusPublisher
from vigiloconn.interfaces import Connection
from vigiloconn.ipv6 import Endpoint, parse_endpoint
from vigiloconn.kit.certificate import ends_at
from vigiloconn.options import BusSettings, Settings
from vigiloconn.settings.files import read_text
from vigiloconn.supervisor import Handler
from vigiloconn.topology import rights
from vigiloconn.topology.apply import apply_topology, request
from vigiloconn.topology.wanted import Queue, Topology

_DAY_S = 86_400
_FEW_DAYS = 30
_TYPES = ("event", "perf", "state", "nagios")
_GRANT = "grant it on the broker (rabbitmqctl set_permissions)"

_ALARM = "it takes no messages: a memory or disk alarm; free memory or disk there, then check again"


class Use(NamedTuple):
    """One section of brokers, and what the connector does there."""

    section: str
    bus: BusSettings
    publishes: bool


def uses(settings: Settings, parts: Sequence[Handler]) -> list[Use]:
    """Return the sections of brokers that are to be looked at: each `[bus:NAME]`, and `[bus]` where a part uses it."""
    clients = [part for part in parts if isinstance(part, VigiloClient)]
    publishing = [part.client for part in parts if isinstance(part, BusPublisher)]
    found = []
    for section, bus in (("bus", settings.bus), *((f"bus:{name}", bus) for name, bus in settings.buses.items())):
        ours = [client for client in clients if client.settings is bus]
        if ours or section != "bus" or not clients:
            publishes = any(client in publishing for client in ours) or (section == "bus" and not publishing)
            found.append(Use(section, bus, publishes))
    return found


def brokers_problems(settings: Settings, use: Use, note: Callable[[str], object] = print) -> Iterator[str]:
    """Give a line for each thing that is wrong with a broker of one section, and for the login that fails.

    `note` is told how long each certificate is good. Raises `SettingsError` for a certificate that can't be read.
    """
    bus, place = use.bus, f"[{use.section}] "
    if bus.use_ssl and bus.cert_file:
        own, now = _own_certificate_ends_at(bus.cert_file, place), time.time()
        if own < now:
            yield f"{place}cert_file {bus.cert_file}: {certificate_words(own, now, 'our own')}"
        else:
            note(f"{place}cert_file {bus.cert_file}: {certificate_words(own, now, 'our own')}")
    for host in bus.hosts:
        endpoint = parse_endpoint(host, bus.default_port)
        try:
            with bus_session(bus, endpoint, name="vigilo-connector check") as connection:
                # It would leave what is asked for without an answer.
                connection.on_blocked = partial(_leave_alarmed, connection)
                broker_ends_at = connection.certificate_ends_at()
                if broker_ends_at is not None:
                    note(f"{place}{endpoint}: {certificate_words(broker_ends_at, time.time())}")
                for problem in _on_broker(connection, settings, use):
                    yield f"{place}{endpoint}: {problem}"
        except (BusDown, BusRefused) as exc:
            yield f"{place}{_named(endpoint, exc)}"


def _leave_alarmed(connection: Connection, blocked: bool) -> None:
    if blocked:
        connection.abort(_ALARM)


def certificate_words(ends_at: float, now: float, whose: str = "the broker's") -> str:
    """Return what is told of a certificate that is good until `ends_at`."""
    days = int((ends_at - now) // _DAY_S)
    until = time.strftime("%Y-%m-%d", time.gmtime(ends_at))
    if ends_at < now:
        return f"{whose} certificate was good until {until}: put a new one there"
    few = "only " if days < _FEW_DAYS else ""
    return f"{whose} certificate is good for {few}{days} days more, until {until}"


def _own_certificate_ends_at(path: str, place: str) -> float:
    try:
        return ends_at(read_text(Path(path)))
    except ValueError as exc:
        raise SettingsError(f"{place}cert_file {path}: {exc}") from exc


def _named(endpoint: Endpoint, error: BusDown | BusRefused) -> str:
    return str(error) if str(endpoint) in str(error) else f"{endpoint}: {error}"


def _on_broker(connection: Connection, settings: Settings, use: Use) -> Iterator[str]:
    if use.publishes:
        kinds = (*_TYPES, *settings.publications) if settings.connector == "nagios" else tuple(settings.publications)
        for exchange, kind in sorted({settings.publication(kind).exchange: kind for kind in reversed(kinds)}.items()):
            yield from _exchange(connection, exchange, kind)
    if use.bus.queue:
        yield from _queue(connection, use.bus, use.bus.queue)


def _exchange(connection: Connection, exchange: str, key: str) -> Iterator[str]:
    if (refusal := _missing(connection, exchange)) is not None:
        yield f"exchange {exchange}: {refusal}"
    elif (refusal := rights.why_not_write(connection, exchange, key)) is not None:
        yield f"exchange {exchange}: no right to write, so nothing can be sent to it: {refusal}: {_GRANT}"


def _queue(connection: Connection, bus: BusSettings, queue: str) -> Iterator[str]:
    wanted = Topology(queues=(Queue(queue, bus.queue_type, bus.queue_messages_ttl_s or None),))
    for result in apply_topology(connection, wanted, check=True):
        if result.is_failure:
            yield str(result)
    if (refusal := rights.why_not_consume(connection, queue)) is not None:
        yield f"queue {queue}: no right to read, so nothing can be consumed: {refusal}: {_GRANT}"
    for exchange in sorted({each.exchange for each in bus.subscriptions}):
        if (refusal := _missing(connection, exchange)) is not None:
            yield f"subscriptions: exchange {exchange}: {refusal}"
        elif (refusal := rights.why_not_bind(connection, queue, exchange)) is not None:
            yield f"subscriptions: {queue} can't be bound to {exchange}: {refusal}: {_GRANT}"
    if bus.dead_letter:
        yield from _dead_letters(connection, queue + SUFFIX)


def _dead_letters(connection: Connection, queue: str) -> Iterator[str]:
    if (refusal := rights.why_not_declare(connection, queue)) is not None:
        yield f"queue {queue}: no right to configure, so what can't be handled can't go there: {refusal}: {_GRANT}"
    if (refusal := rights.why_not_write(connection, "", queue)) is not None:
        yield f"queue {queue}: no right to write by the default exchange (amq.default): {refusal}: {_GRANT}"


def _missing(connection: Connection, exchange: str) -> BusRefused | None:
    return request(connection, partial(_look_at, exchange))


def _look_at(exchange: str, channel: Any) -> None:
    channel.exchange_declare(exchange, "direct", passive=True)
