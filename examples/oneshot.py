"""Sends one event and ends, with an exit status that tells whether the bus has it.

    python -m examples.oneshot SETTINGS HOST STATE MESSAGE

0: confirmed by the broker and in a queue; 1: refused; 3: not within `[connector] timeout`; 4: another one runs and
holds `[connector] lock_file`; 2: usage or settings.
"""

# ruff: noqa: E402
from gevent import monkey

# Before everything else, or what was imported earlier would block the process instead of a greenlet.
monkey.patch_all()

import logging
import sys
import time

from vigiloconn.client import VigiloClient
from vigiloconn.errors import SettingsError
from vigiloconn.oneshot import oneshotclient_factory
from vigiloconn.options import load_settings


def announce(client: VigiloClient, exchange: str, host: str, state: str, message: str) -> None:
    """The work: called once, as soon as the bus is there."""
    event = {"type": "event", "timestamp": int(time.time()), "host": host, "state": state, "message": message}
    client.send(exchange, "event", event, mandatory=True).get()


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    if len(arguments) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING)
    try:
        settings = load_settings(arguments[0], connector="oneshot")
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        return 2
    once = oneshotclient_factory(settings)
    once.set_handler(announce, settings.publication("event").exchange, *arguments[1:])
    return once.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
