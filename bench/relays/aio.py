"""A relay on aio-pika: `python -m bench.relays.aio ADDRESS USER PASSWORD SOCKET`."""

from __future__ import annotations

import asyncio
import os
import sys

import aio_pika

_EXCHANGE, _KEY = "event", "event"


async def relay(address: str, user: str, password: str, path: str) -> None:
    """Relay until ended. At most one read's lines (64 KiB) are unconfirmed."""
    connection = await aio_pika.connect(f"amqp://{user}:{password}@{address}/?heartbeat=0")
    channel = await connection.channel(publisher_confirms=True)
    exchange = await channel.get_exchange(_EXCHANGE, ensure=False)

    async def publish(line: bytes) -> None:
        message = aio_pika.Message(line, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await exchange.publish(message, _KEY, mandatory=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            await asyncio.gather(*map(publish, lines))
        writer.close()

    server = await asyncio.start_unix_server(serve, f"{path}.new")
    os.rename(f"{path}.new", path)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
