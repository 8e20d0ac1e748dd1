"""What the program's command line looks like, and what its arguments mean. Imports no gevent."""

from __future__ import annotations

from typing import Any

from vigiloconn import __version__
from vigiloconn.kit.arguments import parse_arguments

USAGE = """Link monitoring to an AMQP bus.

Usage:
  vigilo-connector run CONNECTOR [--config FILE] [--id N] [--log-level LEVEL]
  vigilo-connector check CONNECTOR [--connect] [--config FILE] [--id N]
  vigilo-connector settings CONNECTOR
  vigilo-connector status [CONNECTOR] [--watch | --json | --nagios] [--config FILE] [--id N] [--timeout SECONDS]
  vigilo-connector send [--socket PATH] [--sync] [--timeout SECONDS] [--id N] [FILE]
  vigilo-connector journal ...
  vigilo-connector bus ...
  vigilo-connector --version
  vigilo-connector --help

Commands:
  run    Run a connector until SIGTERM or SIGINT. SIGHUP opens the log files again, SIGUSR1 writes stacks and
         figures to the log.
  check  Check the settings, and what they name on this host; connect to nothing without --connect.
  settings  Print the table of a connector's own settings, in Markdown.
  status Tell how the running connector is: what flows, what waits where and since when, what is wrong, what to do.
  journal  Look at what waits, is held or parked, and change it: `vigilo-connector journal --help`.
  bus    Configure the bus: `vigilo-connector bus --help`, the same as vigilo-bus-config.
  send   Write the lines of FILE (standard input without one) to a connector's socket.

CONNECTOR is `nagios`, a name from the entry-point group `vigiloconn.connectors`, or `package.module:build`,
which is looked for in the working directory first.

Options:
  -c --config FILE     Settings; without it /etc/vigilo/NAME/settings.ini where there is one, else the
                       defaults. NAME is connector-nagios, with --id N connector-nagios-N.
  -i --id N            Instance, 0 or more: part of NAME.
  -l --log-level LEVEL debug, info, warning, error or critical, whatever the settings say.
  -s --socket PATH     The connector's socket; without it /var/lib/vigilo/NAME/send.sock of connector-nagios.
  --connect            Log in to each broker too, and look for exchanges, queue and rights; delivers nothing.
  --sync               End with status 0 only after the connector has said that every line is safe.
  --timeout SECONDS    Longest time that `send` or a question may take [default: 30].
  --watch              Show it again every two seconds, in place on a terminal, until Ctrl-C.
  --json               Show all that the connector tells of itself.
  --nagios             Show one line with performance data, as a plugin of Nagios.
  --version            Show the version.
  -h --help            Show this.

Exit status: 0 stopped in order; 1 it could not do its work; 2 usage or settings. Of `status`, as of a plugin of Nagios:
0 OK, 1 WARNING, 2 CRITICAL (no connector runs, too), 3 it can't be asked.
"""


class UsageError(Exception):
    """Raised when the command line can't be understood."""


def parse(arguments: list[str]) -> dict[str, Any]:
    """Return what docopt makes of the command line. Prints usage and raises SystemExit with status 2 where it
    makes nothing of it, with 0 for `--help` and `--version`."""
    return parse_arguments(USAGE, arguments, f"vigilo-connector {__version__}", "vigilo-connector")


def parse_instance(text: str | None) -> int | None:
    """Return the instance number, None where none is given. Raises `UsageError`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--id: expected a whole number, 0 or more, got {text!r}")
    return int(text)


def parse_timeout(text: str) -> float:
    """Return the seconds that `--timeout` gives. Raises `UsageError`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--timeout: expected seconds above 0, got {text!r}")
    return seconds
