"""Relays on py-amqp: `python -m bench.relays.plain MODE ADDRESS USER PASSWORD SOCKET`.

MODE is unconfirmed, confirmed, or committed: the bare loop that does what the connector promises, and nothing else. One
recv, one SQLite transaction at `synchronous = full` with the lines that came and without those that were confirmed,
their publishes, the wait for the confirms.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
from collections.abc import Callable, Sequence

import amqp

from bench.relays.lines import LineReader

EXCHANGE, KEY = "event", "event"
#: The library's own is a second: it would give up a broker that stands back for longer.
PATIENT = {socket.TCP_USER_TIMEOUT: 120_000}


def unconfirmed(channel: amqp.Channel) -> Callable[[Sequence[bytes]], None]:
    """Publish and hope."""

    def publish(lines: Sequence[bytes]) -> None:
        for line in lines:
            channel.basic_publish(amqp.Message(line, delivery_mode=2), EXCHANGE, KEY)

    return publish


def confirmed(channel: amqp.Channel) -> Callable[[Sequence[bytes]], None]:
    """As the library offers it: each publish waits for its own confirm."""

    def publish(lines: Sequence[bytes]) -> None:
        for line in lines:
            channel.basic_publish_confirm(amqp.Message(line, delivery_mode=2), EXCHANGE, KEY, mandatory=True)

    return publish


def committed(channel: amqp.Channel, path: str) -> Callable[[Sequence[bytes]], None]:
    """Commit, publish, wait for the confirms."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("PRAGMA synchronous = full")
    database.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg BLOB)")
    channel.confirm_select()
    answered = [0]
    channel.events["basic_ack"].add(lambda tag, multiple: answered.__setitem__(0, max(answered[0], tag)))
    sent = 0

    def publish(lines: Sequence[bytes]) -> None:
        nonlocal sent
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM tobus WHERE id <= ?", (sent,))
        database.executemany("INSERT INTO tobus VALUES (?, ?)", enumerate(lines, sent + 1))
        database.execute("COMMIT")
        for line in lines:
            channel.basic_publish(amqp.Message(line, delivery_mode=2), EXCHANGE, KEY, mandatory=True)
        sent += len(lines)
        while answered[0] < sent:
            channel.connection.drain_events(timeout=30)

    return publish


def main(mode: str, address: str, user: str, password: str, path: str) -> None:
    """Relay until the writer is gone."""
    connection = amqp.Connection(address, userid=user, password=password, socket_settings=PATIENT)
    connection.connect()
    # Else the library reads before each publish: a setting that everybody makes who is in a hurry.
    connection.client_properties["capabilities"]["connection.blocked"] = False
    channel = connection.channel()
    if mode == "committed":
        publish = committed(channel, f"{path}.sqlite")
    else:
        publish = {"unconfirmed": unconfirmed, "confirmed": confirmed}[mode](channel)
    reader = LineReader(path)
    while lines := reader.read():
        publish(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
