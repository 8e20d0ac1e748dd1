"""Lines to the bus at full speed, beside what py-amqp reaches without confirms and without a journal."""

from __future__ import annotations

import json
import time
from pathlib import Path

import amqp

from bench.consumer import Consumer
from bench.support import (
    EXCHANGE,
    QUEUE,
    Report,
    connector,
    event_lines,
    fresh_queue,
    median,
    open_bus,
    wait_depth,
    write_all,
)
from tests.support.rabbit import RabbitNode
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.serialize import parse_chunk

_WRITERS = 3
#: Publishes in one write, as the connector does it.
_CHUNK = 200


def ceiling(node: RabbitNode, count: int, *, consumed: bool = False) -> float:
    """Return messages/s of py-amqp publishing persistent messages of the same size, unconfirmed, with the drain
    that it does before each publish turned off. Until they are in the queue, or at a consumer."""
    bodies = [body for _, body in parse_chunk(event_lines(0, count).rstrip(b"\n").split(b"\n"))[0]]
    with open_bus(node) as bus:
        fresh_queue(bus)
        consumer = Consumer(node, count) if consumed else None
        connection = amqp.Connection(node.address, userid=node.user, password=node.password)
        connection.connect()
        connection.client_properties["capabilities"]["connection.blocked"] = False
        channel = connection.channel()
        began = time.monotonic()
        for body in bodies:
            message = amqp.Message(body, content_type="application/json", delivery_mode=2)
            channel.basic_publish(message, exchange=EXCHANGE, routing_key="event")
        seconds = consumer.done_at() - began if consumer else wait_depth(bus, count, began)
        connection.close()
    return count / seconds


def confirmed_ceiling(node: RabbitNode, count: int, window: int = 2000) -> float:
    """Return messages/s that the broker itself confirms: frames made beforehand, `mandatory`, nothing else to do.

    What a client can reach at best that asks for what the promise needs.
    """
    bodies = [body for _, body in parse_chunk(event_lines(0, count).rstrip(b"\n").split(b"\n"))[0]]
    with open_bus(node) as bus:
        fresh_queue(bus)
        connection = amqp.Connection(node.address, userid=node.user, password=node.password)
        connection.connect()
        channel = connection.channel()
        channel.confirm_select()
        frames = PublishFrames(channel.channel_id, EXCHANGE, "event", frame_max=connection.frame_max)
        ready = [frames.render(body, b"0" * 32 + b"-%d" % number) for number, body in enumerate(bodies)]
        answered = [0]
        channel.events["basic_ack"].add(lambda tag, multiple: answered.__setitem__(0, tag))
        began = time.monotonic()
        for start in range(0, count, _CHUNK):
            while start - answered[0] > window:
                connection.drain_events(timeout=30)
            connection.transport.write(b"".join(ready[start : start + _CHUNK]))
        while answered[0] < count:
            connection.drain_events(timeout=30)
        seconds = wait_depth(bus, count, began)
        connection.close()
    return count / seconds


def end_to_end(report: Report, node: RabbitNode, directory: Path, count: int, rounds: int) -> None:
    """Measure from the socket to a consumer, `rounds` times in turn with the baseline."""
    report.section(f"{count:,} event lines by {_WRITERS} writers to a consumer, journal at FULL, {rounds} rounds")
    share = count // _WRITERS
    total = share * _WRITERS
    baseline, rates = [], []
    for number in range(rounds):
        baseline.append(ceiling(node, total, consumed=True))
        with open_bus(node) as bus:
            fresh_queue(bus)
            consumer = Consumer(node, total)
            with connector(node, directory / f"consumed-{number}") as process:
                began = time.monotonic()
                write_all(process.socket_path, [event_lines(writer, share) for writer in range(_WRITERS)])
                rates.append(total / (consumer.done_at() - began))
    ratio = median([ours / theirs for ours, theirs in zip(rates, baseline, strict=True)])
    report.figure("py-amqp to consumer, unconfirmed, no drain", median(baseline), "messages/s")
    report.figure("socket to consumer, journaled and confirmed", median(rates), "messages/s")
    report.figure("ratio of the two", ratio, "", target=">= 0.9", met=ratio >= 0.9)


def measure(report: Report, node: RabbitNode, directory: Path, count: int, rounds: int) -> float:
    """Measure `rounds` times in turn with the baseline; return the connector's median rate in messages/s."""
    report.section(f"{count:,} event lines by {_WRITERS} writers to a queue, journal at FULL, {rounds} rounds")
    share = count // _WRITERS
    total = share * _WRITERS
    baseline, confirmed, rates, cpu, memory, accepted = [], [], [], [], [], []
    for number in range(rounds):
        baseline.append(ceiling(node, total))
        confirmed.append(confirmed_ceiling(node, total))
        with open_bus(node) as bus:
            fresh_queue(bus)
            with connector(node, directory / f"publish-{number}") as process:
                chunks = [event_lines(writer, share) for writer in range(_WRITERS)]
                cpu_before, began = process.cpu_s(), time.monotonic()
                accepted.append(total / write_all(process.socket_path, chunks))
                rates.append(total / wait_depth(bus, total, began))
                cpu.append((process.cpu_s() - cpu_before) / total * 1e6)
                memory.append(process.rss_mb())
            check_arrived(bus, chunks)
    ratios = [ours / theirs for ours, theirs in zip(rates, baseline, strict=True)]
    report.figure("py-amqp, unconfirmed, no drain per publish", median(baseline), "messages/s")
    report.figure("ready-made frames, confirmed and mandatory", median(confirmed), "messages/s")
    report.figure("socket to queue, journaled and confirmed", median(rates), "messages/s")
    # No target here: the broker itself confirms less than it takes unconfirmed, from any client (docs/measurements.md).
    report.figure("ratio to unconfirmed py-amqp", median(ratios), "")
    reached = [ours / theirs for ours, theirs in zip(rates, confirmed, strict=True)]
    report.figure("ratio to what the broker confirms at best", median(reached), "")
    report.figure("acceptance (synced)", median(accepted), "lines/s")
    report.figure("CPU of the connector", median(cpu), "us a line", target="<= 8", met=median(cpu) <= 8)
    report.figure("resident memory, highest", max(memory), "MB", target="< 60", met=max(memory) < 60)
    report.note("all lines arrived, each writer's in order, bodies equal")
    return median(rates)


def check_arrived(bus: object, chunks: list[bytes]) -> None:
    """Raise AssertionError unless each writer's lines are in the queue, complete, in order and equal."""
    got: dict[str, list[dict[str, str]]] = {}
    for message in bus.drain_all(QUEUE):  # type: ignore[attr-defined]
        body = json.loads(message.body)
        got.setdefault(body["service"], []).append(body)
    for chunk in chunks:
        wanted = [json.loads(body) for _, body in parse_chunk(chunk.rstrip(b"\n").split(b"\n"))[0]]
        if got.get(wanted[0]["service"]) != wanted:
            raise AssertionError(f"lines of {wanted[0]['service']} are missing, changed or out of order")
