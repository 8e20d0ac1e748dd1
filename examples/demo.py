"""The connector at work, on a broker of its own: what `make run` runs.

    python -m examples.demo          from the root of the checkout

Environment: BUS=host:port uses that broker instead of starting one, with BUS_USER and BUS_PASSWORD (guest, guest);
RUN_FOR=seconds ends by itself that long after all is ready, with status 0 if every sample line arrived, else 1.
"""

from __future__ import annotations

import configparser
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import amqp

from tests.support.bus import Broker, Bus, connect
from tests.support.connector import ROOT, ConnectorProcess
from tests.support.rabbit import RabbitError, RabbitNode

RUN = Path(".run")
SOCKET = RUN / "nagios.sock"
TOPOLOGY = Path("conf/bus.ini")
TYPES = ("event", "perf", "state", "nagios")
#: What the names of the connector's own figures begin with.
OWN_FIGURES = "vigilo-connector-nagios-1"
#: How often the loop looks whether the connector lives and the time is up, while nothing arrives.
_TICK_S = 0.2


class DemoError(Exception):
    """Raised when the demonstration can't go on; its text is for the person at the terminal."""


@dataclass(frozen=True)
class Options:
    """What the environment says."""

    bus: str
    user: str
    password: str
    run_for_s: float | None


@dataclass
class GivenBroker:
    """A broker that somebody else runs."""

    host: str
    port: int
    user: str
    password: str


@dataclass
class Screen:
    """Prints what arrives and remembers which sample lines did. Of the connector's own figures it prints the first."""

    host: str
    """The host name in this run's sample lines, which tells them from everything else on the bus."""
    missing: set[str] = field(default_factory=lambda: set(TYPES))
    has_figures: bool = False

    def show(self, message: amqp.Message) -> None:
        body = message.body if isinstance(message.body, str) else bytes(message.body).decode("utf-8", "replace")
        info = message.delivery_info
        if info["exchange"] == "perf" and OWN_FIGURES in body and self.host not in body:
            self._show_figures(body)
            return
        say(f"on the bus: {info['exchange']} [{info['routing_key']}] {body}")
        if self.host in body:
            self.missing.discard(info["exchange"])

    def _show_figures(self, body: str) -> None:
        if not self.has_figures:
            say(f"on the bus: perf, the connector's own figures, such as {body} (the others are not shown)")
            self.has_figures = True


def say(text: str) -> None:
    print(text, flush=True)


def read_options(environ: dict[str, str]) -> Options:
    """Read the environment. Raises `DemoError` that names the variable and what was expected."""
    text = environ.get("RUN_FOR", "")
    try:
        run_for_s = float(text) if text else None
    except ValueError as exc:
        raise DemoError(f"RUN_FOR: expected a number of seconds, got {text!r}") from exc
    if run_for_s is not None and not 0 < run_for_s < float("inf"):
        raise DemoError(f"RUN_FOR: expected a number of seconds above 0, got {text!r}")
    user, password = environ.get("BUS_USER") or "guest", environ.get("BUS_PASSWORD") or "guest"
    return Options(environ.get("BUS", ""), user, password, run_for_s)


def parse_broker(options: Options) -> GivenBroker:
    """Take `BUS=host:port` apart; an IPv6 address stands in brackets."""
    host, _, port = options.bus.rpartition(":")
    if not host or not port.isdigit():
        raise DemoError(f"BUS: expected host:port, got {options.bus!r}")
    return GivenBroker(host.strip("[]"), int(port), options.user, options.password)


def read_exchanges(path: Path) -> list[str]:
    """Return the names of the exchanges that a topology file declares."""
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    with path.open(encoding="utf-8") as file:
        parser.read_file(file)
    return [section.partition(":")[2] for section in parser.sections() if section.startswith("exchange:")]


