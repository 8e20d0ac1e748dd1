"""Records of Nagios' performance data templates: what each stands for on the bus. Pure; knows the format, not files.

One line is one record, `KEY::VALUE` separated by tabs, as PNP4Nagios, nagflux and graphios read it. The templates of
conf/nagios/vigilo-feed.cfg add the keys that a state and an event need. What a plugin wrote stands in a record as it
is, tabs and all, so it could forge a key or a whole record; hence the order in those templates:

    (newline) DATATYPE:: | what Nagios answers for | SERVICEOUTPUT::text| | SERVICEPERFDATA::data | END::1

Keys count before a plugin's text only, each once. The first bar ends the output, which never holds one itself. The
newline in front keeps a record apart from one that a full disk tore, and one that lacks its end is known to be torn.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from vigiloconn.interfaces import Item, RouteKey
from vigiloconn.nagios.changes import Changes
from vigiloconn.nagios.perfdata import parse_perfdata
from vigiloconn.serialize import decode_text, parse_chunk

log = logging.getLogger(__name__)

_TIME, _HOST, _ADDRESS, _SERVICE = "TIMET", "HOSTNAME", "HOSTADDRESS", "SERVICEDESC"
_DATATYPE = "DATATYPE"
_BEGIN = f"{_DATATYPE}::"
_END = "\tEND::1"
_TORN = "torn: another record begins in it"
_BLANKS = " \t\r"
_FIELD = re.compile(r"\t(?=[A-Z0-9_]+::)")
#: A `|` or a newline could not pass by the socket; so that a text is the same on both ways, neither passes here.
_UNWANTED = str.maketrans("|\r\n\0", "    ")

_EVENT_KEY = RouteKey("event", None, True)
_STATE_KEY = RouteKey("state", None, True)
_PERF_KEY = RouteKey("perf", None, True)
_encode = msgspec.json.Encoder().encode

Rejected = tuple[bytes, str]
"""A line, or a part of one, and what is wrong with it."""


class Parsed(NamedTuple):
    """What lines stand for."""

    items: list[Item]
    size_bytes: int
    """Sum of the bodies' lengths."""
    rejected: list[Rejected]
    changed: dict[str, str]
    """Texts to be kept in the transaction that accepts the items."""

    @property
    def malformed(self) -> int:
        """How many lines, or parts of lines, could not be read."""
        return len(self.rejected)


class _Kind(NamedTuple):
    """One of the two templates."""

    keys: tuple[str, ...]
    """Those that stand before the plugin's text, in the order in which a result is taken. Those that
    only services have are empty for hosts."""
    output: str
    perf: str
    layout: re.Pattern[str]
    """A whole record as our own template writes it, which is nearly every line: its groups are a result."""


def _kind(object_: str, *of_services: str) -> _Kind:
    service, is_volatile, code_before = of_services
    keys = (
        _TIME, _HOST, _ADDRESS, service, f"{object_}STATEID", f"{object_}STATE", f"{object_}STATETYPE",
        f"{object_}ATTEMPT", is_volatile, code_before, f"LAST{object_}STATECHANGE", f"LAST{object_}CHECK",
    )
    output, perf = f"{object_}OUTPUT", f"{object_}PERFDATA"
    head = "".join([rf"\t{key}::([^\t]*)" if key else "()" for key in keys])
    layout = re.compile(rf"{_BEGIN}{perf}{head}\t{output}::([^|]*)\|\t{perf}::(.*){_END}", re.DOTALL)
    return _Kind(keys, output, perf, layout)


_KINDS = {kind.perf: kind for kind in (
    _kind("SERVICE", _SERVICE, "SERVICEISVOLATILE", "LASTSERVICESTATEID"), _kind("HOST", "", "", ""),
)}
_SERVICE_LAYOUT, _HOST_LAYOUT = [kind.layout.fullmatch for kind in _KINDS.values()]
#: What a plugin wrote; nothing behind it is Nagios' own word.
_TEXT_FIELD = re.compile(r"\t([A-Z]*(?:OUTPUT|PERFDATA))::")


