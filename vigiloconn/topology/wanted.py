"""What should be on the bus: exchanges, queues and bindings of a file. Pure; knows no broker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vigiloconn.errors import SettingsError, raise_all
from vigiloconn.kit.limits import MAX_TTL_S
from vigiloconn.kit.near import nearest
from vigiloconn.settings import values
from vigiloconn.settings.ini import comment_hint, first_word, parse_ini
from vigiloconn.settings.logsetup import is_logging_section
from vigiloconn.settings.values import shown

EXCHANGE_TYPES = ("fanout", "direct", "topic", "headers")

_KEYS: Mapping[str, tuple[str, ...]] = {
    "exchange": ("type", "durable"),
    "queue": ("type", "ttl"),
    "binding": ("exchange", "queue", "key"),
}
_INEQUIVALENT = re.compile(r"inequivalent arg '([^']+)' for .*?: received (.+?) but current is (.+)$", re.DOTALL)


@dataclass(frozen=True)
class Exchange:
    """An exchange, never deleted by the broker itself."""

    name: str
    type: str = "fanout"
    durable: bool = True


@dataclass(frozen=True)
class Queue:
    """A durable queue."""

    name: str
    type: str = "classic"
    ttl_s: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the declare carries. A classic queue without TTL carries nothing, so that an old one fits."""
        arguments: dict[str, Any] = {}
        if self.type != "classic":
            arguments["x-queue-type"] = self.type
        if self.ttl_s is not None:
            arguments["x-message-ttl"] = self.ttl_s * 1000
        return arguments


@dataclass(frozen=True)
class Binding:
    """A binding of a queue to an exchange; `name` only tells it apart."""

    name: str
    exchange: str
    queue: str
    key: str


@dataclass(frozen=True)
class Topology:
    """What should be there; each thing after those that it needs."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def check_name(text: str, expected: str) -> str:
    """Return the name of an exchange or a queue, or a routing key. Raises `ValueError`."""
    if not text:
        raise ValueError(f"expected {expected}, got nothing")
    return values.check_name(text, expected)


def check_exchange_type(text: str) -> str:
    """Return the type of an exchange; those of the broker's plugins begin with `x-`. Raises `ValueError`."""
    if text not in EXCHANGE_TYPES and not re.fullmatch(r"x-[\w-]{1,80}", text):
        raise ValueError(f"expected {', '.join(EXCHANGE_TYPES)} or a plugin's x-..., got {shown(text)}")
    return text


def parse_topology(text: str, source: str, *, queue_type: str = "classic") -> Topology:
    """Return what `[exchange:NAME]`, `[queue:NAME]` and `[binding:NAME]` sections describe.

    `[bus]` and the sections of logging, which the Twisted library's files hold as well, are passed over. A queue that
    only bindings name is of `queue_type`. Raises `SettingsError`: of each error a line that names `source`,
    section, key and what was expected.
    """
    ini = parse_ini(text, source)
    errors: list[SettingsError] = []
    exchanges: list[Exchange] = []
    queues: dict[str, Queue] = {}
    bindings: list[Binding] = []
    for title in ini.sections():
        if title == "bus" or is_logging_section(title):
            continue
        section = _Section(source, title, dict(ini.items(title)), errors)
        if section.kind == "exchange":
            exchanges.append(Exchange(
                section.name,
                section.value("type", check_exchange_type, "fanout"),
                section.value("durable", values.flag, "yes"),
            ))  # fmt: skip
        elif section.kind == "queue":
            kind = section.value("type", values.queue_type, queue_type)
            queues[section.name] = Queue(section.name, kind, section.value("ttl", _ttl_s, ""))
        elif section.kind == "binding":
            exchange = section.value("exchange", _name_of("an exchange"), "")
            queue = section.value("queue", _name_of("a queue"), "")
            key = section.value("key", _name_of("a key"), queue or "-")
            bindings.append(Binding(section.name, exchange, queue, key))
    raise_all(errors)
    for binding in bindings:
        queues.setdefault(binding.queue, Queue(binding.queue, queue_type))
    return Topology(tuple(exchanges), tuple(queues.values()), tuple(bindings))


def explain_refusal(text: str) -> str:
    """Return a broker's refusal in words: what differs where it says so, else its own text on one line."""
    match = _INEQUIVALENT.search(text)
    if match is None:
        return " ".join(text.split())
    argument, wanted, found = (part.strip() for part in match.groups())
    return f"{argument} is {_quoted(found)}, expected {_quoted(wanted)}"


def _quoted(text: str) -> str:
    """Return a value as RabbitMQ shows it, without its words around it."""
    plain = re.sub(r"^the value (.+) of type '[^']*'$", r"\1", text)
    return "not set" if plain == "none" else plain


class _Section:
    """One section, its name taken apart and its keys known. An error is kept in `errors`, and what is read is worth
    something only where there is none."""

    def __init__(self, source: str, title: str, given: Mapping[str, str], errors: list[SettingsError]) -> None:
        self._place = f"{source}: [{title}]"
        self._values = given
        self._errors = errors
        self.kind, colon, self.name = title.partition(":")
        if self.kind not in _KEYS or not colon:
            self._keep("", "expected [exchange:NAME], [queue:NAME] or [binding:NAME]")
            self.kind = ""
            return
        try:
            check_name(self.name, f"a name behind {self.kind}:")
        except ValueError as exc:
            self._keep("", exc)
        for key in given:
            if key not in _KEYS[self.kind]:
                word = first_word(key)
                near = nearest(word, _KEYS[self.kind])
                hint = f", the nearest known one is {near}" if near else ""
                self._keep(word, f"unknown key{hint} (known: {', '.join(_KEYS[self.kind])})")

    def value(self, key: str, convert: Callable[[str], Any], default: str) -> Any:
        """Return the value of `key`, of `default` where the file says nothing, None where it is wrong."""
        text = self._values.get(key, "")
        try:
            return convert(values.plain(text) or default)
        except ValueError as exc:
            self._keep(key, f"{exc}{comment_hint(text)}")
            return None

    def _keep(self, key: str, text: object) -> None:
        self._errors.append(SettingsError(f"{self._place}{key and f' {key}'}: {text}"))


def _name_of(expected: str) -> Callable[[str], str]:
    return lambda text: check_name(text, expected)


def _ttl_s(text: str) -> int | None:
    ttl_s: int | None = values.whole(1, MAX_TTL_S)(text) if text else None
    return ttl_s
