"""Publishers that have their messages ready: `python -m bench.publishers MODE ADDRESS USER PASSWORD COUNT`.

What a broker takes at best. MODE unconfirmed: py-amqp, without the read that it does before each publish. MODE ready:
frames made beforehand, with confirm and `mandatory`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import amqp

from bench.driver import ROOT, WARM_LINES
from bench.lines import STANDARD, WARM_WRITER
from bench.relays.plain import PATIENT
from tests.support.rabbit import RabbitNode
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.serialize import parse_chunk

EXCHANGE = "event"
_CHUNK = 200
_WINDOW = 2000


def ready_bodies(count: int) -> list[bytes]:
    """Return the bodies that the connector makes of the standard case's lines, the warm-up's first."""
    make = STANDARD.maker()
    lines = [make(WARM_WRITER, number, 0) for number in range(WARM_LINES)]
    lines += [make(0, number, 0) for number in range(count)]
    return [body for _, body in parse_chunk([line.rstrip(b"\n") for line in lines])[0]]


def unconfirmed(channel: amqp.Channel, bodies: list[bytes]) -> None:
    """Publish one by one."""
    for body in bodies:
        channel.basic_publish(amqp.Message(body, content_type="application/json", delivery_mode=2), EXCHANGE, "event")


def ready(channel: amqp.Channel, bodies: list[bytes]) -> None:
    """Write frames that were made before, with 2000 on their way."""
    channel.confirm_select()
    frames = PublishFrames(channel.channel_id, EXCHANGE, "event", frame_max=channel.connection.frame_max)
    rendered = [frames.render(body, b"0" * 32 + b"-%d" % number) for number, body in enumerate(bodies)]
    answered = [0]
    channel.events["basic_ack"].add(lambda tag, multiple: answered.__setitem__(0, tag))
    began = time.monotonic(), time.process_time()
    for start in range(0, len(bodies), _CHUNK):
        while start - answered[0] > _WINDOW:
            channel.connection.drain_events(timeout=30)
        channel.connection.transport.write(b"".join(rendered[start : start + _CHUNK]))
    while answered[0] < len(bodies):
        channel.connection.drain_events(timeout=30)
    _tell(*began)


def _tell(began: float, cpu_before: float) -> None:
    print(json.dumps({"began": began, "cpu_s": time.process_time() - cpu_before}), flush=True)


def main(mode: str, address: str, user: str, password: str, count: str) -> None:
    """Publish, and tell when it began and the CPU that it took."""
    bodies = ready_bodies(int(count))
    connection = amqp.Connection(address, userid=user, password=password, socket_settings=PATIENT)
    connection.connect()
    connection.client_properties["capabilities"]["connection.blocked"] = False
    if mode == "ready":
        ready(connection.channel(), bodies)
    else:
        channel = connection.channel()
        began = time.monotonic(), time.process_time()
        unconfirmed(channel, bodies)
        _tell(*began)
    connection.close()


def publish(node: RabbitNode, mode: str, count: int) -> dict[str, float]:
    """Run it to its end; return `began` (monotonic seconds) and `cpu_s`. All may not be in the queue yet."""
    argv = [sys.executable, "-m", "bench.publishers", mode, node.address, node.user, node.password, str(count)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{mode}: status {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main(*sys.argv[1:])
