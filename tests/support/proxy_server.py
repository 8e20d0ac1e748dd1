"""The proxy's program. Knows bytes, and of AMQP only where a frame ends and which method is in it.

    python proxy_server.py PORT TARGET_PORT [amqp]

With `amqp` the target is a broker, whose frames can be swallowed.

Commands come by standard input, one a line; each is answered by one line, `ok [VALUE]` or `failed REASON`.
It ends with its input, so it can't outlive the process that started it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time

_CHUNK_BYTES = 65536
#: Chunks on their way in one direction; more makes the sender wait, as a real link does.
_MAX_CHUNKS_UNDERWAY = 256
#: SO_LINGER on, for no time: closing sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_HEARTBEAT = 8
_METHOD = 1
#: Class and method of basic.ack and basic.nack: as the broker sends them, its confirms.
_CONFIRMS = {(60, 80), (60, 120)}


class _Swallower:
    """Takes frames out of what a broker says: nothing, its confirms, or all but heartbeats. Must see every byte."""

    def __init__(self) -> None:
        self._unread = b""

    def pass_on(self, data: bytes, what: str) -> bytes:
        """Return what is left of `data`, whole frames only; a frame's beginning waits for its end."""
        self._unread += data
        passed = []
        while len(self._unread) >= 7:
            kind, size = self._unread[0], int.from_bytes(self._unread[3:7], "big") + 8
            if len(self._unread) < size:
                break
            frame, self._unread = self._unread[:size], self._unread[size:]
            if not self._is_swallowed(kind, frame, what):
                passed.append(frame)
        return b"".join(passed)

    def _is_swallowed(self, kind: int, frame: bytes, what: str) -> bool:
        if what == "answers":
            return kind != _HEARTBEAT
        return what == "confirms" and kind == _METHOD and struct.unpack(">HH", frame[7:11]) in _CONFIRMS


class _Server:
    """One listener, two pumps for each connection."""

    def __init__(self, port: int, target_port: int, speaks_amqp: bool) -> None:
        self._port = port
        self._speaks_amqp = speaks_amqp
        self._target_port = target_port
        self._delay_s = 0.0
        self._rate_bytes_s = 0
        self._swallows = "nothing"
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._taken = 0

    async def do(self, command: str, argument: str) -> str:
        match command:
            case "pause":
                self._flowing.clear()
            case "resume":
                self._flowing.set()
            case "cut":
                await self._cut(reset=argument == "rst")
            case "refuse" if self._listener is not None:
                self._listener.close()
                self._listener = None
            case "accept" if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            case "refuse" | "accept":
                pass
            case "delay":
                self._delay_s = float(argument) / 1000
            case "rate":
                self._rate_bytes_s = int(argument)
            case "swallow" if self._speaks_amqp and argument in ("nothing", "confirms", "answers"):
                self._swallows = argument
            case "connections":
                return str(len(self._open))
            case "connections_ever":
                return str(self._taken)
            case _:
                raise ValueError(f"unknown command {command!r}")
        return ""

    async def _cut(self, reset: bool) -> None:
        tasks = list(self._open)
        for task in tasks:
            for writer in self._open[task]:
                # A pump may have ended this side a moment ago: its socket is gone then.
                if reset and not writer.is_closing():
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    writer.transport.abort()
                else:
                    writer.close()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # `_cut`; asyncio would print it as an error

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._taken += 1
        self._open[task] = [writer]
        try:
            await self._flowing.wait()
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._open[task].append(target_writer)
            async with asyncio.TaskGroup() as pumps:
                self._pump(reader, target_writer, pumps, None)
                self._pump(target_reader, writer, pumps, _Swallower() if self._speaks_amqp else None)
        except* OSError:
            pass  # one side has ended the connection: so does this one, below
        finally:
            for each in self._open.pop(task):
                each.close()

    def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pumps: asyncio.TaskGroup,
        swallower: _Swallower | None,
    ) -> None:
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_CHUNKS_UNDERWAY)
        pumps.create_task(self._take(reader, chunks, swallower))
        pumps.create_task(self._deliver(chunks, writer))

    async def _take(
        self, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]], swallower: _Swallower | None
    ) -> None:
        while True:
            await self._flowing.wait()
            chunk = await reader.read(_CHUNK_BYTES)
            is_end = not chunk
            if swallower is not None:
                chunk = swallower.pass_on(chunk, self._swallows)
            if chunk or is_end:
                await chunks.put((time.monotonic() + self._delay_s, chunk))
            if is_end:
                return

    async def _deliver(self, chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await chunks.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._flowing.wait()
            if not chunk:
                writer.write_eof()
                return
            if self._rate_bytes_s:
                await asyncio.sleep(len(chunk) / self._rate_bytes_s)
            writer.write(chunk)
            await writer.drain()


async def _main(port: int, target_port: int, speaks_amqp: bool) -> None:
    server = _Server(port, target_port, speaks_amqp)
    await server.do("accept", "")
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ok", flush=True)
    while line := await commands.readline():
        command, _, argument = line.decode().strip().partition(" ")
        try:
            print("ok", await server.do(command, argument), flush=True)
        except (OSError, ValueError) as exc:
            print("failed", repr(exc), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), "amqp" in sys.argv[3:]))