class RecordReader:
    """Makes messages of lines: records, and lines of the socket's format among them, in their order.

    `known` are the kept texts of earlier lives; `with_service` puts the service in front of a datasource, as
    `vigilo-send --with-service` does.
    """

    def __init__(self, known: Mapping[str, str], *, with_service: bool = False) -> None:
        self._changes = Changes(known)
        self._with_service = with_service
        self._has_told = False
        self._items: list[Item] = []
        self._rejected: list[Rejected] = []

    def parse(self, lines: Sequence[bytes]) -> Parsed:
        """Return what `lines`, which have no newline in them, stand for."""
        # Lines of the socket's format that came one after the other: parsed together.
        others: list[bytes] = []
        # Nothing joined and cut again would be one empty line.
        for line, text in zip(lines, _texts(lines) if lines else (), strict=True):
            if text.startswith(_BEGIN) or (text and _is_torn_at_once(text)):
                if others:
                    self._take_others(others)
                    others = []
                self._take_record(text)
            elif text:
                others.append(line)
        if others:
            self._take_others(others)
        items, self._items = self._items, []
        rejected, self._rejected = self._rejected, []
        return Parsed(items, sum([len(body) for _, body in items]), rejected, self._changes.take_changed())

    def _take_others(self, lines: list[bytes]) -> None:
        try:
            items, _, rejected = parse_chunk(lines)
        except Exception as exc:  # noqa: BLE001 - as with a record, below; it is one of these lines
            if len(lines) > 1:
                for line in lines:
                    self._take_others([line])
            else:
                self._rejected.append((lines[0], f"it can't be read: {exc!r}"))
            return
        self._items += items
        self._rejected += rejected

    def _take_record(self, text: str) -> None:
        count = len(self._items)
        try:
            found = _SERVICE_LAYOUT(text) or _HOST_LAYOUT(text)
            if found:
                self._take_result(*found.groups())
            else:
                self._take_odd(text)
        # A mistake in here that got out would come again with each try, and end the process again and again.
        except Exception as exc:  # noqa: BLE001 - it costs this line alone
            del self._items[count:]
            self._reject(text, f"it can't be read: {exc!r}")

    def _take_result(self, *result: str) -> None:
        """Take what Nagios says of one check: the values of `_Kind.keys`, output and performance data."""
        timestamp, host, ip, service, code, state, state_type, attempt, volatile, *before, output, data = result
        output = output.rstrip(_BLANKS).replace("\r", " ")
        if not service:
            if self._changes.is_host_event(host, code, state_type, *before[1:]):
                event = {"type": "event", "timestamp": timestamp, "host": host, "state": state, "message": output}
                self._items.append((_EVENT_KEY, _encode(event)))
        elif self._changes.is_service_event(host, service, code, state_type, volatile != "0", *before):
            event = {
                "type": "event", "timestamp": timestamp, "host": host, "service": service, "state": state,
                "message": output,
            }  # fmt: skip
            self._items.append((_EVENT_KEY, _encode(event)))
        self._items.append((_STATE_KEY, _encode({
            "type": "state", "timestamp": timestamp, "host": host, "ip": ip, "service": service, "code": code,
            "statetype": state_type, "attempt": attempt, "message": output,
        })))  # fmt: skip
        if data:
            self._take_data(timestamp, host, service, data)

    def _take_data(self, timestamp: str, host: str, service: str, data: str) -> None:
        metrics, bad = parse_perfdata(data)
        prefix = f"{service}-" if self._with_service and service else ""
        if prefix or "|" in data or "\r" in data:
            metrics = [((prefix + label).translate(_UNWANTED), value) for label, value in metrics]
        for label, value in metrics:
            message = {"type": "perf", "timestamp": timestamp, "host": host, "datasource": label, "value": value}
            self._items.append((_PERF_KEY, _encode(message)))
        if bad:
            self._reject(", ".join(bad), f"no number in the performance data of {host} {service}".rstrip())

    # -- records of other templates, and torn ones --------------------------------------------------------------

    def _take_odd(self, text: str) -> None:
        """Take a record that is torn, or that is not just as our own templates write it."""
        values, text_key, rest = _opened(text)
        second = text.rfind(_BEGIN, 0, len(text) - len(rest))
        kind = _KINDS.get(values.get(_DATATYPE, ""))
        if second > 0:
            self._reject(text[:second], _TORN)
            self._take_record(text[second:])
        elif kind is None or text_key != kind.output or not values.keys() >= set(kind.keys):
            self._take_plain(text)
        else:
            output, bar, data = rest.partition(f"|\t{kind.perf}::")
            if bar and data.endswith(_END):
                result = [values[key] for key in kind.keys]
                self._take_result(*result, output.partition("::")[2], data[: -len(_END)])
            else:
                self._reject(text, f"torn: expected a bar behind the output, and {_END.strip()} at the end")

    def _take_plain(self, text: str) -> None:
        """Take the performance data of a record as PNP4Nagios has it: nothing in it tells of a state or an event."""
        second = text.rfind(_BEGIN)
        if second > 0:
            # Behind a plugin's text: it may be such text itself, so it gets no more than a plain record does.
            self._reject(text[:second], _TORN)
            text = text[second:]
        values, _, rest = _opened(text)
        kind = _KINDS.get(values.get(_DATATYPE, ""))
        if kind:
            # A tab alone belongs to the data; one before a key ends them.
            data = _FIELD.split(rest.partition(f"\t{kind.perf}::")[2], maxsplit=1)[0]
        if not kind or f"\t{kind.perf}::" not in rest or not values.keys() >= {_TIME, _HOST, kind.keys[3]}:
            self._reject(text, "expected a whole record, with TIMET and HOSTNAME before the plugin's text")
            return
        self._tell(set(kind.keys) - values.keys())
        self._take_data(values[_TIME], values[_HOST], values[kind.keys[3]], data)

    def _tell(self, lacking: set[str]) -> None:
        if not self._has_told:
            self._has_told = True
            names = ", ".join(sorted(lacking)) or "all keys before the plugin's text"
            log.warning("records without %s: they give performance data only, no states and no events", names)

    def _reject(self, text: str, why: str) -> None:
        self._rejected.append((text.encode(), why))


def _opened(text: str) -> tuple[dict[str, str], str, str]:
    """Return (keys that Nagios answers for, name of the first text of a plugin, the record from there on)."""
    found = _TEXT_FIELD.search(text)
    head = text[:found.start()] if found else text
    values = {"": ""}
    # From the last to the first: of a key that stands there twice, the first one counts.
    for field in reversed(head.split("\t")):
        key, _, values[key] = field.partition("::")
    return values, found[1] if found else "", text[len(head):]


def _is_torn_at_once(text: str) -> bool:
    """Answer whether a record is glued to one of which not even the first word was written."""
    second = text.find(_BEGIN, 1, 2 * len(_BEGIN))
    return second > 0 and _BEGIN.startswith(text[:second])


def _texts(lines: Sequence[bytes]) -> list[str]:
    """Return `lines` as text. Where one is not UTF-8, each field of it is read for itself."""
    try:
        # A chunk is UTF-8 exactly when each of its lines is: a newline is never part of a longer sequence.
        return b"\n".join(lines).decode().split("\n")
    except UnicodeDecodeError:
        return ["\t".join(map(decode_text, line.split(b"\t"))) for line in lines]
