"""Messages to external commands of Nagios. Pure: knows what Nagios reads, neither buses nor pipes.

What comes from the bus is not trusted: no content of a message may become a command that the operator does not
accept, nor a second command, nor one for another host than its fields say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vigiloconn.errors import BadMessage

#: A longer command is refused. Lines of the socket end there too, and Nagios 4 reads its pipe through a buffer of
#: this size; a full one of 512 KiB behind it would end its worker.
MAX_COMMAND_BYTES = 65536
#: Nagios 3 and its kin read lines into buffers of 8 KiB, and take what follows for a line of its own. A command
#: beginning there would never have been checked.
_SHORT_BUFFER_BYTES = 8000
_HIDDEN_COMMAND = re.compile(rb"\[[^\[\]]*\].?[A-Za-z]*_[A-Za-z_]+", re.DOTALL)
#: Seconds above this have no plain decimal form in Python, and no meaning as a time.
_MAX_TIMESTAMP_S = 1e15
#: What `float` takes beyond this (`1_000`, blanks, other digits, names) is no time that a program writes.
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", re.ASCII)

SERVICE_RESULT = "PROCESS_SERVICE_CHECK_RESULT"
HOST_RESULT = "PROCESS_HOST_CHECK_RESULT"
#: Number of `;` before the plugin output, the only field in which Nagios reads `\n` back as a newline.
_SEMICOLONS_BEFORE_OUTPUT = {SERVICE_RESULT: 3, HOST_RESULT: 2}
_CODE = re.compile(r"-?[0-9]{1,9}")
_NOT_IN_FIELD = re.compile(r"[;\n\r\0]")
_NOT_IN_LINE = re.compile(r"[\n\r\0]")
_NOT_IN_COMMAND = re.compile(r"[;\s\0]")


class Skip(NamedTuple):
    """A message that is nothing for this Nagios: not written, and acknowledged."""

    figure: str
    """What it counts as: `other_type`, `other_host` or `not_accepted`."""
    detail: str
    """The type, host or command."""


class Translator:
    """Turns messages into external commands, as `accepted_commands` and the hosts of this Nagios allow.

    `accepted_commands` is compared exactly, with the command that would be written: those of `state` messages
    (PROCESS_SERVICE_CHECK_RESULT, PROCESS_HOST_CHECK_RESULT) are no exception, and an empty list accepts nothing.
    `has_host` answers whether this Nagios knows a host; without it no message is filtered by its host. It is asked
    about the `host` of a message, and about the host that a check result names in its `value`: that is the one Nagios
    goes by.
    """

    def __init__(self, accepted_commands: Iterable[str], has_host: Callable[[str], bool] | None = None) -> None:
        # Nothing that could be more than a name gets in here, so `in` is all that has to be asked.
        self.accepted_commands = frozenset(
            command for command in accepted_commands if command and not _NOT_IN_COMMAND.search(command)
        )
        self._has_host = has_host

    def translate(self, message: Mapping[str, Any]) -> bytes | Skip:
        """Return the command with its newline, or why there is none. Raises `BadMessage` that names key and value."""
        kind = message.get("type")
        if kind != "nagios" and kind != "state":
            if not isinstance(kind, str):
                raise BadMessage(f"type: {_what(message, 'type')}, expected a text")
            return Skip("other_type", kind)
        host = message.get("host")
        if host is not None and self._has_host is not None:
            if not isinstance(host, str):
                raise BadMessage(f"host: {_what(message, 'host')}, expected a text")
            if not self._has_host(host):
                return Skip("other_host", host)
        command = _text(message, "cmdname") if kind == "nagios" else _state_command(message)
        if command not in self.accepted_commands:
            return Skip("not_accepted", command)
        value = _nagios_value(message, command) if kind == "nagios" else _state_value(message, command)
        if self._has_host is not None and command in _SEMICOLONS_BEFORE_OUTPUT:
            named = value.split(";", 1)[0]
            if named != host and not self._has_host(named):
                return Skip("other_host", named)
        return _line(_timestamp(message), command, value)


def process_file(path: str, now_s: float) -> bytes:
    """Return the command that makes Nagios carry out the commands in a file, and delete it then."""
    return f"[{int(now_s)}] PROCESS_FILE;{path};1\n".encode()


def is_argument(text: str) -> bool:
    """Answer whether `text` can be one argument of a command: no `;`, no newline, no NUL."""
    return not _NOT_IN_FIELD.search(text)


def _line(timestamp_s: float, command: str, value: str) -> bytes:
    try:
        line = f"[{timestamp_s}] {command};{value}\n".encode()
    except UnicodeEncodeError as exc:
        raise BadMessage(f"value: {value!r:.80} has no form in UTF-8: {exc}") from exc
    if len(line) > _SHORT_BUFFER_BYTES:
        _check_long(line)
    return line


def _check_long(line: bytes) -> None:
    if len(line) > MAX_COMMAND_BYTES:
        raise BadMessage(f"command of {len(line)} bytes: expected at most {MAX_COMMAND_BYTES}")
    hidden = _HIDDEN_COMMAND.search(line, _SHORT_BUFFER_BYTES)
    if hidden:
        raise BadMessage(
            f"value: {hidden[0][:80]!r} at byte {hidden.start()} could be taken for a command by a Nagios with short "
            f"buffers: expected none after {_SHORT_BUFFER_BYTES} bytes"
        )


def _timestamp(message: Mapping[str, Any]) -> float:
    value = message.get("timestamp")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        value = None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            seconds = -1.0
        # False for a NaN as well.
        if 0 <= seconds < _MAX_TIMESTAMP_S:
            return seconds
    raise BadMessage(f"timestamp: {_what(message, 'timestamp')}, expected UNIX seconds")


def _nagios_value(message: Mapping[str, Any], command: str) -> str:
    value = _text(message, "value")
    if not _NOT_IN_LINE.search(value):
        return value
    before = _SEMICOLONS_BEFORE_OUTPUT.get(command)
    if before is None:
        raise BadMessage(f"value: {value!r:.80} holds a newline or a NUL: {command} can't carry one")
    fields = value.split(";", before)
    if len(fields) <= before or _NOT_IN_LINE.search("".join(fields[:before])):
        raise BadMessage(f"value: {value!r:.80} holds a newline or a NUL before the plugin output")
    fields[before] = _output(fields[before], "value")
    return ";".join(fields)


def _state_command(message: Mapping[str, Any]) -> str:
    return SERVICE_RESULT if message.get("service") not in (None, "") else HOST_RESULT


def _state_value(message: Mapping[str, Any], command: str) -> str:
    code = _text(message, "code")
    if not _CODE.fullmatch(code):
        raise BadMessage(f"code: {_what(message, 'code')}, expected a whole number")
    output = _text(message, "message")
    if _NOT_IN_LINE.search(output):
        output = _output(output, "message")
    if command == HOST_RESULT:
        return f"{_field(message, 'host')};{code};{output}"
    return f"{_field(message, 'host')};{_field(message, 'service')};{code};{output}"


def _field(message: Mapping[str, Any], key: str) -> str:
    text = _text(message, key)
    # A `;` would make the rest of it the next field: a result for a host that the filter never saw.
    if not text or _NOT_IN_FIELD.search(text):
        raise BadMessage(f"{key}: {_what(message, key)}, expected a name without ';' and newlines")
    return text


def _output(text: str, key: str) -> str:
    """Return plugin output on one line: Nagios reads the two characters `\\n` back, and knows no carriage return."""
    if "\0" in text:
        raise BadMessage(f"{key}: {text!r:.80} holds a NUL, where Nagios would cut it")
    return text.replace("\r", "").replace("\n", "\\n")


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Other implementations write 1 as 1.0.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    raise BadMessage(f"{key}: {_what(message, key)}, expected a text")


def _what(message: Mapping[str, Any], key: str) -> str:
    return f"got {message[key]!r:.80}" if key in message else "is missing"
