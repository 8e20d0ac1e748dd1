"""Many descriptors that are waited for together, real ones, on the loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest

from vigiloconn.sources.moderation import Moderation
from vigiloconn.sources.readiness import Readiness

DEADLINE_S = 5.0
HOUR_S = 3600.0


class Reader:
    """One end of a pair that a greenlet reads; `got` is what came, read by read."""

    def __init__(self, readiness: Readiness) -> None:
        self.peer, self._own = socket.socketpair()
        self.got: list[bytes] = []
        self._readiness = readiness
        self.seat = readiness.seat(self._own.fileno())
        self.life = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            self.seat.wait()
            data = self._own.recv(65536)
            self._readiness.took(len(data))
            self.got.append(data)
            if not data:
                return

    def stop_reading(self) -> None:
        self._own.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self.life.kill()
        self.seat.close()
        self._own.close()
        self.peer.close()


class Room:
    """Readers of one readiness; `pause_s` is how long it stands back in a stream of small reads."""

    def __init__(self) -> None:
        self.readers: list[Reader] = []

    def enter(self, pause_s: float, count: int) -> tuple[Readiness, list[Reader]]:
        readiness = Readiness(Moderation(pause_s))
        self.readers = [Reader(readiness) for _ in range(count)]
        return readiness, self.readers


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    for reader in made.readers:
        reader.close()


def turn_the_loop() -> None:
    """Let the loop look at its descriptors a few times."""
    for _ in range(5):
        gevent.sleep(0.001)


def write(reader: Reader, data: bytes) -> None:
    reader.peer.send(data)
    turn_the_loop()


def make_a_stream(readiness: Readiness, reader: Reader) -> None:
    """Write line by line until it is stood back."""
    for _ in range(20):
        before = len(reader.got)
        write(reader, b"line\n")
        if len(reader.got) == before:
            return
    pytest.fail("it never stands back")


def test_what_comes_singly_is_told_at_once(room: Room) -> None:
    _, [one, other] = room.enter(0.0, 2)
    for _ in range(20):
        write(one, b"line\n")
    assert one.got == [b"line\n"] * 20
    assert other.got == []


def test_in_a_stream_of_single_lines_nobody_is_told_until_it_is_time_and_then_all_in_one_round(room: Room) -> None:
    readiness, readers = room.enter(HOUR_S, 10)
    make_a_stream(readiness, readers[0])
    rounds = readiness.rounds
    for reader in readers[1:]:
        write(reader, b"late\n")
    assert [reader.got for reader in readers[1:]] == [[]] * 9
    readiness.resume()
    turn_the_loop()
    assert [reader.got for reader in readers[1:]] == [[b"late\n"]] * 9
    assert readiness.rounds == rounds + 1


def test_it_is_time_by_itself_after_the_pause(room: Room) -> None:
    readiness, [reader] = room.enter(0.05, 1)
    make_a_stream(readiness, reader)
    reader.peer.shutdown(socket.SHUT_WR)
    reader.life.join(DEADLINE_S)
    assert b"".join(reader.got).endswith(b"line\n")
    assert reader.got[-1] == b""


def test_what_nobody_waits_for_wakes_nobody(room: Room) -> None:
    readiness, [reader] = room.enter(0.0, 1)
    turn_the_loop()
    reader.life.kill()
    write(reader, b"line\n")
    rounds = readiness.rounds
    for _ in range(5):
        turn_the_loop()
    assert readiness.rounds == rounds


@pytest.mark.parametrize("end", ["closed", "own shutdown"])
def test_an_end_is_told_too(room: Room, end: str) -> None:
    _, [reader] = room.enter(0.0, 1)
    turn_the_loop()
    if end == "closed":
        reader.peer.close()
    else:
        reader.stop_reading()
    reader.life.join(DEADLINE_S)
    assert reader.got == [b""]


def test_nothing_is_held_once_all_seats_are_closed_and_a_new_one_can_be_taken(room: Room) -> None:
    readiness, [first] = room.enter(0.0, 1)
    first.close()
    first.seat.close()
    second = Reader(readiness)
    room.readers = [second]
    write(second, b"line\n")
    assert second.got == [b"line\n"]
