"""What a setting's text means. Pure: each converter takes the text and returns the value.

A converter raises `ValueError("expected ..., got ...")`; the caller puts file, section and key in front.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from vigiloconn.kit.endpoint import Endpoint, parse_endpoint
from vigiloconn.kit.limits import MAX_NAME_BYTES, MAX_SOCKET_PATH_BYTES, MAX_TTL_S

Converter = Callable[[str], Any]

#: Where `http` names no port.
DEFAULT_HTTP_PORT = 9273
QUEUE_TYPES = ("classic", "quorum")
AUTH_METHODS = ("plain", "amqplain", "external")
#: A year. More is a slip of the pen, and would overflow some timers.
MAX_SECONDS = 31_536_000.0

_FLAGS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_LIST_ITEM = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^,"'][^,]*|))\s*(?:,|$)""")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Secret:
    """A password. Shows itself to those who ask with `reveal()` only, never in a log, an error or a `repr`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the password itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Subscription(NamedTuple):
    """An exchange to bind the queue to."""

    exchange: str
    key: str | None
    """The routing key; None means the queue's name."""


class Publication(NamedTuple):
    """Where messages of one type go."""

    exchange: str
    ttl_s: int | None
    """None means that they do not expire."""


def shown(text: str) -> str:
    """Return `text` as errors quote it: on one line and not endless. Never give it a password."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def unquote(text: str) -> str:
    """Return `text` without blanks around it and without the pair of quotes that configobj writes around values."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]:
        return text[1:-1]
    return text


def plain(text: str) -> str:
    """Return a value of one line. The error does not quote it: what follows the first line may be a password."""
    text = unquote(text)
    if "\n" in text:
        raise ValueError("expected one line, got several: an indented line continues the value above it")
    if _CONTROLS.search(text):
        raise ValueError("expected printable characters, got a control character")
    return text


def text_value(expected: str) -> Converter:
    """Build a converter for any text but none at all."""

    def convert(text: str) -> str:
        value = plain(text)
        if not value:
            raise ValueError(f"expected {expected}, got nothing")
        return value

    return convert


def optional_text(text: str) -> str | None:
    """Return the text, None where it is empty."""
    return plain(text) or None


def secret(text: str) -> Secret:
    """Return the password. Its errors do not quote it."""
    return Secret(plain(text))


def amqp_name(text: str) -> str | None:
    """Return the name of a queue or an exchange, None where it is empty."""
    return check_name(plain(text), "a name") or None


def socket_path(text: str) -> str | None:
    """Return the path of a UNIX socket, None where it is empty."""
    path = plain(text)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"expected a path of at most {MAX_SOCKET_PATH_BYTES} bytes, got {shown(path)}")
    return path or None


def control_path(text: str) -> str:
    """Return the path of the control socket, "" where there is to be none."""
    return socket_path(text) or ""


def optional_endpoint(text: str) -> Endpoint | None:
    """Return host and port, None where the text is empty."""
    return parse_endpoint(plain(text), DEFAULT_HTTP_PORT) if plain(text) else None


def table_name(text: str) -> str:
    """Return the name of a table: one that SQLite takes without quotes."""
    name = plain(text)
    if not re.fullmatch(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"expected letters, digits and '_', got {shown(name)}")
    return name


def flag(text: str) -> bool:
    """Return a truth value, as configparser and configobj spell it."""
    value = plain(text)
    try:
        return _FLAGS[value.lower()]
    except KeyError:
        raise ValueError(f"expected True or False, got {shown(value)}") from None


def choice(*names: str) -> Converter:
    """Build a converter for one of `names`, in any case."""

    def convert(text: str) -> str:
        value = plain(text)
        if value.lower() not in names:
            raise ValueError(f"expected {_either(names)}, got {shown(value)}")
        return value.lower()

    return convert


#: Converters that are needed in more than one place: the type of a queue, and how to log in.
queue_type = choice(*QUEUE_TYPES)
auth_method = choice(*AUTH_METHODS)


def whole(minimum: int, maximum: int | None = None) -> Converter:
    """Build a converter for a whole number within bounds, both included."""
    if maximum is not None:
        expected = f"a whole number from {minimum} to {maximum}"
    else:
        expected = "a whole number above 0" if minimum == 1 else f"a whole number, {minimum} or more"

    def convert(text: str) -> int:
        value = plain(text)
        # 18 digits: what SQLite and AMQP still take, and nothing that `int` is slow with.
        if re.fullmatch(r"[0-9]{1,18}", value) and minimum <= int(value) and (maximum is None or int(value) <= maximum):
            return int(value)
        raise ValueError(f"expected {expected}, got {shown(value)}")

    return convert


def batch_size(text: str) -> int:
    """Return how many performance messages go together. 0 means the same as 1: each alone."""
    return max(1, int(whole(0, 100_000)(text)))


def seconds(text: str) -> float:
    """Return a time above 0, fractions allowed."""
    value = plain(text)
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", value) and 0 < float(value) <= MAX_SECONDS:
        return float(value)
    raise ValueError(f"expected seconds above 0, such as 30 or 0.5, got {shown(value)}")


def seconds_up_to(maximum: int) -> Converter:
    """Build a converter for a time above 0 and up to that many seconds."""

    def convert(text: str) -> float:
        value = seconds(text)
        if value > maximum:
            raise ValueError(f"expected at most {maximum} s, got {shown(text)}")
        return value

    return convert