def sample_lines(host: str, now: int) -> list[str]:
    """Return one line of each type about `host`."""
    return [
        f"event|{now}|{host}|Load|WARNING|WARNING: load average 3.20",
        f"perf|{now}|{host}|load1|3.20",
        f"state|{now}|{host}|192.0.2.1|Load|1|SOFT|1|WARNING: load average 3.20",
        f"nagios|{now}|PROCESS_SERVICE_CHECK_RESULT|{host}|Load|1|WARNING: load average 3.20",
    ]


def lock_run_directory(stack: ExitStack) -> None:
    """Make `.run/` ours. Raises `DemoError` while another demonstration uses it."""
    RUN.mkdir(exist_ok=True)
    lock: IO[str] = stack.enter_context((RUN / "lock").open("a+"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.seek(0)
        raise DemoError(f"{RUN}/ is in use by another `make run`, pid {lock.read().strip()}: stop it first") from exc
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def get_broker(options: Options, stack: ExitStack) -> Broker:
    """Return the broker that was given, or start one of our own. Never talks to one that just answers somewhere."""
    if options.bus:
        broker = parse_broker(options)
        say(f"using the broker at {options.bus} as {broker.user}")
        return broker
    say("starting a private RabbitMQ node (a few seconds)")
    shutil.rmtree(RUN / "rabbitmq", ignore_errors=True)
    node = stack.enter_context(RabbitNode(ROOT / RUN / "rabbitmq"))
    say(f"RabbitMQ answers on {node.address}, user {node.user}, password {node.password}, its data in {RUN}/rabbitmq")
    return node


def address_of(broker: Broker) -> str:
    return f"[{broker.host}]:{broker.port}" if ":" in broker.host else f"{broker.host}:{broker.port}"


def remains(report: str) -> str:
    """Return what a foreign broker is left with, of what `vigilo-bus-config` says it has done there."""
    created = [line.removesuffix(": created") for line in report.splitlines() if line.endswith(": created")]
    # A binding goes with its queue.
    things = [thing for thing in created if not thing.startswith("binding ")]
    if not things:
        return "left there at the end: what was sent, in queues that were there before"
    commands = "; ".join(f"vigilo-bus-config delete-{thing}" for thing in things)
    return f"left there at the end, since not there before: {', '.join(things)}. To remove it: {commands}"


def declare_topology(broker: Broker) -> str:
    """Declare what the topology file has, and return the report on each thing."""
    argv = [sys.executable, "-m", "vigiloconn.configure", "-s", address_of(broker), "-u", broker.user]
    done = subprocess.run(
        [*argv, "-p", broker.password, "read-config", str(TOPOLOGY)], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )
    if done.returncode != 0:
        raise DemoError(f"vigilo-bus-config could not declare {TOPOLOGY}:\n{done.stdout}{done.stderr}".rstrip())
    say(f"declared the exchanges and queues of {TOPOLOGY}")
    return done.stdout


def listen(broker: Broker, screen: Screen, stack: ExitStack) -> Bus:
    """Consume with a queue of our own from every exchange of the topology; the queue goes with the connection."""
    try:
        bus = stack.enter_context(connect(broker))
    except (OSError, amqp.AMQPError) as exc:
        raise DemoError(f"no connection to the broker at {address_of(broker)}: {exc}") from exc
    queue = bus.declare_queue(durable=False, exclusive=True)
    for exchange in read_exchanges(TOPOLOGY):
        # '#' serves topic exchanges, the types direct ones; a fanout exchange ignores the key.
        for key in ("#", *TYPES):
            bus.bind(queue, exchange, key)
    bus.channel.basic_consume(queue, no_ack=True, callback=screen.show)
    return bus


def start_connector(broker: Broker, stack: ExitStack) -> ConnectorProcess:
    (RUN / "connector.log").unlink(missing_ok=True)
    connector = ConnectorProcess(
        RUN,
        cwd=ROOT,
        bus={"hosts": address_of(broker), "user": broker.user, "password": broker.password},
        connector={"backup_file": RUN / "backup.sqlite"},
        nagios={"listen_unix": SOCKET},
    )
    stack.callback(stop_connector, connector)
    try:
        connector.start()
    except AssertionError as exc:
        raise DemoError(str(exc)) from exc
    say(f"the connector listens on {SOCKET}, journal {RUN}/backup.sqlite, log {RUN}/connector.log")
    return connector


def stop_connector(connector: ConnectorProcess) -> None:
    """Stop in order if it runs, by force if it does not want to."""
    try:
        if connector.is_running:
            status = connector.terminate()
            say(f"the connector has stopped, status {status}")
    except AssertionError as exc:
        say(str(exc))
    finally:
        connector.close()


def send_samples(screen: Screen, connector: ConnectorProcess) -> None:
    lines = sample_lines(screen.host, int(time.time()))
    say("sending one line of each type:")
    for line in lines:
        say(f"  {line}")
    done = subprocess.run(
        [sys.executable, "-m", "vigiloconn", "send", "--socket", str(SOCKET), "--sync"],
        input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False, timeout=60,
    )
    if done.returncode != 0:
        raise DemoError(f"vigilo-connector send: status {done.returncode}\n{done.stdout}{done.stderr}"
                        f"the connector's log:\n{connector.log_text()}".rstrip())


def show_until(end: float | None, bus: Bus, connector: ConnectorProcess) -> None:
    """Print what arrives until the time `end` (monotonic seconds), or for ever."""
    while end is None or time.monotonic() < end:
        if not connector.is_running:
            raise DemoError(f"the connector ended with status {connector.wait()}, its log:\n{connector.log_text()}")
        try:
            bus.connection.drain_events(timeout=_TICK_S)
        except TimeoutError:
            pass  # nothing arrived within a tick: look at the connector and the clock
        except (OSError, amqp.AMQPError) as exc:
            raise DemoError(f"the connection to the broker is lost: {exc!r}") from exc


def demonstrate(options: Options, stack: ExitStack) -> int:
    """Start everything, show what arrives. Returns the exit status; `stack` holds what has to be stopped."""
    lock_run_directory(stack)
    broker = get_broker(options, stack)
    report = declare_topology(broker)
    if options.bus:
        say(remains(report))
    screen = Screen(f"demo-{secrets.token_hex(4)}.example.com")
    bus = listen(broker, screen, stack)
    connector = start_connector(broker, stack)
    send_samples(screen, connector)
    say("ready. Send a line of your own from another terminal:")
    say(f"  echo \"event|$(date +%s)|srv1.example.com|Load|OK|all is well\" | .venv/bin/vigilo-connector send "
        f"--socket {SOCKET} --sync")
    say("Ctrl-C stops everything" if options.run_for_s is None else f"it ends by itself in {options.run_for_s:g} s")
    end = None if options.run_for_s is None else time.monotonic() + options.run_for_s
    show_until(end, bus, connector)
    if screen.missing:
        raise DemoError(f"sample lines that did not arrive: {', '.join(sorted(screen.missing))}\n"
                        f"the connector's log:\n{connector.log_text()}")
    say("every sample line arrived")
    return 0


def _interrupt(number: int, _frame: object) -> None:
    # Whatever signal ends us, the way out is the same: through the stack that stops what was started.
    raise KeyboardInterrupt


def main() -> int:
    os.chdir(ROOT)
    # SIGINT too: a shell without job control starts its background jobs deaf to it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        options = read_options(dict(os.environ))
    except DemoError as exc:
        print(f"make run: {exc}", file=sys.stderr)
        return 2
    try:
        with ExitStack() as stack:
            return demonstrate(options, stack)
    except KeyboardInterrupt:
        say("\nstopped")
        # A run that was to judge by itself and was cut short has judged nothing.
        return 0 if options.run_for_s is None else 1
    except (DemoError, RabbitError) as exc:
        print(f"make run: {exc}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
