"""Records of Nagios' templates: which messages each stands for."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from vigiloconn.nagios import records
from vigiloconn.nagios.records import Parsed, RecordReader
from vigiloconn.serialize import parse_chunk

#: What the template of a service gives, with what a test says of it.
SERVICE = {
    "DATATYPE": "SERVICEPERFDATA", "TIMET": "1165939739", "HOSTNAME": "h", "HOSTADDRESS": "192.0.2.7",
    "SERVICEDESC": "S 1", "SERVICESTATEID": "0", "SERVICESTATE": "OK", "SERVICESTATETYPE": "HARD",
    "SERVICEATTEMPT": "1", "SERVICEISVOLATILE": "0", "LASTSERVICESTATEID": "0",
    "LASTSERVICESTATECHANGE": "1165930000", "LASTSERVICECHECK": "1165939738",
    "SERVICEOUTPUT": "fine", "SERVICEPERFDATA": "", "END": "1",
}  # fmt: skip
HOST = {
    "DATATYPE": "HOSTPERFDATA", "TIMET": "1165939739", "HOSTNAME": "h", "HOSTADDRESS": "192.0.2.7",
    "HOSTSTATEID": "0", "HOSTSTATE": "UP", "HOSTSTATETYPE": "HARD", "HOSTATTEMPT": "1",
    "LASTHOSTSTATECHANGE": "1165930000", "LASTHOSTCHECK": "1165939738",
    "HOSTOUTPUT": "pong", "HOSTPERFDATA": "", "END": "1",
}  # fmt: skip
PNP = (
    b"DATATYPE::SERVICEPERFDATA\tTIMET::1165939739\tHOSTNAME::h\tSERVICEDESC::S 1\tSERVICEPERFDATA::a=1 b=2"
    b"\tSERVICECHECKCOMMAND::check\tHOSTSTATE::UP\tHOSTSTATETYPE::HARD\tSERVICESTATE::OK\tSERVICESTATETYPE::HARD"
)


def record(template: dict[str, str], **values: str) -> bytes:
    fields = {**template, **values}
    return "\t".join(
        f"{key}::{value}{'|' if key.endswith('OUTPUT') else ''}" for key, value in fields.items()
    ).encode()


def service(**values: str) -> bytes:
    return record(SERVICE, **values)


def host(**values: str) -> bytes:
    return record(HOST, **values)


def parse(*lines: bytes, reader: RecordReader | None = None) -> Parsed:
    return (reader or RecordReader({})).parse(lines)


def messages(parsed: Parsed) -> list[dict[str, Any]]:
    assert all(key.type == json.loads(body)["type"] for key, body in parsed.items)
    assert parsed.size_bytes == sum(len(body) for _, body in parsed.items)
    return [json.loads(body) for _, body in parsed.items]


def kinds(parsed: Parsed) -> list[str]:
    return [key.type for key, _ in parsed.items]


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (service(SERVICEPERFDATA="a=1 'b c'=2s;3"),
         [b"state|1165939739|h|192.0.2.7|S 1|0|HARD|1|fine", b"perf|1165939739|h|a|1", b"perf|1165939739|h|b c|2"]),
        (service(SERVICESTATE="CRITICAL", SERVICESTATEID="2", SERVICESTATETYPE="SOFT", SERVICEOUTPUT='"é" $X; 日本'),
         ['event|1165939739|h|S 1|CRITICAL|"é" $X; 日本'.encode(),
          'state|1165939739|h|192.0.2.7|S 1|2|SOFT|1|"é" $X; 日本'.encode()]),
        (host(HOSTSTATE="DOWN", HOSTSTATEID="1", HOSTSTATETYPE="SOFT", HOSTPERFDATA="rta=U pl=100%"),
         [b"event|1165939739|h|HOST|DOWN|pong", b"state|1165939739|h|192.0.2.7||1|SOFT|1|pong",
          b"perf|1165939739|h|pl|100"]),
    ],
)  # fmt: skip
def test_a_record_gives_the_very_messages_of_the_lines_that_the_commands_send(line: bytes, same: list[bytes]) -> None:
    assert parse(line).items == parse_chunk(same)[0]


def test_datasources_carry_the_service_where_that_is_asked_for() -> None:
    reader = RecordReader({}, with_service=True)
    parsed = parse(service(SERVICEPERFDATA="a=1"), host(HOSTPERFDATA="a=1"), reader=reader)
    assert [each["datasource"] for each in messages(parsed) if each["type"] == "perf"] == ["S 1-a", "a"]


def test_lines_of_the_socket_may_stand_among_records_and_the_order_stays() -> None:
    parsed = parse(b"perf|1|h|before|1", b"", service(), b"", b"perf|1|h|a|1", b"perf|1|h|b|1", host())
    assert [each.get("datasource", each.get("service")) for each in messages(parsed)] == ["before", "S 1", "a", "b", ""]
    assert parsed.malformed == 0


# -- what plugins write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a\tb", "x\tSERVICESTATEID::2", "x\tHOSTNAME::other", "x\tSERVICEPERFDATA::forged=1", "x\tEND::1",
        "x\tDATATYPE::SERVICEPERFDATA\tTIMET::1\tHOSTNAME::other\tSERVICEDESC::S\tSERVICEPERFDATA::forged=1",
        "quotes ' \" ` $HOME & <b> \\n literal", "z" * 6000,
    ],
)
def test_output_arrives_as_it_was_written_and_forges_nothing(text: str) -> None:
    parsed = parse(service(SERVICEOUTPUT=text, SERVICEPERFDATA="real=1"))
    state, perf = messages(parsed)
    assert (state["message"], state["host"], state["code"]) == (text, "h", "0")
    assert (perf["host"], perf["datasource"]) == ("h", "real")
    assert parsed.malformed == 0


def test_a_whole_record_in_an_output_is_text() -> None:
    forged = service(HOSTNAME="other", SERVICEOUTPUT="y").decode().partition("|")[0]
    (state,) = messages(parse(service(SERVICEOUTPUT=forged)))
    assert (state["host"], state["message"]) == ("h", forged)


def test_performance_data_forge_nothing() -> None:
    parsed = parse(service(SERVICEPERFDATA=f"a=1\tHOSTNAME::other|{service(HOSTNAME='other').decode()}"))
    assert {each["host"] for each in messages(parsed)} == {"h"}
    (state,) = [each for each in messages(parsed) if each["type"] == "state"]
    assert (state["service"], state["message"]) == ("S 1", "fine")


@pytest.mark.parametrize("pieces", [("SERVICEOUTPUT", "déjà"), ("SERVICEPERFDATA", "'é'=1")])
def test_a_text_that_is_not_utf_8_is_read_as_iso_8859_15_and_the_others_stay_as_they_are(
    pieces: tuple[str, str]
) -> None:
    key, text = pieces
    whole = service(SERVICEDESC="Größe", **{key: text})
    line = whole.replace(text.encode(), text.encode("iso-8859-15"))
    assert line != whole
    assert parse(line, b"perf|1|h|\xe9|1").items == parse(whole, b"perf|1|h|\xe9|1").items


def test_bars_in_a_label_become_blanks_as_they_do_on_the_socket() -> None:
    assert messages(parse(service(SERVICEPERFDATA="'a|b'=1")))[1]["datasource"] == "a b"


def test_metrics_without_a_number_are_counted_and_the_rest_of_the_record_is_taken() -> None:
    parsed = parse(service(SERVICEPERFDATA="a=~ b=1"))
    assert kinds(parsed) == ["state", "perf"]
    assert parsed.rejected == [(b"a=~", "no number in the performance data of h S 1")]


# -- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "code", "state_type", "changed_at", "is_event"),
    [
        ("2", "2", "SOFT", "1", True), ("0", "2", "SOFT", "1165939738", True), ("2", "2", "HARD", "1165939738", True),
        ("2", "2", "HARD", "1165930000", False), ("2", "0", "HARD", "1165939738", True), ("0", "0", "HARD", "0", False),
        ("0", "0", "HARD", "1165939738", False),
    ],
)
def test_a_service_has_an_event_when_it_is_soft_or_changed_at_this_check(
    before: str, code: str, state_type: str, changed_at: str, is_event: bool
) -> None:
    line = service(
        LASTSERVICESTATEID=before, SERVICESTATEID=code, SERVICESTATETYPE=state_type, LASTSERVICESTATECHANGE=changed_at
    )
    parsed = parse(line)
    assert kinds(parsed) == ["event", "state"] if is_event else ["state"]


def test_each_problem_of_a_volatile_service_is_an_event() -> None:
    reader = RecordReader({})
    codes = "022101"
    steps = [
        service(SERVICEISVOLATILE="1", SERVICESTATEID=code, LASTSERVICESTATEID=before)
        for before, code in zip("0" + codes, codes, strict=False)
    ]
    assert [kinds(parse(step, reader=reader))[0] for step in steps] == [
        "state", "event", "event", "event", "event", "event",
    ]  # fmt: skip


def test_a_second_result_within_the_second_of_a_change_is_no_event() -> None:
    reader = RecordReader({})
    line = service(SERVICESTATEID="2", LASTSERVICESTATECHANGE="1165939738")
    assert kinds(parse(line, line, reader=reader)) == ["event", "state", "state"]
    back = service(LASTSERVICESTATECHANGE="1165939738", LASTSERVICESTATEID="2")
    soft = service(SERVICESTATEID="2", SERVICESTATETYPE="SOFT", LASTSERVICESTATECHANGE="1165939738")
    for each in (back, line, back, soft, line, back, soft, back):
        assert kinds(parse(each, reader=reader)) == ["event", "state"]


def test_a_host_has_an_event_when_state_or_type_differs_from_what_was_kept() -> None:
    """Nagios 4.4 leaves the time of the change as it was when a soft state becomes hard."""
    reader = RecordReader({"host:h": "0;HARD", "follow:/x": "..."})
    soft, hard = (host(HOSTSTATEID="1", HOSTSTATETYPE=type_) for type_ in ("SOFT", "HARD"))
    up, soft_up = host(), host(HOSTSTATETYPE="SOFT")
    steps = [soft, soft, hard, hard, up, up, soft, soft_up, up, soft_up]
    assert [kinds(parse(step, reader=reader))[0] for step in steps] == [
        "event", "event", "event", "state", "event", "state", "event", "event", "state", "state",
    ]  # fmt: skip


@pytest.mark.parametrize(("changed_at", "kind"), [("1165939738", "event"), ("1165930000", "state")])
def test_of_a_host_that_nothing_was_kept_of_the_times_decide(changed_at: str, kind: str) -> None:
    assert kinds(parse(host(LASTHOSTSTATECHANGE=changed_at)))[0] == kind


def test_what_a_host_is_now_is_kept_once() -> None:
    reader = RecordReader({"host:h": "0;HARD"})
    assert parse(host(), reader=reader).changed == {}
    parsed = parse(host(HOSTSTATEID="1"), host(HOSTSTATEID="2"), host(HOSTNAME="g"), reader=reader)
    assert parsed.changed == {"host:h": "2;HARD", "host:g": "0;HARD"}
    assert parse(host(HOSTSTATEID="2"), reader=reader).changed == {}


# -- records of other templates, and torn ones ----------------------------------------------------------------------


def test_plain_records_give_performance_data_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    reader = RecordReader({})
    parsed = parse(PNP, PNP, reader=reader)
    assert [(each["host"], each["datasource"], each["value"]) for each in messages(parsed)] == [
        ("h", "a", "1"), ("h", "b", "2"), ("h", "a", "1"), ("h", "b", "2"),
    ]  # fmt: skip
    assert [each.message for each in caplog.records] == [
        "records without HOSTADDRESS, LASTSERVICECHECK, LASTSERVICESTATECHANGE, LASTSERVICESTATEID, SERVICEATTEMPT,"
        " SERVICEISVOLATILE, SERVICESTATE, SERVICESTATEID, SERVICESTATETYPE: they give performance data only, no states"
        " and no events"
    ]


def test_plain_host_record_gives_performance_data() -> None:
    (perf,) = messages(parse(b"DATATYPE::HOSTPERFDATA\tTIMET::1\tHOSTNAME::h\tHOSTPERFDATA::rta=1ms"))
    assert perf == {"type": "perf", "timestamp": "1", "host": "h", "datasource": "rta", "value": "1"}


def test_keys_may_stand_in_another_order_with_others_among_them() -> None:
    first, *keys = list(SERVICE)[:13]
    moved = {name: SERVICE.get(name, "x") for name in [first, *reversed(keys), "CHECKCOMMAND", *list(SERVICE)[13:]]}
    assert parse(record(moved)).items == parse(service()).items


def test_of_a_key_that_stands_there_twice_the_first_one_counts() -> None:
    line = service().replace(b"\tSERVICEOUTPUT", b"\tHOSTNAME::other\tSERVICEOUTPUT")
    assert messages(parse(line))[0]["host"] == "h"


def test_keys_behind_a_plugins_text_do_not_count() -> None:
    ours = service().partition(b"\tSERVICEOUTPUT")[0].split(b"\t", 4)
    line = b"\t".join([*ours[:3], b"SERVICEDESC::S 1", b"SERVICEPERFDATA::a=1", ours[4], b"SERVICEOUTPUT::x|"])
    assert kinds(parse(line + b"\tSERVICEPERFDATA::a=1\tEND::1")) == ["perf"]
    before = service().partition(b"\tSERVICEOUTPUT")[0]
    assert kinds(parse(before + b"\tSERVICEPERFDATA::a=1\tSERVICEOUTPUT::x|\tSERVICEPERFDATA::a=1\tEND::1")) == ["perf"]
    (rejected,) = parse(b"DATATYPE::HOSTPERFDATA\tTIMET::1\tHOSTPERFDATA::a=1\tHOSTNAME::h").rejected
    assert rejected[1].startswith("expected a whole record, with TIMET and HOSTNAME before")


def test_a_torn_record_gives_nothing_wrong_and_the_next_one_is_whole() -> None:
    """The template begins with a newline, so what is torn stands alone."""
    line = service(SERVICEPERFDATA="a=17")
    for length in range(1, len(line)):
        parsed = parse(line[:length], line)
        assert parsed.items == parse(line).items, length
        assert parsed.malformed == 1, length


@pytest.mark.parametrize("length", [1, 5, 9, 10, 18, 25, 40, 80, 150, 220])
def test_a_record_glued_to_one_torn_before_a_plugins_text_is_taken(length: int) -> None:
    line = service(SERVICEPERFDATA="a=17")
    assert length < line.index(b"\tSERVICEOUTPUT")
    parsed = parse(line[:length] + line)
    assert parsed.items == parse(line).items
    assert parsed.rejected == [(line[:length], "torn: another record begins in it")]


@pytest.mark.parametrize("length", [1, 30, 60, 85, 100, 150, len(PNP)])
def test_a_plain_record_glued_to_a_torn_one_is_taken(length: int) -> None:
    parsed = parse(PNP[:length] + PNP)
    assert [each["value"] for each in messages(parsed)] == ["1", "2"]
    assert parsed.malformed == 1


def test_what_is_glued_behind_a_plugins_text_gives_no_more_than_a_plain_record() -> None:
    parsed = parse(PNP + service(HOSTNAME="other", SERVICEPERFDATA="a=1"))
    assert kinds(parsed) == ["perf"]


@pytest.mark.parametrize(
    "line", [b"DATATYPE::", b"DATATYPE::X\tTIMET::1", b"DATATYPE::HOSTPERFDATA", b"what|is|this", b"event|1|2"]
)
def test_what_is_no_record_and_no_line_is_counted(line: bytes) -> None:
    parsed = parse(line, b"perf|1|h|a|1")
    assert kinds(parsed) == ["perf"]
    assert parsed.malformed == 1


def test_a_line_that_the_parser_fails_at_is_counted_and_the_others_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(data: Any) -> Any:
        if data == "bad=1" or (isinstance(data, list) and b"bad" in b"".join(data)):
            raise KeyError("mistake")
        return (parse_chunk if isinstance(data, list) else records_perfdata)(data)

    records_perfdata = records.parse_perfdata
    monkeypatch.setattr(records, "parse_perfdata", failing)
    monkeypatch.setattr(records, "parse_chunk", failing)
    before, bad, after = b"perf|1|h|a|1", b"perf|1|h|bad|1", b"perf|1|h|c|1"
    bad_record = service(SERVICEPERFDATA="bad=1")
    parsed = parse(before, bad, after, bad_record, service(SERVICEPERFDATA="good=1"))
    assert kinds(parsed) == ["perf", "perf", "state", "perf"]
    assert parsed.rejected == [(line, "it can't be read: KeyError('mistake')") for line in (bad, bad_record)]
