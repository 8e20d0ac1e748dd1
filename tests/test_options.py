"""Settings: what a file may say, what it means, and how it is told that it is wrong."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.user import as_nobody
from vigiloconn import options
from vigiloconn.errors import SettingsError, StartError
from vigiloconn.options import Publication, Secret, Settings, Subscription, load_settings, parse_settings
from vigiloconn.settings import logsetup, paths, schema, values

ROOT = Path(__file__).parent.parent
PASSWORD = "hunter2-s3cret"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def _fresh_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def parse(text: str, **kwargs: object) -> Settings:
    return parse_settings(textwrap.dedent(text), Path("settings.ini"), **kwargs)  # type: ignore[arg-type]


def refusal(text: str, **kwargs: object) -> str:
    """Return the error, which must be one line and must not name the password."""
    with pytest.raises(SettingsError) as caught:
        parse(text, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert PASSWORD not in message
    return message


# Defaults and the schema


def test_an_empty_file_gives_the_documented_defaults() -> None:
    settings = parse("")
    assert settings.bus.hosts == ("localhost",)
    assert (settings.bus.user, settings.bus.password.reveal()) == ("guest", "guest")
    assert settings.bus.default_port == 5672
    assert (settings.bus.window, settings.bus.prefetch_count, settings.bus.heartbeat_s) == (2000, 500, 30)
    assert settings.runtime.backup_file == "/var/lib/vigilo/connector-nagios/backup.sqlite"
    assert settings.runtime.journal_max_bytes == 4 * 2**30
    assert settings.nagios.listen_unix == "/var/lib/vigilo/connector-nagios/send.sock"
    assert settings.nagios.accepted_commands == ()
    assert settings.logging == {}
    assert settings.publication("event") == Publication("event", None)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("bus", options.BusSettings), ("connector", options.ConnectorSettings),
        ("connector-nagios", options.NagiosSettings),
    ],
)
def test_schema_and_settings_name_the_same_attributes(section: str, kind: type) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    # The file is read while loading; what counts then is the password.
    assert {entry.attribute for entry in schema.SECTIONS[section]} - {"password_file"} == fields


def test_the_policies_defaults_are_those_of_the_table() -> None:
    conn = parse("").runtime
    assert dict(conn.when_full) == schema.WHEN_FULL
    assert dict(conn.when_unroutable) == schema.WHEN_UNROUTABLE


def test_settings_can_not_be_changed() -> None:
    settings = parse("")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.bus.window = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.publications["event"] = Publication("x", None)  # type: ignore[index]


def test_the_documentation_holds_the_tables_of_the_schema() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert schema.with_tables(page) == page, "run: python -m vigiloconn.schema docs/settings.md"


def test_every_key_of_the_schema_is_documented() -> None:
    table = schema.settings_table()
    for section in schema.SECTIONS:
        for key in schema.spellings(section):
            assert f"`{key}`" in table


def test_the_module_prints_the_tables() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vigiloconn.schema"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == schema.settings_table()


# Names and paths


def test_an_instance_is_part_of_names_and_paths() -> None:
    settings = parse("", instance=2)
    assert settings.name == "connector-nagios-2"
    assert settings.service_name == "vigilo-connector-nagios-2"
    assert settings.nagios.listen_unix == "/var/lib/vigilo/connector-nagios-2/send.sock"
    assert settings.runtime.backup_file == "/var/lib/vigilo/connector-nagios-2/backup.sqlite"
    settings = parse("", instance=0)
    assert (settings.name, settings.service_name) == ("connector-nagios-0", "vigilo-connector-nagios-0")


def test_without_an_instance_the_service_is_the_first_and_paths_carry_none() -> None:
    assert parse("").service_name == "vigilo-connector-nagios-1"
    assert parse("").name == "connector-nagios"


def test_path_helpers_agree_with_the_settings() -> None:
    assert paths.default_socket("nagios", 2) == parse("", instance=2).nagios.listen_unix
    assert paths.default_journal("nagios") == parse("").runtime.backup_file
    assert paths.default_settings("nagios", 1) == "/etc/vigilo/connector-nagios-1/settings.ini"


@pytest.mark.parametrize(("connector", "instance"), [("", 0), ("../x", 0), ("nagios", -1)])
def test_names_that_make_no_path_are_refused(connector: str, instance: int) -> None:
    with pytest.raises(SettingsError):
        paths.connector_name(connector, instance)


def test_path_helpers_import_nothing_heavy() -> None:
    code = (
        "import sys; import vigiloconn.settings.paths as p; p.default_socket('nagios', 1);"
        "print(*{'gevent', 'configparser', 'pathlib', 're'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True, text=True, timeout=30, check=True,
    )
    assert done.stdout.strip() == ""


# Files


def test_a_missing_default_file_means_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "CONFIG_ROOT", str(tmp_path))
    settings = load_settings(None)
    assert settings.path is None
    assert settings.bus.hosts == ("localhost",)


def test_the_default_file_is_read_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "CONFIG_ROOT", str(tmp_path))
    file = tmp_path / "connector-nagios-1/settings.ini"
    file.parent.mkdir()
    file.write_text("[bus]\nuser = one\n")
    settings = load_settings(None, instance=1)
    assert (settings.path, settings.bus.user) == (file, "one")
    assert load_settings(None).bus.user == "guest"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.ini: can't be read: No such file"):
        load_settings(tmp_path / "no.ini")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read: Is a directory"):
        load_settings(tmp_path)


@pytest.mark.parametrize(("mode", "advice"), [(0o040, "be root, or in the group .+"), (0o000, "be root")])
def test_who_may_not_read_the_settings_is_told_who_may(mode: int, advice: str) -> None:
    # In a directory that others may enter: those of a test are their owner's alone.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        file = Path(place) / "settings.ini"
        file.touch()
        # A group that is not this user's own, where it can be had.
        if os.geteuid() == 0:
            os.chown(file, 0, 0)
        elif mode:
            pytest.skip("only root can make a file that this user may not read and its group may")
        file.chmod(mode)
        expected = rf"settings\.ini: can't be read: Permission denied: {advice}$"
        with as_nobody(), pytest.raises(SettingsError, match=expected):
            load_settings(file)


def test_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.ini"
    file.write_bytes(b"[bus]\nuser = x\n# caf\xe9\n")
    with pytest.raises(SettingsError, match=r"settings\.ini: line 3: expected UTF-8"):
        load_settings(file)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "settings.ini"
    file.write_bytes("\ufeff[bus]\nuser = x\n".encode())
    assert load_settings(file).bus.user == "x"


def test_the_file_of_a_twisted_connector_works(tmp_path: Path) -> None:
    settings = parse(
        """\
        # Liste des serveurs
        [bus]
        hosts = broker1, broker2:5673, [2001:db8::1]:5674,
        user = connector-nagios
        password = a#b;c%d
        use_ssl = False
        queue = connector-nagios-localhost
        queue_messages_ttl = 60
        subscriptions = nagios:all, command,
        log_traffic = false
        batch_send_perf = 0

        [connector-nagios]
        accepted_commands = PROCESS_SERVICE_CHECK_RESULT, PROCESS_HOST_CHECK_RESULT,
        listen_unix = /run/x.sock
        nagios_pipe = "/var/nagios.cmd"
        group_nagios_commands = True

        [connector]
        backup_file = :memory:
        backup_table_to_bus = tobus2
        hostname =

        [connector-metro]
        whatever = 1

        [DEFAULT]
        hosts = elsewhere

        [publications]
        perf = performance:60
        event = event
        """
    )
    assert settings.bus.hosts == ("broker1", "broker2:5673", "[2001:db8::1]:5674")
    assert settings.bus.password.reveal() == "a#b;c%d"
    assert settings.bus.queue_messages_ttl_s == 60
    assert settings.bus.subscriptions == (Subscription("nagios", "all"), Subscription("command", None))
    assert settings.bus.batch_send_perf == 1
    assert settings.nagios.accepted_commands == ("PROCESS_SERVICE_CHECK_RESULT", "PROCESS_HOST_CHECK_RESULT")
    assert settings.nagios.nagios_pipe == "/var/nagios.cmd"
    assert settings.nagios.group_nagios_commands is True
    assert (settings.runtime.backup_file, settings.runtime.backup_table) == (":memory:", "tobus2")
    assert settings.runtime.hostname is None
    assert settings.publication("perf") == Publication("performance", 60)


def test_a_connector_of_another_name_keeps_its_section_to_itself() -> None:
    settings = parse("[connector-metro]\nDir = /x\n[connector-nagios]\nno_such = 1\n", connector="metro")
    assert settings.own == {"Dir": "/x"}
    assert settings.service_name == "vigilo-connector-metro-1"


def test_default_is_a_section_like_any_other() -> None:
    assert parse("[DEFAULT]\nuser = x\n[bus]\n").bus.user == "guest"


# Errors of form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user = x\n", "settings.ini: line 1: expected a [section] before the first setting"),
        ("[bus]\n\nuser\n", "settings.ini: line 3: expected key = value or [section]"),
        ("[bus]\nuser = a\nuser = b\n", "settings.ini: line 3: [bus] user: stands in the section twice"),
        ("[bus]\n[connector]\n[bus]\n", "settings.ini: line 3: [bus] stands in the file twice"),
    ],
)
def test_errors_of_form_name_the_line(text: str, expected: str) -> None:
    assert refusal(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[bus]\nprefetch = 5\n", "[bus] prefetch: unknown key, the nearest known one is prefetch_count"),
        ("[bus]\nzebra = 5\n", "[bus] zebra: unknown key, and none is near; docs/settings.md has all"),
        ("[buss]\nhosts = a\n", "[buss]: unknown section, the nearest known one is [bus]"),
        ("[Publications]\nperf = p\n", "[Publications]: unknown section, the nearest known one is [publications]"),
        (
            "[Connector-Nagios]\nlisten_unix = /x\n",
            "[Connector-Nagios]: unknown section, the nearest known one is [connector-nagios]",
        ),
        ("[bus]\nHosts = a\n", "[bus] Hosts: unknown key, the nearest known one is hosts"),
        ("[connector]\nlisten_unix = /x\n", "[connector] listen_unix: belongs in [connector-nagios]"),
        ("[connector-nagios]\nbackup_file = /x\n", "[connector-nagios] backup_file: belongs in [connector]"),
        (
            "[connector]\nbackup_table = a\nbackup_table_to_bus = a\n",
            "[connector] backup_table_to_bus: says the same as backup_table: keep one of them",
        ),
    ],
)
def test_keys_that_are_not_expected_are_errors(text: str, expected: str) -> None:
    assert refusal(text) == f"settings.ini: {expected}"


# Bad values


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("bus", "prefetch_count = ten", "expected a whole number from 1 to 65535, got 'ten'"),
        ("bus", "prefetch_count = 0", "expected a whole number from 1 to 65535, got '0'"),
        ("bus", "heartbeat = 0.5", "expected a whole number from 1 to 65535, got '0.5'"),
        ("bus", "confirm_timeout = nan", "expected seconds above 0, such as 30 or 0.5, got 'nan'"),
        ("bus", "confirm_timeout = 0", "expected seconds above 0, such as 30 or 0.5, got '0'"),
        ("bus", "connect_timeout = 1e3", "expected seconds above 0, such as 30 or 0.5, got '1e3'"),
        ("bus", "use_ssl = perhaps", "expected True or False, got 'perhaps'"),
        ("bus", "use_ssl = True ; yes", "got 'True ; yes' (behind a value a comment begins with a blank and #)"),
        ("bus", "auth = digest", "expected plain, amqplain or external, got 'digest'"),
        ("bus", "queue_type = stream", "expected classic or quorum, got 'stream'"),
        ("bus", "hosts = ,", "expected at least one broker, got none"),
        ("bus", "hosts = a, b:99999", "b:99999"),
        ("bus", "hosts = 2001:db8::1", "2001:db8::1"),
        ("bus", "vhost =", "expected a virtual host, got nothing"),
        ("bus", "subscriptions = :key", "expected exchange or exchange:key, got ':key'"),
        ("bus", "queue = " + "q" * 256, "expected a name of at most 255 bytes"),
        ("bus", "user =", "expected it for auth = plain, got nothing"),
        ("bus", "window = 1_000", "expected a whole number from 1 to 100000, got '1_000'"),
        ("connector", "self_monitoring_perf_exchange = a:b", "time to live behind the ':': expected a whole number"),
        ("connector", "journal_max_bytes = 4 KB", "expected bytes above 0, such as 500000000, 500 MiB or 4G, got"),
        ("connector", "journal_max_messages = 0", "expected a whole number above 0, got '0'"),
        ("connector", "backup_table = a; DROP", "expected letters, digits and '_', got 'a; DROP'"),
        ("connector", "when_full = drop-oldest", "expected block or drop-newest, or TYPE:POLICY, got 'drop-oldest'"),
        ("connector", "when_full = perf:block, perf:block", "expected one policy for perf, got two"),
        ("connector", "when_unroutable = ,", "expected park or drop, or TYPE:POLICY, got nothing"),
        ("connector", "backup_file =", "expected a path or :memory:, got nothing"),
        ("connector-nagios", "listen_unix = /" + "x" * 107, "expected a path of at most 107 bytes"),
        ("connector-nagios", "accepted_commands = 'A, B", "got a quote that does not pair up"),
        ("publications", "event = x:0", "expected a whole number from 1 to 4294967, got '0'"),
        ("publications", "event = x:4294968", "expected a whole number from 1 to 4294967, got '4294968'"),
        ("publications", "event = x:", "expected a whole number from 1 to 4294967, got ''"),
        ("publications", "event = :60", "expected exchange or exchange:seconds, got ':60'"),
    ],
)
def test_a_bad_value_is_told_with_place_and_expectation(section: str, line: str, expected: str) -> None:
    message = refusal(f"[{section}]\n{line}\n")
    assert message.startswith(f"settings.ini: [{section}] {line.partition('=')[0].strip()}: ")
    assert expected in message


@given(st.text(), st.sampled_from([(s, e.key) for s, entries in schema.SECTIONS.items() for e in entries]))
def test_no_value_gets_past_a_converter_with_another_error(text: str, place: tuple[str, str]) -> None:
    entry = schema.spellings(place[0])[place[1]]
    message = ""
    try:
        entry.convert(text)
    except ValueError as exc:
        message = str(exc)
    assert "\n" not in message


@pytest.mark.parametrize("text", ["True", "YES", "on", "1"])
def test_truth_has_many_spellings(text: str) -> None:
    assert parse(f"[bus]\nlog_traffic = {text}\n").bus.log_traffic is True
    assert parse("[bus]\ndead_letter = Off\n").bus.dead_letter is False


def test_times_may_have_fractions() -> None:
    assert parse("[connector]\nstop_timeout = 0.5\n").runtime.stop_timeout_s == 0.5


@pytest.mark.parametrize(
    ("text", "expected"), [("1000", 1000), ("2K", 2048), ("3 MiB", 3 * 2**20), ("1GiB", 2**30), ("4G", 4 * 2**30)]
)
def test_sizes_have_suffixes(text: str, expected: int) -> None:
    assert values.byte_count(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()), (",", ()), ("a", ("a",)), ("a, b ,", ("a", "b")), ("\"a,b\", 'c'", ("a,b", "c")),
        ("\na\nb,\nc", ("a", "b", "c")), ("a b, c", ("a b", "c")), ("O'Brien", ("O'Brien",)),
    ],
)
def test_lists(text: str, expected: tuple[str, ...]) -> None:
    assert options.parse_list(text) == expected


@given(st.lists(st.from_regex(r"[a-z0-9.:]{1,9}", fullmatch=True)))
def test_a_list_that_was_joined_comes_apart_again(items: list[str]) -> None:
    assert options.parse_list(", ".join(items) + ",") == tuple(items)


def test_a_list_may_go_on_over_indented_lines() -> None:
    assert parse("[bus]\nhosts = a,\n   b:5673\n   c\n").bus.hosts == ("a", "b:5673", "c")


def test_subscriptions_split_at_the_first_colon() -> None:
    assert options.parse_subscriptions("a, b:c:d, e:,") == [
        Subscription("a", None), Subscription("b", "c:d"), Subscription("e", ""),
    ]


def test_publications_split_at_the_last_colon() -> None:
    assert options.parse_publications({"event": "a:b:60", "perf": "p"}) == {
        "event": Publication("a:b", 60), "perf": Publication("p", None),
    }
    with pytest.raises(ValueError, match=r"^event: .*expected"):
        options.parse_publications({"event": "a:b"})


def test_a_policy_without_type_is_for_all_types() -> None:
    assert parse("[connector]\nwhen_full = block\n").runtime.when_full_for("perf") == "block"


def test_a_policy_for_one_type_leaves_the_others_as_they_were() -> None:
    conn = parse("[connector]\nwhen_full = event:drop-newest\nwhen_unroutable = perf:drop\n").runtime
    assert [conn.when_full_for(kind) for kind in ("event", "perf", "state")] == ["drop-newest", "drop-newest", "block"]
    assert [conn.when_unroutable_for(kind) for kind in ("perf", "event")] == ["drop", "park"]


def test_names_and_paths_are_taken_up_to_their_last_byte_and_quotes_around_nothing_are_nothing() -> None:
    path = "/" + "x" * 106
    settings = parse(f"[bus]\nqueue = {'q' * 255}\n[connector-nagios]\nlisten_unix = {path}\nnagios_pipe = \"\"\n")
    assert settings.bus.queue == "q" * 255
    assert settings.nagios.listen_unix == path
    assert settings.nagios.nagios_pipe is None


def test_an_empty_socket_path_means_no_socket() -> None:
    assert parse("[connector-nagios]\nlisten_unix =\n").nagios.listen_unix is None


# Passwords and certificates


def test_a_password_file_gives_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\r\nnot this\n")
    assert parse(f"[bus]\npassword_file = {file}\n").bus.password == Secret(PASSWORD)


def test_a_credential_counts_where_no_password_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bus-password").write_text(PASSWORD + "\n")
    settings = tmp_path / "settings.ini"
    settings.write_text("[bus]\nuser = x\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_settings(settings).bus.password.reveal() == PASSWORD
    settings.write_text("[bus]\npassword = mine\n")
    assert load_settings(settings).bus.password.reveal() == "mine"


def test_password_and_password_file_together_are_an_error(tmp_path: Path) -> None:
    message = refusal(f"[bus]\npassword = {PASSWORD}\npassword_file = {tmp_path}/x\n")
    assert message == "settings.ini: [bus] password_file: expected it or password, got both"


def test_a_password_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    assert "[bus] password_file" in refusal(f"[bus]\npassword_file = {tmp_path}/x\n")
    (tmp_path / "x").write_bytes(PASSWORD.encode() + b"\xff\n")
    assert "expected UTF-8" in refusal(f"[bus]\npassword_file = {tmp_path}/x\n")


@pytest.mark.parametrize(
    "text",
    [
        f"password = {PASSWORD}\n",
        f"[bus]\npassword {PASSWORD}\n",
        f"[bus]\npassword {PASSWORD} = x\n",
        f"[bus]\npassword = {PASSWORD}\npassword = {PASSWORD}\n",
        f"[bus]\npassword {PASSWORD} = x\npassword {PASSWORD} = x\n",
        f"[bus]\npasword = {PASSWORD}\n",
        f"[connector]\npassword = {PASSWORD}\n",
        f"[bus]\npassword = {PASSWORD}\n  {PASSWORD}\n",
        f"[bus]\nuser = x\n  password = {PASSWORD}\n",
        f"[bus]\nhosts = x\n  password: {PASSWORD}\n",
        f"[bus]\nhosts = x\n  passwd = {PASSWORD}\n",
        f"[bus]\nhosts = guest:{PASSWORD}@localhost\n",
        f"[bus]\npassword = \x01{PASSWORD}\n",
        f"[bus]\npassword = {PASSWORD}\nprefetch_count = ten\n",
    ],
)
def test_no_error_tells_the_password(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_representation_tells_the_password() -> None:
    settings = parse(
        f"""\
        [bus]
        password = {PASSWORD}
        [connector-x]
        password = {PASSWORD}
        """,
        connector="x",
    )
    assert settings.bus.password.reveal() == PASSWORD
    password = settings.bus.password
    for text in (repr(settings), str(settings.bus), f"{password} {password!r}", str([password])):
        assert PASSWORD not in text


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("= secret # of the bus", "secret"),
        ("= secret\t#of the bus", "secret"),
        ("= a#b", "a#b"),
        ("=#b", "#b"),
        ("=#b # c", "#b"),
        ("= a ;b", "a ;b"),
        ("= 'a # b'", "a # b"),
        ('= "a # b" # c', "a # b"),
        ("= it's # c", "it's"),
        ("= a, 'b # c' # d", "a, 'b # c'"),
        ("= 'a # b", "'a"),
    ],
)
def test_a_blank_and_a_hash_end_a_value_that_is_not_quoted(written: str, password: str) -> None:
    assert parse(f"[bus]\npassword {written}\n").bus.password.reveal() == password


def test_a_value_that_is_a_comment_is_none() -> None:
    with pytest.raises(SettingsError, match="password: expected it for auth = plain, got nothing"):
        parse("[bus]\npassword = #secret\n")


def test_comments_stand_behind_all_kinds_of_values() -> None:
    settings = parse(
        """
        [bus] # see [connector]
        hosts = a, b:5673, # the second one
            'c' # the third
        [publications]
        perf = perf:60 # a minute
        [connector-x] # ours
        args = ('/x', 'a')
        key = value # comment
        """,
        connector="x",
    )
    assert settings.bus.hosts == ("a", "b:5673", "c")
    assert settings.publications["perf"] == Publication("perf", 60)
    assert settings.own == {"args": "('/x', 'a')", "key": "value"}


def test_a_format_of_logging_may_hold_a_hash() -> None:
    settings = parse(TWISTED_LOGGING.replace("format = %(levelname)s", "format = %(levelname)s # 'x' ; y"))
    assert settings.logging["formatter_lines"]["format"] == "%(levelname)s # 'x' ; y::%(message)s"


def test_quotes_around_a_value_go_and_others_stay() -> None:
    assert parse("[bus]\npassword = \"a, b\"\n").bus.password.reveal() == "a, b"
    assert parse("[bus]\npassword = '\"x\"'\n").bus.password.reveal() == '"x"'
    assert parse("[bus]\npassword = \"a\n").bus.password.reveal() == '"a'


@pytest.mark.parametrize(("mode", "count"), [(0o640, 0), (0o644, 1), (0o604, 1)])
def test_a_settings_file_with_a_password_that_all_can_read_is_warned_of(tmp_path: Path, mode: int, count: int) -> None:
    file = tmp_path / "settings.ini"
    file.write_text(f"[bus]\npassword = {PASSWORD}\n")
    file.chmod(mode)
    warnings = load_settings(file).warnings
    assert [str(file) in warning and "chmod" in warning for warning in warnings] == [True] * count
    assert PASSWORD not in "".join(warnings)


def test_a_password_file_that_all_can_read_is_warned_of_and_a_file_without_password_is_not(tmp_path: Path) -> None:
    file, secret = tmp_path / "settings.ini", tmp_path / "secret"
    file.write_text(f"[bus]\npassword_file = {secret}\n")
    secret.write_text(PASSWORD)
    for path in (file, secret):
        path.chmod(0o644)
    [warning] = load_settings(file).warnings
    assert warning.startswith(f"{secret} holds a password")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("auth = external", "[bus] auth: external needs TLS"),
        ("auth = external\nuse_ssl = on", "[bus] auth: external logs in with a certificate: expected cert_file"),
        ("key_file = /x", "[bus] key_file: is of no use without a certificate"),
        ("use_ssl = on\nca_file = /no/such.pem", "[bus] ca_file: /no/such.pem can't be read: No such file"),
        ("password =", "[bus] password: expected it for auth = plain, got nothing"),
    ],
)
def test_what_does_not_go_together_is_an_error(lines: str, expected: str) -> None:
    assert expected in refusal(f"[bus]\n{lines}\n")


def test_external_login_needs_no_password(tmp_path: Path) -> None:
    pem = tmp_path / "client.pem"
    pem.write_text("x")
    bus = parse(f"[bus]\nauth = EXTERNAL\nuse_ssl = yes\ncert_file = {pem}\nuser =\npassword =\n").bus
    assert (bus.auth, bus.default_port) == ("external", 5671)


def test_certificates_do_not_matter_without_tls() -> None:
    assert parse("[bus]\nca_file = /no/such.pem\n").bus.ca_file == "/no/such.pem"


# Logging

TWISTED_LOGGING = """\
[loggers]
keys = root,twisted,
[handlers]
keys = file,
[formatters]
keys = lines
[logger_root]
level = INFO
handlers = file,
[logger_twisted]
level = WARNING
qualname = twisted
propagate = 0
handlers = file
[handler_file]
class = FileHandler
Level = NOTSET
formatter = lines
args = ('{path}', 'a')
[formatter_lines]
format = %(levelname)s::%(message)s
datefmt =
class = vigilo.common.logging.VigiloFormatter
"""


@pytest.mark.usefixtures("_fresh_logging")
def test_the_logging_of_a_twisted_connector_works(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logsetup.configure_logging(parse(TWISTED_LOGGING.format(path=path)), None)
    logging.getLogger("vigiloconn.test").info("100 %% of %s", "it")
    logging.getLogger("vigiloconn.test").debug("not this")
    assert path.read_text() == "INFO::100 % of it\n"
    assert logging.getLogger("twisted").handlers == []


@pytest.mark.usefixtures("_fresh_logging")
def test_the_level_of_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    text = TWISTED_LOGGING.format(path=path).replace("Level = NOTSET", "level = ERROR")
    logsetup.configure_logging(parse(text), "debug")
    logging.getLogger("vigiloconn.test").debug("this too")
    assert path.read_text() == "DEBUG::this too\n"


@pytest.mark.usefixtures("_fresh_logging")
def test_without_logging_sections_messages_go_to_stderr_from_info_on(capsys: pytest.CaptureFixture[str]) -> None:
    logsetup.configure_logging(parse(""), None)
    logging.getLogger("vigiloconn.test").info("seen")
    logging.getLogger("vigiloconn.test").debug("unseen")
    captured = capsys.readouterr()
    assert captured.err.endswith(" INFO vigiloconn.test: seen\n")
    assert captured.out == ""


def test_sections_of_others_are_no_errors() -> None:
    assert parse("[vigilo]\nx = 1\n[connector-nagvis]\ny = 2\n[bus]\nuser = u\n").bus.user == "u"


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"--log-level: expected DEBUG, .*, got 'LOUD'"):
        logsetup.configure_logging(parse(""), "LOUD")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("keys = file,", "keys = file, mail", "[handlers] keys: names 'mail', expected a section [handler_mail]"),
        ("keys = root,twisted,", "keys = twisted", "[loggers] keys: expected root in the list"),
        ("level = INFO", "level = LOUD", "[logger_root] level: expected DEBUG,"),
        ("handlers = file,", "handlers = syslog", "[logger_root] handlers: 'syslog' is not among the keys"),
        ("class = FileHandler", "class = Formatter", "[handler_file] class: expected a class of logging handlers"),
        ("class = FileHandler", "class = NoHandler", "[handler_file] class: expected a class of logging handlers"),
        ("formatter = lines", "formatter = no", "[handler_file] formatter: 'no' is not among the keys"),
        ("args = ('", "args = (((", "[handler_file] args: expected a Python expression"),
        ("args = ('{path}', 'a')", "args = ('{path}', hunter2)", "[handler_file] args: expected quotes around text"),
        ("format = %(levelname)s", "format = %(levelname)", "[formatter_lines] format: "),
        ("[formatters]\nkeys = lines\n", "", "[formatters] keys: expected it for logging, got nothing"),
    ],
)
def test_bad_logging_sections_are_errors_of_the_settings(old: str, new: str, expected: str) -> None:
    assert old in TWISTED_LOGGING
    assert f"settings.ini: {expected}" in refusal(TWISTED_LOGGING.replace(old, new, 1))


@pytest.mark.parametrize("arguments", [
    "('{path}', hunter2)", "(int('hunter2'),)", "('{path}', 'a', 'hunter2')", "(dict()['hunter2'],)", "(sys.hunter2,)",
    "('{path}', mode='hunter2')",
])  # fmt: skip
@pytest.mark.usefixtures("_fresh_logging")
def test_errors_in_the_arguments_of_a_log_handler_quote_none_of_them(tmp_path: Path, arguments: str) -> None:
    text = TWISTED_LOGGING.replace("('{path}', 'a')", arguments).format(path=tmp_path / "x.log")
    with pytest.raises(SettingsError) as caught:
        logsetup.configure_logging(parse(text), None)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("_fresh_logging")
def test_a_log_file_that_can_not_be_opened_keeps_the_process_from_starting(tmp_path: Path) -> None:
    settings = parse(TWISTED_LOGGING.format(path=tmp_path / "missing/x.log"))
    with pytest.raises(StartError, match=r"missing/x\.log"):
        logsetup.configure_logging(settings, None)


@pytest.mark.usefixtures("_fresh_logging")
def test_a_log_file_that_was_moved_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logsetup.configure_logging(parse(TWISTED_LOGGING.format(path=path)), None)
    logging.warning("one")
    path.rename(tmp_path / "x.log.1")
    logsetup.reopen_log_files()
    logging.warning("two")
    assert path.read_text() == "WARNING::two\n"
    assert (tmp_path / "x.log.1").read_text() == "WARNING::one\n"


@pytest.mark.usefixtures("_fresh_logging")
def test_a_log_file_in_its_place_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logsetup.configure_logging(parse(TWISTED_LOGGING.format(path=path).replace("'a')", "'w')")), None)
    logging.warning("one")
    logsetup.reopen_log_files()
    logging.warning("two")
    assert path.read_text() == "WARNING::one\nWARNING::two\n"


@pytest.mark.usefixtures("_fresh_logging")
def test_a_log_file_that_can_not_be_opened_again_stays_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "x.log"
    logsetup.configure_logging(parse(TWISTED_LOGGING.format(path=path)), None)
    moved = tmp_path / "gone"
    os.rename(directory, moved)
    logsetup.reopen_log_files()
    logging.warning("two")
    assert (moved / "x.log").read_text().endswith("WARNING::two\n")
    assert "can't be opened again" in (moved / "x.log").read_text()


def test_all_errors_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "settings.ini"
    path.write_text(
        "[bus]\nwindow = many\nhostz = a\nuse_ssl = perhaps\nauth = external\n[bus:far]\nheartbeat = x\n"
        "[connecter]\na = 1\n[connector]\ndurability = never\n[publications]\nevent = :5\n"
        "[loggers]\nkeys = nobody\n"
    )
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    errors = [caught.value, *caught.value.others]
    told = [str(error).removeprefix(f"{path}: ").partition(": ")[0] for error in errors]
    # `auth` needs TLS, and whether there is to be TLS can't be told.
    places = {"[bus] hostz", "[bus] window", "[bus] use_ssl", "[bus:far] heartbeat", "[connecter]",
              "[connector] durability", "[publications] event"}
    assert places < set(told)
    assert "[bus] auth" not in told
    assert len(told) == len(places) + 1
