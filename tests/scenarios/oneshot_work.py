"""A one-shot script: `oneshot_work.py SETTINGS WORK [ARGUMENT ...]`. Each function is a piece of work for a test."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import logging
import signal
import sys
from asyncio import CancelledError
from pathlib import Path

import gevent

from vigiloconn.client import VigiloClient
from vigiloconn.errors import BusRefused
from vigiloconn.oneshot import oneshotclient_factory
from vigiloconn.options import load_settings


def confirm(client: VigiloClient, exchange: str, text: str) -> None:
    """Send one message and wait for its confirm."""
    client.send(exchange, "key", {"type": "event", "message": text}).get(timeout=20)
    print("confirmed", flush=True)


def declare(client: VigiloClient, exchange: str) -> None:
    """Use the connection for more than publishing."""
    assert client.connection is not None
    channel = client.connection.open_channel()
    channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=False)


def many(client: VigiloClient, exchange: str, count: str) -> None:
    """Send and don't look back."""
    for number in range(int(count)):
        client.send(exchange, "key", {"type": "event", "message": str(number)})


def look_at_refusal(client: VigiloClient, exchange: str) -> None:
    """Send to an exchange that does not exist, and live with it."""
    try:
        client.send(exchange, "key", b"{}").get(timeout=20)
    except BusRefused as exc:
        print("refused", exc.code, flush=True)


def fail(client: VigiloClient) -> None:
    raise RuntimeError("the work went wrong")


def let_out(client: VigiloClient, name: str) -> None:
    """End by something that is no `Exception`."""
    print("called", flush=True)
    raise {"GreenletExit": gevent.GreenletExit, "Timeout": gevent.Timeout, "CancelledError": CancelledError}[name]


def leave(client: VigiloClient, status: str) -> None:
    sys.exit(int(status))


def wait(client: VigiloClient) -> None:
    """Wait for ever, on the hub."""
    print("working", flush=True)
    gevent.sleep(3600)


def spin(client: VigiloClient) -> None:
    """Never give way, but let the interpreter in."""
    print("working", flush=True)
    while True:
        pass


def spin_elsewhere(client: VigiloClient) -> None:
    """The same on a greenlet that the work has begun."""
    gevent.spawn(spin, client).join()
    print("the other one ended", flush=True)
    gevent.sleep(3600)


def swallow(client: VigiloClient) -> None:
    """Never give way, and swallow every interruption."""
    print("working", flush=True)
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001
            continue


def hang_in_c(client: VigiloClient) -> None:
    """Sleep in the C library, where no signal comes through."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    print("working", flush=True)
    monkey.get_original("time", "sleep")(3600)


def main() -> int:
    settings, work, *arguments = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    once = oneshotclient_factory(load_settings(Path(settings), connector="once"))
    if work != "nothing":
        once.set_handler(globals()[work], *arguments)
    return once.run()


if __name__ == "__main__":
    sys.exit(main())
