"""`vigilo-bus-config`: its command line, and what it says. Imports nothing that needs gevent before it has patched.

`apply_topology` is here for scripts; they patch the standard library first of all.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from docopt import DocoptExit, docopt

from vigiloconn import __version__
from vigiloconn.errors import BusDown, BusRefused, SettingsError
from vigiloconn.interfaces import Connection
from vigiloconn.kit.arguments import leave_closed_pipe
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, fail
from vigiloconn.options import BusSettings, parse_bus
from vigiloconn.settings import values
from vigiloconn.settings.files import exposure, read_secret, read_text
from vigiloconn.topology import wanted as topology
from vigiloconn.topology.apply import Applier, Outcome, Result, apply_topology, request, summary
from vigiloconn.topology.wanted import Binding, Exchange, Queue, Topology

__all__ = ["Outcome", "Result", "apply_topology", "main"]

log = logging.getLogger(__name__)

PROGRAM = "vigilo-bus-config"

_CERTIFICATES = ("ca", "cert", "key")

Session = Callable[[], AbstractContextManager[Connection]]
Work = Callable[[Session], int]

USAGE = f"""Create, change and check what is on an AMQP bus.

Usage:
  {PROGRAM} [options] create-queue QUEUE
  {PROGRAM} [options] delete-queue QUEUE
  {PROGRAM} [options] create-exchange EXCHANGE
  {PROGRAM} [options] delete-exchange EXCHANGE
  {PROGRAM} [options] subscribe QUEUE EXCHANGE
  {PROGRAM} [options] unsubscribe QUEUE EXCHANGE
  {PROGRAM} [options] [--check] read-config FILE
  {PROGRAM} [options] dead list QUEUE
  {PROGRAM} [options] dead show QUEUE NUMBER
  {PROGRAM} [options] dead requeue QUEUE
  {PROGRAM} [options] dead drop QUEUE
  {PROGRAM} --version
  {PROGRAM} --help

Commands:
  create-queue     Create a durable queue.
  delete-queue     Delete a queue with the messages in it.
  create-exchange  Create a durable exchange.
  delete-exchange  Delete an exchange.
  subscribe        Bind a queue to an exchange; both must exist.
  unsubscribe      Remove that binding.
  read-config      Create what FILE describes and is missing; what exists is left as it is. Does all it can, says
                   line by line what it did, and may be repeated at any time.
  dead list        Show what QUEUE's handler could not handle: the letters in QUEUE.dead, each with its reason. They
                   stay there.
  dead show        Show one of them, by its place in the list.
  dead requeue     Send them to QUEUE itself once more; each is taken off once the broker has confirmed it.
  dead drop        Delete them for good, with --yes.

Options:
  -s --server HOST[:PORT]  The broker; an IPv6 address in brackets. Without it: localhost.
  -u --user USER           Without it: guest.
  -p --password PASSWORD   Without it and the next one: guest. Other users of this host can see it.
  --password-file FILE     The password stands in its first line.
  --vhost NAME             Virtual host. Without it: /.
  --auth METHOD            plain, amqplain, or external (by certificate). Without it: plain.
  --tls                    Encrypt, and verify the broker's certificate; the port is 5671 then.
  --ca-file FILE           Authorities to verify it with; without it those of the system.
  --cert-file FILE         Certificate of this client.
  --key-file FILE          Its key, where that is not in the same file.
  -t --type TYPE           Type of the exchange: fanout, direct, topic, headers or a plugin's [default: fanout].
  -k --key KEY             Routing key of the binding; without it the queue's name.
  --queue-type TYPE        classic or quorum, for queues that are created [default: classic].
  --check                  Change nothing; end with status 1 where the bus differs from FILE. Bindings can't be seen
                           over AMQP and are not compared.
  --reason TEXT            Only dead letters with this text in their reason.
  --limit N                At most so many of them; without it 100 are listed, all are requeued or dropped.
  --yes                    Do it, though it deletes letters, or looking alone counts against a delivery limit.
  -d --debug               Show what the program does, on standard error.
  --version                Show the version.
  -h --help                Show this.