def byte_count(text: str) -> int:
    """Return a size: bytes, or with a suffix K, M, G (KiB, MiB, GiB) multiples of 1024."""
    value = plain(text)
    match = re.fullmatch(r"([0-9]{1,12})\s*(?:([KMG])(?:iB)?)?", value)
    if not match or not int(match[1]):
        raise ValueError(f"expected bytes above 0, such as 500000000, 500 MiB or 4G, got {shown(value)}")
    return int(match[1]) * _SIZES[match[2] or ""]


def parse_list(text: str) -> tuple[str, ...]:
    """Return the items of a list: commas or line ends between them, quotes around them if need be.

    A comma at the end changes nothing, and a comma alone is the empty list. Raises `ValueError`.
    """
    items: list[str] = []
    for line in text.split("\n"):
        position = 0
        while position < len(line):
            match = _LIST_ITEM.match(line, position)
            if not match:
                raise ValueError("expected items with commas between them, got a quote that does not pair up")
            double, single, bare = match.groups()
            item = double if double is not None else single if single is not None else bare.strip()
            if _CONTROLS.search(item):
                raise ValueError("expected printable characters, got a control character")
            if item:
                items.append(item)
            position = match.end()
    return tuple(items)


def file_paths(text: str) -> tuple[str, ...]:
    """Return the paths of a list, each absolute and named once. Raises `ValueError`."""
    paths = parse_list(text)
    for path in paths:
        if not os.path.isabs(path):
            raise ValueError(f"expected absolute paths, got {shown(path)}")
        if os.path.normpath(path) in map(os.path.normpath, paths[: paths.index(path)]) or paths.count(path) > 1:
            raise ValueError(f"expected each file once, got {shown(path)} twice")
    return paths


def parse_hosts(text: str) -> tuple[str, ...]:
    """Return the brokers as they are written, each checked: `host`, `host:port`, `[v6]`, `[v6]:port`."""
    hosts = parse_list(text)
    if not hosts:
        raise ValueError("expected at least one broker, got none")
    for host in hosts:
        parse_host(host)
    return hosts


def parse_host(text: str) -> str:
    """Return a broker as it is written, once it is checked. Raises `ValueError`."""
    from vigiloconn.kit.endpoint import parse_endpoint  # not needed by those who only name a Secret

    # `user:password@host`, out of habit: not quoted.
    if "@" in text:
        raise ValueError("expected host or host:port, got an '@': the account stands in user and password")
    parse_endpoint(text, 5672)
    return text


def parse_subscriptions(text: str) -> list[Subscription]:
    """Return the subscriptions of a list of `exchange[:routing key]`. Raises `ValueError`."""
    subscriptions = []
    for item in parse_list(text):
        exchange, colon, key = item.partition(":")
        if not exchange.strip():
            raise ValueError(f"expected exchange or exchange:key, got {shown(item)}")
        check_name(key, "a routing key")
        subscriptions.append(
            Subscription(check_name(exchange.strip(), "an exchange"), key.strip() if colon else None)
        )
    return subscriptions


def frozen_subscriptions(text: str) -> tuple[Subscription, ...]:
    """Return what `parse_subscriptions` does, for frozen settings."""
    return tuple(parse_subscriptions(text))


def parse_publication(text: str) -> Publication:
    """Return the publication that `exchange[:ttl seconds]` means. Raises `ValueError`."""
    value = plain(text)
    exchange, colon, ttl = value.rpartition(":") if ":" in value else (value, "", "")
    exchange = exchange.strip()
    if not exchange:
        raise ValueError(f"expected exchange or exchange:seconds, got {shown(value)}")
    try:
        ttl_s = int(whole(1, MAX_TTL_S)(ttl)) if colon else None
    except ValueError as exc:
        raise ValueError(f"time to live behind the ':': {exc}") from exc
    return Publication(check_name(exchange, "an exchange"), ttl_s)


def optional_publication(text: str) -> Publication | None:
    """Return what `parse_publication` does, None where the text is empty."""
    return parse_publication(text) if plain(text) else None


def parse_publications(mapping: Mapping[str, str]) -> dict[str, Publication]:
    """Return type -> publication. Raises `ValueError`, which names the type."""
    publications = {}
    for kind, text in mapping.items():
        try:
            publications[kind] = parse_publication(text)
        except ValueError as exc:
            raise ValueError(f"{kind}: {exc}") from exc
    return publications


def policies(names: tuple[str, ...], default: Mapping[str, str]) -> Converter:
    """Build a converter for a policy per message type: `POLICY` for all, `TYPE:POLICY` for one, in a list.

    Without a policy for all, the types that are not named keep `default`. The result's key `*` is the
    policy of every type that it lacks.
    """
    expected = f"{_either(names)}, or TYPE:POLICY"

    def convert(text: str) -> Mapping[str, str]:
        said: dict[str, str] = {}
        for item in parse_list(text):
            kind, colon, policy = item.rpartition(":")
            kind, policy = (kind.strip() if colon else "*"), policy.strip().lower()
            if policy not in names or not kind:
                raise ValueError(f"expected {expected}, got {shown(item)}")
            if kind in said:
                raise ValueError(f"expected one policy for {'all' if kind == '*' else kind}, got two")
            said[kind] = policy
        if not said:
            raise ValueError(f"expected {expected}, got nothing")
        return MappingProxyType(said if "*" in said else {**default, **said})

    return convert


def check_name(name: str, what: str) -> str:
    """Return a name or a key as it is. Raises `ValueError` where AMQP has no room for it."""
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise ValueError(f"expected {what} of at most {MAX_NAME_BYTES} bytes, got {shown(name)}")
    return name


def _either(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
