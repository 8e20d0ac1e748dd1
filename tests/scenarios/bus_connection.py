"""What `BusConnection` and `ConfirmChannel` do on a real broker. Run patched, by `tests/test_amqp.py`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.support.patched import hear, say
from vigiloconn import ipv6
from vigiloconn.bus.confirms import ConfirmChannel
from vigiloconn.bus.connection import BusConnection, GoingDown
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.ipv6 import parse_endpoint
from vigiloconn.options import parse_settings

Bus = dict[str, Any]


class Rig:
    """A connection with its reader and its ticker, as a client has them."""

    def __init__(self, bus: Bus) -> None:
        text = "[bus]\n" + "\n".join(f"{key} = {value}" for key, value in bus.items())
        settings = parse_settings(text).bus
        endpoint = parse_endpoint(settings.hosts[0], settings.default_port)
        self.connection = BusConnection(
            endpoint, settings, name="scenario",
            dial=lambda endpoint, timeout_s: ipv6.connect(endpoint, timeout_s, spawn=gevent.spawn),
        )
        self.read_error: Exception | None = None
        self.read_ended = Event()

    def start(self) -> None:
        self.connection.connect()
        self.greenlets = [gevent.spawn(self._read), gevent.spawn(self._tick)]

    def _read(self) -> None:
        try:
            self.connection.read()
        except Exception as exc:  # noqa: BLE001
            self.read_error = exc
        self.read_ended.set()

    def _tick(self) -> None:
        while self.connection.lost is None:
            gevent.sleep(0.1)
            self.connection.tick()

    def end_of_reading(self, timeout_s: float = 20.0) -> Exception:
        assert self.read_ended.wait(timeout_s), "the reader still reads"
        assert self.read_error is not None
        return self.read_error


@contextmanager
def connected(bus: Bus) -> Iterator[BusConnection]:
    rig = Rig(bus)
    rig.start()
    try:
        yield rig.connection
    finally:
        rig.connection.close(2)
        error = rig.end_of_reading(2)
        assert isinstance(error, BusDown), repr(error)


def refusal(function: Callable[..., Any], *args: Any, **options: Any) -> BusRefused:
    with pytest.raises(BusRefused) as caught:
        function(*args, **options)
    return caught.value


def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    with gevent.Timeout(timeout_s, AssertionError(f"{what}: not in time")):
        while not condition():
            gevent.sleep(0.005)


# --- connecting ----------------------------------------------------------------------------------------------------


def lives_and_closes(bus: Bus) -> None:
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    assert rig.connection.frame_max >= 4096
    channel.queue_declare("q", durable=True, auto_delete=False)
    # Some heartbeats long: idle, both sides are kept alive by nothing else.
    gevent.sleep(3.5)
    assert rig.connection.lost is None
    assert channel.queue_declare("q", passive=True).message_count == 0
    rig.connection.close(2)
    assert "closed by us" in str(rig.end_of_reading(1))
    assert "closed by us" in str(rig.connection.lost)
    with pytest.raises(BusDown):
        rig.connection.open_channel()


def close_without_reader(bus: Bus) -> None:
    rig = Rig(bus)
    rig.connection.connect()
    with gevent.Timeout(30):
        rig.connection.close(1000)


def is_seen(bus: Bus) -> None:
    with connected(bus):
        say("connected")
        hear()


def fails(bus: Bus, error: str, code: int = 0, text: str = "") -> None:
    rig = Rig(bus)
    with pytest.raises((BusDown, BusRefused)) as caught:
        rig.connection.connect()
    assert type(caught.value).__name__ == error, repr(caught.value)
    assert text in str(caught.value), str(caught.value)
    assert getattr(caught.value, "code", 0) == code, repr(caught.value)
    assert "wrong-secret" not in str(caught.value)
    assert rig.connection.lost is not None


def fails_many_times(bus: Bus, error: str, times: int, text: str = "") -> None:
    for _ in range(times):
        fails(bus, error, text=text)


def works(bus: Bus) -> None:
    with connected(bus) as connection:
        channel = connection.open_channel()
        declared = channel.queue_declare("", exclusive=True)
        confirm = ConfirmChannel[int](
            connection, on_settled=lambda *_: None, on_returned=lambda *_: None, on_closed=lambda *_: None
        )
        frames = PublishFrames(confirm.id, "", declared.queue, frame_max=connection.frame_max)
        # More than TLS takes in one record, and more than a frame.
        confirm.send(frames.render(b"x" * 1_000_000, b"1"), [1])
        until(lambda: not confirm.outstanding, "the confirm")
        message = channel.basic_get(declared.queue, no_ack=True)
        assert message.body == b"x" * 1_000_000


# --- calls while the reader reads ----------------------------------------------------------------------------------


def calls_from_many_greenlets(bus: Bus) -> None:
    with connected(bus) as connection:
        shared = connection.open_channel()

        def work(number: int) -> int:
            own = connection.open_channel()
            own.exchange_declare(f"x{number}", "fanout", durable=True, auto_delete=False)
            name = own.queue_declare(f"q{number}", durable=True, auto_delete=False).queue
            shared.queue_bind(f"q{number}", f"x{number}", "key")
            count = shared.queue_declare(f"q{number}", passive=True)
            assert (name, count.queue) == (f"q{number}", f"q{number}")
            connection.forget_channel(own)
            return number

        workers = [gevent.spawn(work, number) for number in range(20)]
        gevent.joinall(workers, timeout=20, raise_error=True)
        assert [worker.value for worker in workers] == list(range(20))


def missing_queue(bus: Bus) -> None:
    with connected(bus) as connection:
        channel = connection.open_channel()
        error = refusal(channel.queue_declare, "missing", passive=True)
        assert error.code == 404
        assert "missing" in str(error)
        assert channel.closed_by is not None
        # The reason stays, in place of a word about the connection, which is well.
        assert refusal(channel.queue_declare, "other").code == 404
        other = connection.open_channel()
        assert other.queue_declare("there", durable=True, auto_delete=False).queue == "there"
        assert connection.lost is None


def name_too_long(bus: Bus) -> None:
    with connected(bus) as connection:
        channel = connection.open_channel()
        assert "encoded" in str(refusal(channel.queue_declare, "x" * 256))
        assert channel.queue_declare("", exclusive=True).queue


def closed_on_both_sides(bus: Bus) -> None:
    """The broker closes a channel while we close it: what crosses must not end the reader."""
    with connected(bus) as connection:
        for _ in range(50):
            channel = connection.open_channel()
            frames = PublishFrames(channel.channel_id, "missing", "", frame_max=connection.frame_max)
            connection.write(frames.render(b"x", b"1"), channel)
            connection.forget_channel(channel)
        assert connection.open_channel().is_open
        assert connection.lost is None


def call_on_reader(bus: Bus) -> None:
    with connected(bus) as connection:
        channel = connection.open_channel()
        errors: list[str] = []

        def on_closed(error: BusRefused) -> None:
            for call in (connection.open_channel, lambda: channel.queue_declare("q")):
                with pytest.raises(RuntimeError) as caught:
                    call()
                errors.append(str(caught.value))

        other = connection.open_channel()
        other.on_closed = on_closed
        refusal(other.queue_declare, "missing", passive=True)
        until(lambda: len(errors) == 2, "two refusals")
        assert connection.lost is None
        assert channel.queue_declare("", exclusive=True).queue


def outer_timeout(bus: Bus) -> None:
    """A time limit of the caller's is the caller's: not translated, not swallowed."""
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    say("ready")
    hear()
    limit = gevent.Timeout(0.3)
    limit.start()
    with pytest.raises(gevent.Timeout) as caught:
        channel.queue_declare("", exclusive=True)
    assert caught.value is limit
    rig.connection.abort("the test is over")


# --- loss ----------------------------------------------------------------------------------------------------------


def is_lost(bus: Bus, errors: list[str], text: str = "") -> None:
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    waiting_error: list[BaseException] = []

    def wait_for_answer() -> None:
        try:
            while True:
                channel.queue_declare("", exclusive=True, auto_delete=True)
                gevent.sleep(0.01)
        except (BusDown, BusRefused) as exc:
            waiting_error.append(exc)

    waiting = gevent.spawn(wait_for_answer)
    say("ready")
    hear()
    error = rig.end_of_reading()
    assert type(error).__name__ in errors, repr(error)
    assert text in str(error), str(error)
    waiting.join(timeout=2)
    assert isinstance(waiting_error[0], BusDown), waiting_error
    assert rig.connection.lost is not None
    # Twice is once, and a lost connection refuses everything at once.
    rig.connection.abort("again")
    assert "again" not in str(rig.connection.lost)
    rig.connection.close(5)
    for call in (rig.connection.open_channel, lambda: rig.connection.write(b"x", channel)):
        with pytest.raises(BusDown):
            call()


def abort_ends_stuck_writer(bus: Bus) -> None:
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    say("ready")
    hear()
    ended: list[str] = []

    def write() -> None:
        try:
            while True:
                rig.connection.write(b"\x08\x00\x00\x00\x00\x00\x00\xce" * 100_000, channel)
        except BusDown as exc:
            ended.append(str(exc))

    writers = [gevent.spawn(write) for _ in range(2)]
    until(rig.connection.is_writing, "a writer in the middle")
    gevent.sleep(0.5)
    assert rig.connection.is_writing()
    assert not ended
    # On the loop itself, where nothing that waits can be called.
    gevent.get_hub().loop.run_callback(rig.connection.abort, "enough")
    gevent.joinall(writers, timeout=10)
    assert "enough" in str(rig.end_of_reading())
    assert all(writer.dead for writer in writers)
    assert len(ended) == 2
    assert all("enough" in text for text in ended), ended


def interrupted_write_ends_connection(bus: Bus) -> None:
    """A frame that was torn by the end of its writer must not be continued by the next one."""
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    say("ready")
    hear()
    writer = gevent.spawn(rig.connection.write, b"\x08\x00\x00\x00\x00\x00\x00\xce" * 2_000_000, channel)
    until(rig.connection.is_writing, "a writer in the middle")
    gevent.sleep(0.2)
    writer.kill()
    assert "interrupted" in str(rig.connection.lost)
    assert isinstance(rig.end_of_reading(1), BusDown)


def stuck_writer_does_not_hide_the_end(bus: Bus) -> None:
    """The broker, blocked, tells that it closes the connection, while a writer holds the lock."""
    rig = Rig(bus)
    rig.start()
    channel = rig.connection.open_channel()
    channel.queue_declare("q", durable=True, auto_delete=False)
    frames = PublishFrames(channel.channel_id, "", "q", frame_max=rig.connection.frame_max)
    buffer = frames.render(b"x" * 100_000, b"1")

    def write() -> None:
        try:
            while True:
                rig.connection.write(buffer, channel)
        except BusDown:
            pass

    writer = gevent.spawn(write)
    until(lambda: rig.connection.blocked, "the notice")
    gevent.sleep(0.5)
    assert rig.connection.is_writing()
    say("stuck")
    hear()
    error = rig.end_of_reading(5)
    assert isinstance(error, GoingDown), repr(error)
    writer.join(timeout=1)
    assert writer.dead


def blocked(bus: Bus) -> None:
    rig = Rig(bus)
    seen: list[bool] = []
    rig.start()
    connection = rig.connection
    connection.on_blocked = seen.append
    settled: list[int] = []
    confirm = ConfirmChannel[int](
        connection, on_settled=lambda tokens, acked: settled.extend(tokens), on_returned=lambda *_: None,
        on_closed=lambda *_: None,
    )
    confirm._channel.queue_declare("q", durable=True, auto_delete=False)
    frames = PublishFrames(confirm.id, "", "q", frame_max=connection.frame_max)
    confirm.send(frames.render(b"x", b"1"), [1])
    until(lambda: seen == [True], "the notice", 5)
    assert connection.blocked
    # Longer than two heartbeats: a broker under an alarm does not read, and is not gone.
    gevent.sleep(3)
    assert connection.lost is None
    say("blocked")
    until(lambda: seen == [True, False], "the end of the alarm")
    until(lambda: settled == [1], "the confirm")
    assert not connection.blocked
    connection.close(2)


def leaves_nothing_behind(bus: Bus) -> None:
    for _ in range(3):
        rig = Rig(bus)
        rig.start()
        rig.connection.open_channel()
        rig.connection.close(2)
        rig.end_of_reading()
        gevent.joinall(rig.greenlets, timeout=2)
    del rig
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is BusConnection]


# --- confirms ------------------------------------------------------------------------------------------------------


class Answers:
    """Callbacks of a confirm channel that note what they were told, in order."""

    def __init__(self, connection: BusConnection) -> None:
        self.log: list[tuple[str, Any]] = []
        self.acked: list[int] = []
        self.nacked: list[int] = []
        self.closed: list[tuple[BusRefused, list[int]]] = []
        self.channel = ConfirmChannel[int](
            connection, on_settled=self._settled, on_returned=self._returned,
            on_closed=lambda error, tokens: self.closed.append((error, tokens)),
        )

    def _settled(self, tokens: list[int], acked: bool) -> None:
        (self.acked if acked else self.nacked).extend(tokens)
        self.log += [("ack" if acked else "nack", token) for token in tokens]

    def _returned(self, message_id: str, reason: str) -> None:
        self.log.append(("returned", int(message_id)))
        self.log.append(("reason", reason))

    def publish(self, connection: BusConnection, exchange: str, key: str, numbers: range, **options: Any) -> None:
        frames = PublishFrames(self.channel.id, exchange, key, frame_max=connection.frame_max, **options)
        self.channel.send(b"".join(frames.render(b"%d" % n, b"%d" % n) for n in numbers), list(numbers))


def thousand_in_one_buffer(bus: Bus) -> None:
    with connected(bus) as connection:
        side = connection.open_channel()
        side.queue_declare("q", durable=True, auto_delete=False)
        answers = Answers(connection)
        answers.publish(connection, "", "q", range(1000))
        assert answers.channel.outstanding > 0
        until(lambda: not answers.channel.outstanding, "all confirms")
        assert sorted(answers.acked) == list(range(1000))
        assert answers.channel.unanswered() == []
        assert side.queue_declare("q", passive=True).message_count == 1000
        bodies = [side.basic_get("q", no_ack=True).body for _ in range(1000)]
        assert bodies == [b"%d" % n for n in range(1000)]


def returned_before_ack(bus: Bus) -> None:
    with connected(bus) as connection:
        connection.open_channel().exchange_declare("nobody", "fanout", durable=True, auto_delete=False)
        answers = Answers(connection)
        answers.publish(connection, "nobody", "key", range(7, 8))
        until(lambda: answers.acked == [7], "the ack")
        kinds = [kind for kind, _ in answers.log]
        assert kinds == ["returned", "reason", "ack"], answers.log
        assert answers.log[0] == ("returned", 7)
        code, text = answers.log[1][1]
        assert code == 312
        assert "'key'" in text
        # Without `mandatory` nothing is returned.
        answers.publish(connection, "nobody", "key", range(8, 9), mandatory=False)
        until(lambda: answers.acked == [7, 8], "the second ack")
        assert len(answers.log) == 4


def missing_exchange(bus: Bus) -> None:
    with connected(bus) as connection:
        bystander = Answers(connection)
        answers = Answers(connection)
        answers.publish(connection, "missing", "key", range(5))
        until(lambda: answers.closed, "the news")
        ((error, tokens),) = answers.closed
        assert (error.code, tokens) == (404, list(range(5)))
        assert answers.channel.closed
        assert answers.channel.outstanding == 0
        assert refusal(answers.publish, connection, "amq.fanout", "", range(1)).code == 404
        bystander.publish(connection, "amq.fanout", "key", range(1), mandatory=False)
        until(lambda: bystander.acked == [0], "the ack on the other channel")
        # The number of the dead channel is given to the next one, and its answers with it.
        again = Answers(connection)
        assert again.channel.id == answers.channel.id
        again.publish(connection, "amq.fanout", "", range(3), mandatory=False)
        until(lambda: sorted(again.acked) == [0, 1, 2], "the acks on the new channel")
        assert connection.lost is None


def nack_from_full_queue(bus: Bus) -> None:
    with connected(bus) as connection:
        channel = connection.open_channel()
        arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
        channel.queue_declare("full", durable=True, auto_delete=False, arguments=arguments)
        answers = Answers(connection)
        for number in range(6):
            answers.publish(connection, "", "full", range(number, number + 1))
            until(lambda: not answers.channel.outstanding, "an answer")
        assert (answers.acked, answers.nacked) == ([0, 1, 2], [3, 4, 5])


def loss_leaves_unanswered(bus: Bus) -> None:
    rig = Rig(bus)
    rig.start()
    rig.connection.open_channel().queue_declare("q", durable=True, auto_delete=False)
    answers = Answers(rig.connection)
    answers.publish(rig.connection, "", "q", range(3))
    until(lambda: not answers.channel.outstanding, "three confirms")
    say("ready")
    hear()
    answers.publish(rig.connection, "", "q", range(3, 6))
    rig.end_of_reading()
    assert answers.channel.unanswered() == [3, 4, 5]
    assert answers.closed == []


def deliveries_at_once(bus: Bus) -> None:
    """What comes in one read with the answer to the consume is delivered, not rejected."""
    with connected(bus) as connection:
        channel = connection.open_channel()
        channel.queue_declare("q", durable=True, auto_delete=False)
        answers = Answers(connection)
        answers.publish(connection, "", "q", range(500))
        until(lambda: not answers.channel.outstanding, "all confirms")
        for tag in ("", "mine"):
            bodies: list[bytes] = []
            seen = connection.open_channel()
            seen.basic_consume("q", tag, callback=lambda message, bodies=bodies: bodies.append(message.body))
            until(lambda bodies=bodies: len(bodies) == 500, "all deliveries")
            assert bodies == [b"%d" % n for n in range(500)]
            connection.forget_channel(seen)
            until(lambda: channel.queue_declare("q", passive=True).message_count == 500, "all of them back")
