"""`vigilo-bus-config`: what its files mean, and what it does to a real broker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import amqp
import pytest

from tests.support import patched
from tests.support.bus import Bus, connect
from tests.support.rabbit import RabbitNode
from vigiloconn.errors import SettingsError
from vigiloconn.topology.wanted import Binding, Exchange, Queue, explain_refusal, parse_topology

ROOT = Path(__file__).resolve().parents[1]
Done = subprocess.CompletedProcess[str]
Tool = Callable[..., Done]


# --- files ---------------------------------------------------------------------------------------------------------


def test_file_with_nothing_but_names_gets_the_defaults() -> None:
    topology = parse_topology("[exchange:e]\n[binding:b]\nexchange = e\nqueue = q\n", "f")
    assert topology.exchanges == (Exchange("e", "fanout", True),)
    assert topology.queues == (Queue("q", "classic", None),)
    assert topology.bindings == (Binding("b", "e", "q", "q"),)


def test_every_key_of_a_file_is_taken() -> None:
    text = (
        "[exchange:a:b]\ntype = topic\ndurable = no\n"
        "[queue:q]\ntype = quorum\nttl = 60\n"
        "[binding:x]\nexchange = a:b\nqueue = q\nkey = k.*\n"
        "[binding:y]\nexchange = amq.fanout\nqueue = other\nkey =\n"
    )
    topology = parse_topology(text, "f", queue_type="quorum")
    assert topology.exchanges == (Exchange("a:b", "topic", False),)
    assert topology.queues == (Queue("q", "quorum", 60), Queue("other", "quorum"))
    assert topology.queues[0].arguments == {"x-queue-type": "quorum", "x-message-ttl": 60_000}
    assert [binding.key for binding in topology.bindings] == ["k.*", "other"]


def test_classic_queue_is_declared_without_arguments() -> None:
    assert Queue("q").arguments == {}


def test_file_of_the_project_is_in_order() -> None:
    topology = parse_topology((ROOT / "conf/bus.ini").read_text(encoding="utf-8"), "bus.ini")
    assert {exchange.name for exchange in topology.exchanges} == {"event", "perf", "state", "nagios"}
    assert {binding.exchange for binding in topology.bindings} == {"event", "perf", "state", "nagios"}


def test_comments_stand_behind_the_values_of_a_file_and_its_sections() -> None:
    text = "[exchange:e] # all\ntype = topic # by key\n[binding:b]\nexchange = e\nqueue = q\nkey = a.# # a wildcard\n"
    topology = parse_topology(text, "f")
    assert topology.exchanges == (Exchange("e", "topic"),)
    assert topology.bindings == (Binding("b", "e", "q", "a.#"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type = fanout", "f: line 1: expected a [section]"),
        ("[exchange:e]\ntype", "f: line 2: expected key = value"),
        ("[exchange:e]\n[exchange:e]", "f: line 2: [exchange:e] stands in the file twice"),
        ("[exchange:e]\ntype = fanout\ntype = topic", "f: line 3: [exchange:e] type: stands in the section twice"),
        ("[exchange:e]\n=a\n=b", "f: line 3: [exchange:e] (no key): stands in the section twice"),
        ("[exchanges:e]", "f: [exchanges:e]: expected [exchange:NAME], [queue:NAME] or [binding:NAME]"),
        ("[exchange]", "f: [exchange]: expected [exchange:NAME]"),
        ("[DEFAULT]\ntype = x", "f: [DEFAULT]: expected [exchange:NAME]"),
        ("[exchange:]", "f: [exchange:]: expected a name"),
        ("[queue:" + "é" * 128 + "]", "expected a name behind queue: of at most 255 bytes"),
        ("[exchange:e]\ntyp = fanout", "f: [exchange:e] typ: unknown key, the nearest known one is type"),
        ("[exchange:e]\nzebra = x", "f: [exchange:e] zebra: unknown key (known: type, durable)"),
        ("[exchange:e]\ntype = fan", "f: [exchange:e] type: expected fanout, direct, topic, headers"),
        ("[exchange:e]\ntype = fanout ; all", "(behind a value a comment begins with a blank and #)"),
        ("[exchange:e]\ntype = fanout\n topic", "f: [exchange:e] type: expected one line"),
        ("[binding:b]\nexchange = e\nqueue = q\nkey = #", "f: [binding:b] key: expected quotes around a wildcard"),
        ("[exchange:e]\ndurable = perhaps", "f: [exchange:e] durable: expected True or False, got 'perhaps'"),
        ("[queue:q]\ntype = stream", "f: [queue:q] type: expected classic or quorum, got 'stream'"),
        ("[queue:q]\nttl = 1h", "f: [queue:q] ttl: expected a whole number from 1 to 4294967, got '1h'"),
        ("[binding:b]\nqueue = q", "f: [binding:b] exchange: expected an exchange, got nothing"),
        ("[binding:b]\nexchange = e", "f: [binding:b] queue: expected a queue, got nothing"),
        ("[binding:b]\nexchange = e\nqueue = q\nkey = " + "k" * 256, "expected a key of at most 255 bytes"),
    ],
)
def test_error_in_a_file_is_one_line_that_names_the_place(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_topology(text, "f")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/':"
            " received 'fanout' but current is 'direct'",
            "type is 'direct', expected 'fanout'",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/':"
            " received the value '60000' of type 'signedint' but current is none",
            "x-message-ttl is not set, expected '60000'",
        ),
        ("NOT_FOUND - no queue 'q'\n in vhost '/'", "NOT_FOUND - no queue 'q' in vhost '/'"),
    ],
)
def test_refusal_is_told_as_a_difference_where_it_is_one(text: str, words: str) -> None:
    assert explain_refusal(text) == words


# --- the program ---------------------------------------------------------------------------------------------------


def run_tool(*arguments: str, cwd: Path | None = None) -> Done:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-m", "vigiloconn.configure", *arguments],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, env=env, cwd=cwd,
    )  # fmt: skip


@pytest.fixture
def tool(rabbit: RabbitNode, vhost: str) -> Tool:
    """A function that runs the program on this test's virtual host."""
    return lambda *arguments: run_tool("-s", rabbit.address, "--vhost", vhost, *arguments)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a file of topology and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "bus.ini"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_second_reading_of_the_projects_file_changes_nothing_and_says_so(
    tool: Tool, rabbit: RabbitNode, vhost: str
) -> None:
    path = str(ROOT / "conf/bus.ini")
    first = tool("read-config", path)
    assert (first.returncode, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert "exchange event: created" in lines
    assert "queue perf: created" in lines
    assert "binding state: created" in lines
    assert lines[-1] == "12 created"
    kinds = ("event", "perf", "state", "nagios")
    assert rabbit.bindings(vhost) == {(kind, kind, kind) for kind in kinds}
    second = tool("read-config", path)
    assert (second.returncode, second.stderr) == (0, "")
    lines = second.stdout.splitlines()
    assert "exchange event: unchanged" in lines
    assert "queue perf: unchanged" in lines
    assert "binding state: ensured (AMQP does not tell whether it was new)" in lines
    assert lines[-1].startswith("nothing changed")
    assert "created" not in second.stdout
    assert rabbit.bindings(vhost) == {(kind, kind, kind) for kind in kinds}


TWISTED_FILE = """\
# Of the bus
[bus]
host = {host}
user = {user}
password = {password}
use_ssl = False
log_traffic = False

[exchange:event]
type = fanout # to all

[loggers]
keys = root,twisted
[handlers]
keys = syslog
[logger_root]
level = INFO
handlers = syslog
[handler_syslog]
class = handlers.NoSuchHandler
args = '/dev/log', 'daemon'
[formatter_syslogFormatter]
format = %(process)d # %(message)s
class = vigilo.common.logging.VigiloFormatter
"""


def test_file_of_the_twisted_library_names_broker_and_login_and_its_logging_is_passed_over(
    rabbit: RabbitNode, vhost: str, file: Callable[[str], str]
) -> None:
    path = file(TWISTED_FILE.format(host=rabbit.address, user=rabbit.user, password=rabbit.password))
    Path(path).chmod(0o600)
    done = run_tool("--vhost", vhost, "read-config", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["exchange event: created", "1 created"]


def test_options_go_before_what_the_file_says_of_the_bus(
    rabbit: RabbitNode, vhost: str, file: Callable[[str], str]
) -> None:
    path = file(TWISTED_FILE.format(host="127.0.0.1:1", user="nobody", password="hunter2"))
    login = ("-u", rabbit.user, "-p", rabbit.password)
    done = run_tool("-s", rabbit.address, *login, "--vhost", vhost, "read-config", path)
    assert done.returncode == 0, done
    assert f"{path} holds a password and can be read by all users" in done.stderr
    done = run_tool(*login, "--vhost", vhost, "read-config", path)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr


def test_all_errors_of_a_file_are_told_at_once(file: Callable[[str], str]) -> None:
    path = file("[exchange:e]\ntype = fan\ndurable = perhaps\n[binding:b]\nkey = k\n[quue:q]\n[queue:q]\nttl = 1h\n")
    done = run_tool("read-config", path)
    assert done.returncode == 2
    places = [line.split(": ")[2] for line in done.stderr.splitlines()]
    binding = ["[binding:b] exchange", "[binding:b] queue"]
    assert places == ["[exchange:e] type", "[exchange:e] durable", *binding, "[quue:q]", "[queue:q] ttl"]
    done = run_tool("read-config", file("[bus]\nhosst = a\nwindow = many\n"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)


def test_error_in_what_a_file_says_of_the_bus_is_status_2(file: Callable[[str], str]) -> None:
    path = file("[bus]\nhosst = a\n[exchange:e]\n")
    done = run_tool("read-config", path)
    assert done.returncode == 2
    assert done.stderr == f"vigilo-bus-config: {path}: [bus] hosst: unknown key, the nearest known one is host\n"


def test_reading_keeps_messages_and_puts_back_what_is_missing(
    tool: Tool, bus: Bus, file: Callable[[str], str], rabbit: RabbitNode, vhost: str
) -> None:
    path = file("[exchange:e]\n[binding:b]\nexchange = e\nqueue = q\nkey = k\n[binding:c]\nexchange = e\nqueue = r\n")
    assert tool("read-config", path).returncode == 0
    bus.publish("e", "k", b"x", delivery_mode=2)
    bus.unbind("q", "e", "k")
    bus.delete_queue("r")
    again = tool("read-config", path)
    assert again.stdout.splitlines() == [
        "exchange e: unchanged",
        "queue q: unchanged",
        "queue r: created",
        "binding b: ensured (AMQP does not tell whether it was new)",
        "binding c: created",
        "2 created, 2 as they should be, 1 bindings ensured",
    ]
    assert rabbit.bindings(vhost) == {("e", "q", "k"), ("e", "r", "r")}
    assert bus.queue_depth("q") == 1


def test_file_without_bindings_says_plainly_that_nothing_changed(tool: Tool, file: Callable[[str], str]) -> None:
    path = file("[exchange:e]\ntype = topic\n")
    assert tool("read-config", path).stdout.splitlines() == ["exchange e: created", "1 created"]
    assert tool("read-config", path).stdout.splitlines() == [
        "exchange e: unchanged", "nothing changed, 1 as they should be",
    ]


def test_what_exists_otherwise_is_named_and_the_rest_is_done(
    tool: Tool, bus: Bus, file: Callable[[str], str], rabbit: RabbitNode, vhost: str
) -> None:
    bus.declare_exchange("e", "direct")
    bus.declare_exchange("transient", durable=False)
    bus.declare_queue("q", arguments={"x-message-ttl": 5000})
    bus.declare_queue("loose", durable=False)
    path = file(
        "[exchange:e]\n[exchange:transient]\n[exchange:new]\n[exchange:odd]\ntype = x-no-such-type\n"
        "[queue:q]\nttl = 60\n[queue:loose]\n"
        "[binding:b]\nexchange = e\nqueue = q\n[binding:n]\nexchange = nowhere\nqueue = q\n"
    )
    done = tool("read-config", path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "exchange e: differs (type is 'direct', expected 'fanout')" in lines
    assert "exchange transient: differs (durable is 'false', expected 'true')" in lines
    assert "exchange new: created" in lines
    assert any(line.startswith("exchange odd: refused (") for line in lines), lines
    assert "queue q: differs (x-message-ttl is '5000', expected '60000')" in lines
    assert "queue loose: differs (durable is 'false', expected 'true')" in lines
    assert any(line.startswith("binding n: refused (NOT_FOUND - no exchange 'nowhere'") for line in lines), lines
    assert ("e", "q", "q") in rabbit.bindings(vhost)
    assert lines[-1].startswith("1 created")
    assert lines[-1].endswith("6 could not be made so")


def test_check_changes_nothing_and_tells_differences_by_its_status(
    tool: Tool, bus: Bus, file: Callable[[str], str], rabbit: RabbitNode, vhost: str
) -> None:
    path = file(
        "[exchange:e]\n[exchange:f]\n[binding:b]\nexchange = e\nqueue = q\n[binding:c]\nexchange = f\nqueue = q\n"
    )
    bus.declare_exchange("f", "topic")
    done = tool("--check", "read-config", path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "exchange e: missing",
        "exchange f: differs (type is 'topic', expected 'fanout')",
        "queue q: missing",
        "binding b: missing (exchange or queue is missing)",
        "binding c: missing (exchange or queue is missing)",
        "5 differ from the file",
    ]
    with pytest.raises(amqp.NotFound):
        bus.queue_depth("q")
    assert rabbit.bindings(vhost) == set()
    bus.delete_exchange("f")
    bus.declare_exchange("f")
    bus.declare_exchange("e")
    bus.declare_queue("q")
    done = tool("read-config", path, "--check")
    assert done.returncode == 0
    assert "binding b: not compared (AMQP does not list bindings)" in done.stdout
    assert done.stdout.splitlines()[-1] == "no difference; 2 bindings not compared"
    assert rabbit.bindings(vhost) == set()


def test_check_sees_that_an_exchange_which_is_only_bound_to_is_missing(
    tool: Tool, bus: Bus, file: Callable[[str], str]
) -> None:
    path = file("[binding:b]\nexchange = others\nqueue = q\n")
    bus.declare_queue("q")
    done = tool("--check", "read-config", path)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (
        1, ["binding b: missing (exchange or queue is missing)", "1 differ from the file"]
    )
    bus.declare_exchange("others", "topic")
    assert tool("--check", "read-config", path).returncode == 0


def test_single_commands_make_and_remove_one_thing(tool: Tool, bus: Bus, rabbit: RabbitNode, vhost: str) -> None:
    def say(*arguments: str) -> str:
        done = tool(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    assert say("create-exchange", "e") == "exchange e: created"
    assert say("create-exchange", "-t", "topic", "t") == "exchange t: created"
    assert say("create-queue", "q") == "queue q: created"
    assert say("create-queue", "q") == "queue q: unchanged"
    assert say("create-queue", "--queue-type=quorum", "strong") == "queue strong: created"
    assert "ensured" in say("subscribe", "q", "e")
    assert "ensured" in say("subscribe", "-k", "a.b", "q", "t")
    assert rabbit.bindings(vhost) == {("e", "q", "q"), ("t", "q", "a.b")}
    bus.publish("e", "", b"x")
    assert "deleted" in say("unsubscribe", "q", "e")
    assert "deleted" in say("unsubscribe", "q", "t", "--key", "a.b")
    assert rabbit.bindings(vhost) == set()
    assert say("delete-queue", "q") == "queue q: deleted (with 1 messages)"
    assert say("delete-queue", "q") == "queue q: unchanged (it was not there)"
    assert say("delete-exchange", "t") == "exchange t: deleted"
    assert say("delete-exchange", "t") == "exchange t: unchanged (it was not there)"
    (queue,) = rabbit.queues(vhost)
    assert (queue["name"], queue["type"], queue["durable"]) == ("strong", "quorum", True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("subscribe", "missing", "amq.fanout"), "refused (NOT_FOUND - no queue 'missing'"),
        (("create-exchange", "amq.mine"), "refused (ACCESS_REFUSED"),
        (("create-exchange", "-t", "direct", "amq.fanout"), "differs (type is 'fanout', expected 'direct')"),
        (("delete-exchange", "amq.fanout"), "refused (ACCESS_REFUSED"),
    ],
)
def test_refusal_is_one_line_and_status_1(tool: Tool, arguments: tuple[str, ...], said: str) -> None:
    done = tool(*arguments)
    assert done.returncode == 1
    assert said in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_queue_that_another_connection_has_to_itself_is_refused(tool: Tool, bus: Bus) -> None:
    bus.declare_queue("mine", durable=False, exclusive=True)
    for command in ("create-queue", "delete-queue"):
        done = tool(command, "mine")
        assert done.returncode == 1
        assert "refused (RESOURCE_LOCKED" in done.stdout


def test_user_without_the_right_is_told_so(tool: Tool, rabbit: RabbitNode, vhost: str) -> None:
    rabbit.add_user("poor", "poor-secret", vhost)
    rabbit.set_permissions("poor", configure="^$", vhost=vhost)
    try:
        done = tool("-u", "poor", "-p", "poor-secret", "create-queue", "q")
    finally:
        rabbit.delete_user("poor")
    assert done.returncode == 1
    assert "queue q: refused (ACCESS_REFUSED" in done.stdout


def test_password_comes_from_a_file_and_is_never_shown(
    tool: Tool, rabbit: RabbitNode, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{rabbit.password}\nnot this line\n")
    assert tool("--password-file", str(secret), "create-queue", "q").returncode == 0
    secret.write_text("hunter2-secret\n")
    for arguments in (
        ("--password-file", str(secret), "-d", "create-queue", "q"),
        ("-p", "hunter2-secret", "--debug", "create-queue", "q"),
    ):
        done = tool(*arguments)
        assert done.returncode == 1
        assert "ACCESS_REFUSED" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr
    for arguments in (("-p", "hunter2-secret"), ("--pasword=hunter2-secret", "create-queue", "q"),
                      ("-p", "a", "-p", "hunter2-secret", "create-queue", "q")):  # fmt: skip
        done = tool(*arguments)
        assert done.returncode == 2
        assert "hunter2" not in done.stdout + done.stderr


def test_debug_shows_what_happens_and_leaves_the_output_alone(tool: Tool) -> None:
    done = tool("-d", "create-queue", "q")
    assert (done.returncode, done.stdout) == (0, "queue q: created\n")
    assert "DEBUG" in done.stderr


def test_broker_that_is_away_is_one_line_and_status_1() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        done = run_tool("-s", f"127.0.0.1:{holder.getsockname()[1]}", "create-queue", "q")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vigilo-bus-config: 127.0.0.1:")
    assert "refused" in line


def test_unknown_virtual_host_is_one_line_and_status_1(rabbit: RabbitNode) -> None:
    done = run_tool("-s", rabbit.address, "--vhost", "no-such", "create-queue", "q")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no-such" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Usage:"),
        (("create-queue",), "Usage:"),
        (("--check", "create-queue", "q"), "Usage:"),
        (("create-queue", ""), "QUEUE: expected a name, got nothing"),
        (("create-queue", "q" * 256), "QUEUE: expected a name of at most 255 bytes"),
        (("subscribe", "q", ""), "EXCHANGE: expected a name, got nothing"),
        (("subscribe", "q", "e", "-k", "k" * 256), "--key: expected a key of at most 255 bytes"),
        (("-t", "fan", "create-exchange", "e"), "--type: expected fanout"),
        (("--queue-type", "lazy", "create-queue", "q"), "--queue-type: expected classic or quorum, got 'lazy'"),
        (("-s", "::1", "create-queue", "q"), "--server: "),
        (("-s", "", "create-queue", "q"), "--server: "),
        (("-s", "user:hunter2@host", "create-queue", "q"), "--server: expected host or host:port, got an '@'"),
        (("--auth", "none", "create-queue", "q"), "--auth: expected plain, amqplain or external"),
        (("--auth", "external", "create-queue", "q"), "--auth: external logs in with a certificate"),
        (("--ca-file", "x", "create-queue", "q"), "--ca-file: is of no use without --tls"),
        (("--tls", "--key-file", "x", "create-queue", "q"), "--key-file: is of no use without --cert-file"),
        (("--tls", "--ca-file", "/no/such", "create-queue", "q"), "ca_file"),
        (("-p", "x", "--password-file", "y", "create-queue", "q"), "--password-file: expected it or --password"),
        (("--password-file", "/no/such", "create-queue", "q"), "--password-file: /no/such can't be read"),
        (("read-config", "/no/such"), "/no/such: can't be read"),
        (("read-config", "/"), "/: can't be read"),
    ],
)
def test_wrong_usage_is_status_2_before_anything_is_asked(arguments: tuple[str, ...], said: str) -> None:
    # No server: a program that connected would end with status 1.
    done = run_tool(*(("-s", "127.0.0.1:1") if "-s" not in arguments and arguments else ()), *arguments)
    assert done.returncode == 2, done
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_error_in_the_file_is_status_2_and_nothing_is_done(tool: Tool, file: Callable[[str], str], bus: Bus) -> None:
    path = file("[exchange:e]\n[binding:b]\nexchange = e\n")
    done = tool("read-config", path)
    assert done.returncode == 2
    assert done.stderr == f"vigilo-bus-config: {path}: [binding:b] queue: expected a queue, got nothing\n"
    with pytest.raises(amqp.NotFound):
        bus.channel.exchange_declare("e", "fanout", passive=True)


def test_file_in_another_encoding_is_status_2(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "latin.ini"
    path.write_bytes("[exchange:é]\n".encode("latin-1"))
    done = tool("read-config", str(path))
    assert done.returncode == 2
    assert done.stderr == f"vigilo-bus-config: {path}: line 1: expected UTF-8, got another encoding\n"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_end_with_status_0(option: str) -> None:
    done = run_tool(option)
    assert done.returncode == 0
    assert "vigilo-bus-config" in done.stdout


def test_program_runs_from_a_checkout(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> None:
    program = ROOT / "bin/vigilo-bus-config"
    assert os.access(program, os.X_OK)
    done = subprocess.run(
        [sys.executable, program, "-s", rabbit.address, "--vhost", vhost, "create-queue", "q"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "queue q: created\n", "")


def test_names_that_are_not_ascii_are_taken(tool: Tool, bus: Bus, file: Callable[[str], str]) -> None:
    path = file("[exchange:événement]\n[binding:b]\nexchange = événement\nqueue = file d'attente\n")
    assert tool("read-config", path).returncode == 0
    bus.publish("événement", "", b"x")
    assert bus.queue_depth("file d'attente") == 1


# --- for others ----------------------------------------------------------------------------------------------------


def test_scripts_can_apply_a_topology_and_use_a_session(rabbit: RabbitNode, vhost: str) -> None:
    bus = {"hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost}
    patched.run("sessions", "applies", bus=bus)


@pytest.mark.parametrize("scenario", ["closes_after_an_error", "refuses_what_cannot_be_reached"])
def test_session(scenario: str, rabbit: RabbitNode, vhost: str) -> None:
    bus = {"hosts": rabbit.address, "user": rabbit.user, "password": rabbit.password, "vhost": vhost}
    patched.run("sessions", scenario, bus=bus)


def test_session_outlives_more_than_two_heartbeats_and_ends_with_the_broker(spare_node: RabbitNode) -> None:
    bus = {"hosts": spare_node.address, "user": spare_node.user, "password": spare_node.password, "heartbeat": 1}
    with patched.Scenario("sessions", "is_lost", bus=bus) as scenario:
        scenario.wait_said("ready")
        spare_node.pause()
        scenario.tell("paused")
    spare_node.resume()
    with connect(spare_node) as client:
        assert client.channel.is_open
