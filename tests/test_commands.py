"""What of a message reaches Nagios, and what must never."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigiloconn.errors import BadMessage
from vigiloconn.nagios.commands import MAX_COMMAND_BYTES, Skip, Translator, process_file

SERVICE, HOST, COMMENT = "PROCESS_SERVICE_CHECK_RESULT", "PROCESS_HOST_CHECK_RESULT", "ADD_HOST_COMMENT"
ACCEPTED = (SERVICE, HOST, COMMENT, "ENABLE_NOTIFICATIONS")


def nagios(**fields: Any) -> dict[str, Any]:
    return {"type": "nagios", "timestamp": "1165939739", "cmdname": SERVICE, "value": "h;s;0;OK", **fields}


def state(**fields: Any) -> dict[str, Any]:
    message = {"type": "state", "timestamp": "1239104006", "host": "h", "ip": "192.0.2.1", "service": "s",
               "code": "1", "statetype": "SOFT", "attempt": "2", "message": "WARNING: x"}
    return {**message, **fields}


def without(message: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != key}


@pytest.mark.parametrize(("message", "line"), [
    (nagios(value="host1;Load;0;OK"), "[1165939739.0] PROCESS_SERVICE_CHECK_RESULT;host1;Load;0;OK\n"),
    (nagios(cmdname="ENABLE_NOTIFICATIONS", value=""), "[1165939739.0] ENABLE_NOTIFICATIONS;\n"),
    (nagios(timestamp=1165939739), "[1165939739.0] PROCESS_SERVICE_CHECK_RESULT;h;s;0;OK\n"),
    (nagios(timestamp=1165939739.25), "[1165939739.25] PROCESS_SERVICE_CHECK_RESULT;h;s;0;OK\n"),
    (nagios(cmdname="ENABLE_NOTIFICATIONS", value=7), "[1165939739.0] ENABLE_NOTIFICATIONS;7\n"),
    (state(), "[1239104006.0] PROCESS_SERVICE_CHECK_RESULT;h;s;1;WARNING: x\n"),
    (state(code=1), "[1239104006.0] PROCESS_SERVICE_CHECK_RESULT;h;s;1;WARNING: x\n"),
    (state(code=1.0), "[1239104006.0] PROCESS_SERVICE_CHECK_RESULT;h;s;1;WARNING: x\n"),
    (state(message="a;b|c=1;2"), "[1239104006.0] PROCESS_SERVICE_CHECK_RESULT;h;s;1;a;b|c=1;2\n"),
    (state(service=""), "[1239104006.0] PROCESS_HOST_CHECK_RESULT;h;1;WARNING: x\n"),
    (without(state(), "service"), "[1239104006.0] PROCESS_HOST_CHECK_RESULT;h;1;WARNING: x\n"),
    (state(host="hôte", message="été €"), "[1239104006.0] PROCESS_SERVICE_CHECK_RESULT;hôte;s;1;été €\n"),
])
def test_a_message_becomes_its_external_command(message: dict[str, Any], line: str) -> None:
    assert Translator(ACCEPTED).translate(message) == line.encode()


@pytest.mark.parametrize("message", [
    nagios(value="h;s;0;first\nsecond\r\nthird\n"), state(message="first\nsecond\r\nthird\n", code="0", timestamp=
                                                          "1165939739"),
])
def test_newlines_in_plugin_output_are_written_as_nagios_reads_them_back(message: dict[str, Any]) -> None:
    line = Translator(ACCEPTED).translate(message)
    assert line == b"[1165939739.0] PROCESS_SERVICE_CHECK_RESULT;h;s;0;first\\nsecond\\nthird\\n\n"


def test_newlines_in_the_output_of_a_host_check_are_escaped_after_its_two_fields() -> None:
    line = Translator(ACCEPTED).translate(nagios(cmdname=HOST, value="h;0;a\n[1] SHUTDOWN_PROGRAM"))
    assert line == b"[1165939739.0] PROCESS_HOST_CHECK_RESULT;h;0;a\\n[1] SHUTDOWN_PROGRAM\n"


@pytest.mark.parametrize(("message", "key"), [
    (nagios(cmdname=COMMENT, value="h;1;me;text\n[1] SHUTDOWN_PROGRAM"), "value"),
    (nagios(value="h\n[1] SHUTDOWN_PROGRAM;s;0;x"), "value"),
    (nagios(value="h;s\r;0;x"), "value"),
    (nagios(value="h;s;0\n[1] SHUTDOWN_PROGRAM"), "value"),
    (nagios(value="h;s;0;x\0y"), "value"),
    (nagios(value="h;s;0;" + "\ud800"), "value"),
    (nagios(value=["h"]), "value"),
    (nagios(value=None), "value"), (nagios(value=True), "value"), (state(message=False), "message"),
    (nagios(timestamp="1] SHUTDOWN_PROGRAM;[2"), "timestamp"),
    *((nagios(timestamp=value), "timestamp") for value in (
        "nan", "inf", "soon", "", -1, 1e15, 10**400, True, None, "1_000", " 1", "1 ", "1\n", "+1", "-0", "\u0661",
        "0x1", ".5", "1e", "1e15", "1e400", float("nan"), [1],
    )),
    (nagios(cmdname=[SERVICE]), "cmdname"),
    *((state(host=value), "host") for value in ("other;s;2;x\n", "a;b", "a\nb", "", None)),
    (state(service="s;2"), "service"), (state(service="s\r"), "service"),
    (state(code="0;x"), "code"), (state(code="OK"), "code"), (state(code=True), "code"), (state(code="1\n"), "code"),
    (state(message="a\0b"), "message"),
    ({"type": 5}, "type"), ({}, "type"),
])
def test_what_could_be_read_otherwise_is_refused_by_name(message: dict[str, Any], key: str) -> None:
    with pytest.raises(BadMessage, match=f"^{key}: "):
        Translator(ACCEPTED).translate(message)


@pytest.mark.parametrize(("message", "key"), [
    *((nagios(), key) for key in ("timestamp", "cmdname", "value", "type")),
    *((state(), key) for key in ("timestamp", "host", "code", "message")),
])
def test_a_missing_key_is_named(message: dict[str, Any], key: str) -> None:
    with pytest.raises(BadMessage, match=f"^{key}: is missing"):
        Translator(ACCEPTED).translate(without(message, key))


@pytest.mark.parametrize("command", [
    "SHUTDOWN_PROGRAM", SERVICE.lower(), f"{SERVICE} ", f" {SERVICE}", f"{SERVICE};x", f"{SERVICE}\n", "",
    "PROCESS_FILE", f"ENABLE_NOTIFICATIONS\n[1] {SERVICE}",
])
def test_a_command_that_is_not_accepted_exactly_is_skipped(command: str) -> None:
    assert Translator(ACCEPTED).translate(nagios(cmdname=command)) == Skip("not_accepted", command)


def test_what_is_more_than_a_name_can_not_be_accepted_by_any_list() -> None:
    translator = Translator(["", "A;B", "A B", "A\n[1] B"])
    assert not translator.accepted_commands
    assert translator.translate(nagios(cmdname="A;B")) == Skip("not_accepted", "A;B")


def test_state_messages_need_their_commands_accepted_too() -> None:
    assert Translator([HOST]).translate(state()) == Skip("not_accepted", SERVICE)
    assert Translator([SERVICE]).translate(state(service="")) == Skip("not_accepted", HOST)
    assert Translator([]).translate(state()) == Skip("not_accepted", SERVICE)


@pytest.mark.parametrize("fields", [{}, {"host": None}, {"host": "h"}])
@pytest.mark.parametrize(("command", "value"), [
    (SERVICE, "elsewhere;s;0;x"), (HOST, "elsewhere;0;x"), (SERVICE, "elsewhere"),
])
def test_a_check_result_is_filtered_by_the_host_that_nagios_will_see(
    command: str, value: str, fields: dict[str, Any]
) -> None:
    translator = Translator(ACCEPTED, has_host=lambda host: host == "h")
    message = nagios(cmdname=command, value=value, **fields)
    assert translator.translate(message) == Skip("other_host", "elsewhere")
    assert isinstance(Translator(ACCEPTED).translate(message), bytes), "where nothing is filtered it passes"


def test_what_other_commands_begin_with_is_not_taken_for_a_host() -> None:
    translator = Translator(ACCEPTED, has_host=lambda host: host == "h")
    assert isinstance(translator.translate(nagios(cmdname="ENABLE_NOTIFICATIONS", value="x")), bytes)
    assert isinstance(translator.translate(nagios(cmdname=COMMENT, value="elsewhere;1;me;x", host="h")), bytes)


def test_a_host_of_null_is_none() -> None:
    translator = Translator(ACCEPTED, has_host=lambda host: host == "h")
    assert isinstance(translator.translate(nagios(host=None)), bytes)
    assert isinstance(translator.translate(nagios(host=None, cmdname=COMMENT, value="x")), bytes)


@pytest.mark.parametrize(("value", "line"), [
    ("0", "0.0"), ("12.", "12.0"), ("12.5", "12.5"), ("1e3", "1000.0"), ("1.5E+3", "1500.0"), ("999999999999999", None),
])
def test_a_timestamp_may_be_any_plain_number(value: str, line: str | None) -> None:
    written = Translator(ACCEPTED).translate(nagios(timestamp=value))
    assert isinstance(written, bytes)
    assert written.startswith(f"[{line or '999999999999999.0'}] ".encode())


def test_messages_of_hosts_that_nagios_does_not_know_are_skipped() -> None:
    translator = Translator(ACCEPTED, has_host=lambda host: host == "h")
    assert translator.translate(nagios(host="elsewhere")) == Skip("other_host", "elsewhere")
    assert translator.translate(state(host="elsewhere")) == Skip("other_host", "elsewhere")
    assert isinstance(translator.translate(state()), bytes)
    assert isinstance(translator.translate(nagios()), bytes)
    with pytest.raises(BadMessage, match="host"):
        translator.translate(state(host=["h"]))


@pytest.mark.parametrize("kind", ["event", "perf", "", "NAGIOS", "state "])
def test_other_types_are_skipped_whatever_they_hold(kind: str) -> None:
    assert Translator(ACCEPTED).translate({"type": kind}) == Skip("other_type", kind)


def test_a_command_up_to_the_limit_passes_and_a_longer_one_is_refused() -> None:
    translator = Translator(ACCEPTED)
    fixed = len(translator.translate(nagios(value="h;s;0;")))
    assert len(translator.translate(nagios(value="h;s;0;" + "x" * (MAX_COMMAND_BYTES - fixed)))) == MAX_COMMAND_BYTES
    with pytest.raises(BadMessage, match="65537 bytes"):
        translator.translate(nagios(value="h;s;0;" + "x" * (MAX_COMMAND_BYTES + 1 - fixed)))


def test_long_output_can_not_hide_a_command_for_readers_with_short_buffers() -> None:
    translator = Translator(ACCEPTED)
    with pytest.raises(BadMessage, match="SHUTDOWN_PROGRAM"):
        translator.translate(nagios(value="h;s;0;" + "x" * 8136 + "[1] SHUTDOWN_PROGRAM"))
    assert isinstance(translator.translate(nagios(value="h;s;0;" + "[OK] line\n" * 2000)), bytes)


def test_a_command_hides_from_the_first_byte_on_that_a_short_buffer_does_not_hold() -> None:
    translator = Translator(ACCEPTED)
    fixed = len(translator.translate(nagios(value="h;s;0;")))
    hidden = "[1] SHUTDOWN_PROGRAM"
    with pytest.raises(BadMessage, match="at byte 8000 "):
        translator.translate(nagios(value="h;s;0;" + "x" * (8000 - fixed + 1) + hidden))
    # What a short buffer holds whole is one line for it, too.
    assert isinstance(translator.translate(nagios(value="h;s;0;" + "x" * (8000 - fixed - len(hidden)) + hidden)), bytes)


def test_a_file_of_commands_is_given_to_nagios_to_work_off_and_delete() -> None:
    assert process_file("/x/é.cmd", 5.9) == "[5] PROCESS_FILE;/x/é.cmd;1\n".encode()


tricky = st.one_of(
    st.text(alphabet="a;\n\r\0[]1 _SHUTDOWN|é\ud800", max_size=30), st.integers(), st.none(), st.floats()
)
keys = st.sampled_from(["timestamp", "cmdname", "value", "host", "service", "code", "message"])


@given(st.dictionaries(keys, tricky), st.sampled_from(["nagios", "state"]))
def test_whatever_comes_is_one_line_of_an_accepted_command_or_nothing(fields: dict[str, Any], kind: str) -> None:
    message = {**(nagios() if kind == "nagios" else state()), **fields}
    try:
        line = Translator(ACCEPTED, lambda host: host == "h").translate(message)
    except BadMessage:
        return
    if isinstance(line, Skip):
        return
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert b"\0" not in line
    assert b"\r" not in line
    stamp, _, rest = line.partition(b"] ")
    assert float(stamp.removeprefix(b"[")) >= 0
    assert rest.split(b";")[0].decode() in ACCEPTED
    if kind == "state":
        assert rest.split(b";")[1] == b"h"
