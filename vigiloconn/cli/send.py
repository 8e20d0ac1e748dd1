"""`vigilo-connector send`: started once per event by Nagios, so it imports little."""

from __future__ import annotations

from vigiloconn.cli import sender
from vigiloconn.cli.usage import UsageError, parse, parse_instance, parse_timeout
from vigiloconn.kit.exits import EXIT_FAILED, EXIT_USAGE, fail
from vigiloconn.settings import paths


def main(arguments: list[str]) -> int:
    """Send a file or standard input to a connector's socket; return the exit status."""
    options = parse(arguments)
    try:
        instance = parse_instance(options["--id"])
        timeout_s = parse_timeout(options["--timeout"])
    except UsageError as exc:
        return fail(exc, EXIT_USAGE)
    path = options["--socket"] or paths.default_socket("nagios", instance)
    name = options["FILE"]
    try:
        # Without standard input, as a daemon may be started, there is nothing to send.
        source = 0 if name in (None, "-") else name
        with open(source, "rb", closefd=source != 0) as lines:
            return sender.send(path, lines, sync=options["--sync"], timeout_s=timeout_s)
    except OSError as exc:
        return fail(f"{name or 'standard input'}: can't be read: {exc.strerror}", EXIT_FAILED)
