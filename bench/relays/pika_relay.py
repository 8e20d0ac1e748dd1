"""Relays on pika: `python -m bench.relays.pika_relay MODE ADDRESS USER PASSWORD SOCKET`, MODE blocking or select."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

from bench.relays.lines import LineReader, listen

EXCHANGE, KEY = "event", "event"
_PROPERTIES = pika.BasicProperties(delivery_mode=2)
_WINDOW = 2000


def parameters(address: str, user: str, password: str) -> pika.ConnectionParameters:
    """Return how to log in."""
    host, _, port = address.rpartition(":")
    return pika.ConnectionParameters(host, int(port), credentials=pika.PlainCredentials(user, password), heartbeat=0)


def blocking(how: pika.ConnectionParameters, path: str) -> None:
    """Each publish waits for its own confirm, and raises where no queue wants it."""
    channel = pika.BlockingConnection(how).channel()
    channel.confirm_delivery()
    reader = LineReader(path)
    while lines := reader.read():
        for line in lines:
            channel.basic_publish(EXCHANGE, KEY, line, _PROPERTIES, mandatory=True)


class SelectRelay:
    """Publishes from the library's own loop, with up to 2000 unconfirmed; beyond that nothing is read."""

    def __init__(self, how: pika.ConnectionParameters, path: str) -> None:
        self._path = path
        self._server: socket.socket | None = None
        self._link: socket.socket | None = None
        self._rest = b""
        self._sent = self._answered = 0
        self._is_reading = False
        self.connection = SelectConnection(how, on_open_callback=self._opened)
        self._loop = self.connection.ioloop
        self._channel: Any = None

    def _opened(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._answer, callback=lambda _: self._listen())

    def _listen(self) -> None:
        self._server = listen(self._path)
        self._loop.add_handler(self._server.fileno(), self._accept, self._loop.READ)

    def _accept(self, *_: object) -> None:
        assert self._server is not None
        if self._link is not None:
            self._loop.remove_handler(self._link.fileno())
            self._link.close()
        self._link, _address = self._server.accept()
        self._is_reading = True
        self._loop.add_handler(self._link.fileno(), self._read, self._loop.READ)

    def _read(self, *_: object) -> None:
        assert self._link is not None
        data = self._link.recv(65536)
        if not data:
            self._loop.remove_handler(self._link.fileno())
            self._link.close()
            self._link = None
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._channel.basic_publish(EXCHANGE, KEY, line, _PROPERTIES, mandatory=True)
        self._sent += len(lines)
        if self._sent - self._answered > _WINDOW:
            self._is_reading = False
            self._loop.remove_handler(self._link.fileno())

    def _answer(self, frame: Any) -> None:
        self._answered = max(self._answered, frame.method.delivery_tag)
        if not self._is_reading and self._link is not None and self._sent - self._answered < _WINDOW // 2:
            self._is_reading = True
            self._loop.add_handler(self._link.fileno(), self._read, self._loop.READ)


def main(mode: str, address: str, user: str, password: str, path: str) -> None:
    """Relay until ended."""
    how = parameters(address, user, password)
    if mode == "blocking":
        blocking(how, path)
    else:
        SelectRelay(how, path).connection.ioloop.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
