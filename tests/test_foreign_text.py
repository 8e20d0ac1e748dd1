"""Text of others in the log: a forged line or a terminal's control sequence stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.support.scripted import ScriptedClient
from vigiloconn.errors import BadMessage
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.interfaces import UNREADABLE
from vigiloconn.journal.store import StoredRecord
from vigiloconn.journal.thread import readable
from vigiloconn.supervisor import Supervisor

FORGED = "x\n2026-01-01 CRITICAL all is lost\x1b[2J\u2028"


def assert_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    assert caplog.records
    for record in caplog.records:
        assert record.getMessage().isprintable(), record.getMessage()


class Picky(MessageHandler):
    name = "picky"

    def process_message(self, message: dict[str, Any]) -> None:
        raise BadMessage(f"can't do {message['what']}")


def test_message_that_can_not_be_handled_is_told_of_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    handler, client, supervisor = Picky(), ScriptedClient(), Supervisor()
    handler.subscribe("q")
    client.add_handler(handler)
    supervisor.add(handler)
    running = gevent.spawn(supervisor.run)
    with gevent.Timeout(10):
        connection = client.connect()
        while not (channels := [one for one in connection.channels.values() if one.consumers]):
            gevent.sleep(0.001)
        channels[0].deliver(b'{"type": "event", "what": "x\\n2026-01-01 CRITICAL all is lost\\u001b[2J\\u2028"}')
        while not handler.dead_lettered:
            gevent.sleep(0.001)
    supervisor.stop()
    running.join(10)
    assert any("all is lost" in record.getMessage() for record in caplog.records)
    assert_one_line_each(caplog)


def test_row_that_is_no_message_is_told_of_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (record,) = readable([StoredRecord(1, f'{{"type": 5, "x": "{FORGED}"'.encode(), 0.0, None)])
    assert record.key is UNREADABLE
    assert_one_line_each(caplog)