FILE has sections [exchange:NAME] (type: default fanout; durable: default yes), [binding:NAME] (exchange, queue, key:
default the queue's name; NAME only tells bindings apart, the queue is created too) and, where it needs more than a
plain queue, [queue:NAME] (type: classic or quorum; ttl: seconds that a message stays). It may have a section [bus] as
in settings.ini (hosts, of which the first is taken, user, password, ...), which says how to connect where no option
does. Sections of logging are passed over, so that files of the Twisted library work as they are.

A binding between an exchange and a queue that both existed is reported as "ensured": it is there now, and AMQP does
not tell whether it was before.

Exit status: 0 all is as asked for; 1 the broker can't be reached, refused something or differs; 2 usage or file.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (without its name) and return the exit status."""
    status = EXIT_DONE
    try:
        try:
            options = _options(sys.argv[1:] if argv is None else argv)
            # From here on, whoever reads no more doesn't see whether all was done.
            status = EXIT_FAILED
            return _main(options)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted: `... | head`.
        leave_closed_pipe()
        return status


def _options(arguments: list[str]) -> dict[str, Any]:
    try:
        return dict(docopt(USAGE, arguments, version=f"{PROGRAM} {__version__}"))
    except DocoptExit as exc:
        # Without its message, which may quote a password.
        print(f"{PROGRAM}: the arguments are not understood, see --help", exc.usage.strip(), sep="\n", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


def _main(options: dict[str, Any]) -> int:
    from gevent import monkey

    # Before anything that has sockets is imported.
    if not monkey.is_module_patched("socket"):
        monkey.patch_all()
    from gevent import get_hub

    # Whichever greenlet it meets: it is told by the one that runs the program, not printed with a traceback.
    get_hub().NOT_ERROR += (KeyboardInterrupt,)
    logging.basicConfig(
        level=logging.DEBUG if options["--debug"] else logging.WARNING, stream=sys.stderr,
        format=f"{PROGRAM}: %(levelname)s: %(message)s",
    )
    from vigiloconn.bus.session import bus_session

    try:
        text = read_text(Path(options["FILE"])) if options["read-config"] else None
        settings = _bus_settings(options, _bus_of_file(text, options["FILE"]))
        return _choose_work(options, text)(partial(bus_session, settings, name=PROGRAM))
    except SettingsError as exc:
        return fail(exc, EXIT_USAGE, PROGRAM)
    except (BusDown, BusRefused) as exc:
        return fail(exc, EXIT_FAILED, PROGRAM)
    except KeyboardInterrupt:
        return fail("interrupted: what the broker has confirmed until now is done", EXIT_FAILED, PROGRAM)


def _say(text: object) -> None:
    # Each line when it is true: what comes next may take its time, or fail.
    print(text, flush=True)


def _choose_work(options: dict[str, Any], text: str | None) -> Work:
    """Return what is to be done on the bus, its arguments checked. Raises `SettingsError`."""
    if options["dead"]:
        _checked("QUEUE", topology.check_name, options["QUEUE"], "a name")
        from vigiloconn.cli.dead import work_on_dead

        return _in_session(work_on_dead, options, PROGRAM)
    queue_type = _checked("--queue-type", values.queue_type, options["--queue-type"])
    if text is not None:
        wanted = topology.parse_topology(text, options["FILE"], queue_type=queue_type)
        return _topology_work(wanted, check=options["--check"], say_summary=True)
    queue = options["QUEUE"] and _checked("QUEUE", topology.check_name, options["QUEUE"], "a name")
    exchange = options["EXCHANGE"] and _checked("EXCHANGE", topology.check_name, options["EXCHANGE"], "a name")
    for name, given in (("QUEUE", queue), ("EXCHANGE", exchange)):
        if given == "":
            raise SettingsError(f"{name}: expected a name, got nothing")
    key = _checked("--key", topology.check_name, options["--key"] or queue or "-", "a key")
    if options["create-exchange"]:
        kind = _checked("--type", topology.check_exchange_type, options["--type"])
        return _topology_work(Topology(exchanges=(Exchange(exchange, kind),)))
    if options["create-queue"]:
        return _topology_work(Topology(queues=(Queue(queue, queue_type),)))
    if options["subscribe"]:
        return _topology_work(Topology(bindings=(Binding(f"{exchange} -> {queue}, key {key}", exchange, queue, key),)))
    if options["unsubscribe"]:
        return _in_session(_unsubscribe, queue, exchange, key)
    kind, name = ("queue", queue) if options["delete-queue"] else ("exchange", exchange)
    return _in_session(_delete, kind, name)


def _checked(option: str, check: Callable[..., str], *arguments: Any) -> str:
    try:
        return check(*arguments)
    except ValueError as exc:
        raise SettingsError(f"{option}: {exc}") from None


def _topology_work(wanted: Topology, *, check: bool = False, say_summary: bool = False) -> Work:
    def work(session: Session) -> int:
        applier = Applier(wanted, check=check, report=_say)
        is_done = False
        while not is_done:
            with session() as connection:
                is_done = applier.run(connection)
        if say_summary:
            _say(summary(applier.results, check=check))
        return _status(applier.results)

    return work


def _in_session(function: Callable[..., int], *args: Any) -> Work:
    def work(session: Session) -> int:
        with session() as connection:
            return function(connection, *args)

    return work


def _status(results: list[Result]) -> int:
    return EXIT_FAILED if any(result.is_failure for result in results) else EXIT_DONE


def _delete(connection: Connection, kind: str, name: str) -> int:
    """Delete, and tell whether it was there: deleting what is missing is no error to a broker."""
    counts: list[Any] = []

    def look(channel: Any) -> None:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        else:
            channel.exchange_declare(name, "fanout", passive=True)

    def delete(channel: Any) -> None:
        counts.append(channel.queue_delete(name) if kind == "queue" else channel.exchange_delete(name))

    refusal = request(connection, look)
    if refusal is not None and refusal.code == 404:
        result = Result(kind, name, Outcome.UNCHANGED, "it was not there")
    elif refusal is not None or (refusal := request(connection, delete)) is not None:
        result = Result(kind, name, Outcome.REFUSED, topology.explain_refusal(str(refusal)))
    else:
        result = Result(kind, name, Outcome.DELETED, f"with {counts[0]} messages" if counts[0] else "")
    _say(result)
    return _status([result])


def _unsubscribe(connection: Connection, queue: str, exchange: str, key: str) -> int:
    refusal = request(connection, lambda channel: channel.queue_unbind(queue, exchange, key))
    name = f"{exchange} -> {queue}, key {key}"
    if refusal is None:
        result = Result("binding", name, Outcome.DELETED, "AMQP does not tell whether it was there")
    else:
        result = Result("binding", name, Outcome.REFUSED, topology.explain_refusal(str(refusal)))
    _say(result)
    return _status([result])


def _bus_of_file(text: str | None, path: str) -> BusSettings:
    """Return how a file says to connect; the defaults without a file. Raises `SettingsError`."""
    settings, warnings = parse_bus(text or "", Path(path or "defaults"))
    for warning in warnings:
        log.warning("%s", warning)
    return settings


def _bus_settings(options: dict[str, Any], base: BusSettings) -> BusSettings:
    """Return the settings that the command line asks for, where it says nothing those of `base`.

    Raises `SettingsError`.
    """
    server, auth = options["--server"], options["--auth"]
    given = {
        "hosts": None if server is None else (_checked("--server", values.parse_host, server),),
        "user": options["--user"],
        "password": _password(options),
        "vhost": options["--vhost"],
        "auth": None if auth is None else _checked("--auth", values.auth_method, auth),
        "use_ssl": options["--tls"] or None,
        **{f"{key}_file": options[f"--{key}-file"] for key in _CERTIFICATES},
    }
    settings = dataclasses.replace(base, **{key: value for key, value in given.items() if value is not None})
    if not settings.use_ssl:
        for key in _CERTIFICATES:
            if given[f"{key}_file"] is not None:
                raise SettingsError(f"--{key}-file: is of no use without --tls")
    if settings.key_file and not settings.cert_file:
        raise SettingsError("--key-file: is of no use without --cert-file")
    if settings.auth == "external" and not (settings.use_ssl and settings.cert_file):
        raise SettingsError("--auth: external logs in with a certificate: expected --tls and --cert-file")
    return settings


def _password(options: dict[str, Any]) -> values.Secret | None:
    path = options["--password-file"]
    if path is None:
        return None if options["--password"] is None else values.Secret(options["--password"])
    if options["--password"] is not None:
        raise SettingsError("--password-file: expected it or --password, got both")
    password = _checked("--password-file", read_secret, Path(path))
    if warning := exposure(Path(path)):
        log.warning("%s", warning)
    return values.Secret(password)


if __name__ == "__main__":
    sys.exit(main())
