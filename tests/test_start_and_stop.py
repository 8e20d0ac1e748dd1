"""The order in which a connector's parts start and stop, and what becomes of what its sources put last. No broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from struct import unpack_from
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.support.journals import KEY, append, body
from vigiloconn.bus.channels import ChannelPool
from vigiloconn.connectors import nagios, parts
from vigiloconn.errors import BusDown
from vigiloconn.handlers.backup import BackupProvider, backupprovider_factory
from vigiloconn.handlers.message import MessageHandler
from vigiloconn.handlers.publisher import BusPublisher, buspublisher_factory
from vigiloconn.interfaces import Batch
from vigiloconn.journal.transaction import Transaction
from vigiloconn.options import Settings, parse_settings
from vigiloconn.supervisor import Handler, Supervisor


def make_settings(tmp_path: Path, text: str = "") -> Settings:
    return parse_settings(
        f"[bus]\nqueue = q\n[connector]\nbackup_file = {tmp_path}/backup.sqlite\n"
        f"[connector-nagios]\nlisten_unix = {tmp_path}/send.sock\nnagios_pipe = {tmp_path}/pipe\n{text}"
    )


def kinds(supervisor: Supervisor) -> list[str]:
    return [type(handler).__name__ for handler in supervisor.handlers]


def test_nagios_connector_starts_from_the_journal_outwards(tmp_path: Path) -> None:
    supervisor = Supervisor()
    nagios.build(make_settings(tmp_path), supervisor)
    assert kinds(supervisor) == [
        "BackupProvider", "VigiloClient", "BusPublisher", "SocketListener",
        "VigiloClient", "NagiosCommandHandler", "StatusPublisher",
    ]  # fmt: skip


def test_custom_connector_starts_from_the_journal_outwards(tmp_path: Path) -> None:
    settings, supervisor = make_settings(tmp_path), Supervisor()
    provider = parts.add_journal(settings, supervisor)
    parts.add_consumer(settings, supervisor, MessageHandler(), provider.client)  # type: ignore[arg-type]
    parts.add_status(settings, supervisor, provider)
    assert kinds(supervisor) == [
        "BackupProvider", "VigiloClient", "BusPublisher", "VigiloClient", "MessageHandler", "StatusPublisher",
    ]  # fmt: skip


class Broker:
    """A connection and its client in one: confirms everything a moment after it was written."""

    blocked = False
    lost: BusDown | None = None
    refusal = None
    last_error = None
    frame_max = 131072

    def __init__(self) -> None:
        self.confirms: dict[int, Callable[[int, bool, bool], None]] = {}
        self.deliveries: dict[int, Any] = {}
        self.contents: dict[int, Any] = {}
        self.bodies: list[bytes] = []
        self.connection = self
        self.channels = ChannelPool()

    def open_channel(self) -> Any:
        return SimpleNamespace(
            channel_id=1, on_closed=None, closed_by=None, events={"basic_return": set()}, confirm_select=lambda: None
        )

    def forget_channel(self, channel: Any) -> None: ...

    def note_success(self) -> None: ...

    def write(self, buffer: bytes, channel: Any) -> bool:
        self.bodies += list(_bodies(buffer))
        gevent.spawn(self.confirms[1], len(self.bodies), True, True)
        return True


def _bodies(buffer: bytes) -> Any:
    position = 0
    while position < len(buffer):
        kind, _, size = unpack_from(">BHI", buffer, position)
        if kind == 3:
            yield buffer[position + 7 : position + 7 + size]
        position += size + 8


class LastMinute(Handler):
    """A source that puts something only once it is told to stop."""

    def __init__(self, provider: BackupProvider) -> None:
        self._provider = provider
        self._stop = Event()
        self.accepted = 0

    def run(self) -> None:
        self._stop.wait()
        for number in range(3):
            items = [(KEY, body(number))]
            self._provider.put(Batch(items, len(items[0][1]), on_accepted=self._note))

    def stop_service(self) -> None:
        self._stop.set()

    def _note(self) -> None:
        self.accepted += 1


@pytest.fixture
def supervised(tmp_path: Path) -> SimpleNamespace:
    settings, supervisor, broker = make_settings(tmp_path), Supervisor(), Broker()
    provider = backupprovider_factory(settings)
    publisher: BusPublisher = buspublisher_factory(settings, provider)
    source = LastMinute(provider)
    publisher.client = broker  # type: ignore[assignment]
    for part in (provider, publisher, source):
        supervisor.add(part)
    return SimpleNamespace(
        supervisor=supervisor, broker=broker, provider=provider, publisher=publisher, source=source, settings=settings
    )


def waiting(settings: Settings) -> int:
    again = backupprovider_factory(settings).journal
    report = again.open()
    again.close()
    return report.taken_over


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_source_puts_at_the_stop_is_accepted_and_sent_while_the_bus_is_there(
    supervised: SimpleNamespace, is_there: bool
) -> None:
    if is_there:
        supervised.provider.connection_initialized()
        supervised.publisher.connection_initialized()
    gevent.spawn(supervised.supervisor.stop)
    assert supervised.supervisor.run() == 0
    assert supervised.source.accepted == 3
    sent = [body(number) for number in range(3)] if is_there else []
    assert supervised.broker.bodies == sent
    # What was confirmed has left the journal, and nothing else has.
    assert waiting(supervised.settings) == 3 - len(sent)


def test_what_is_held_from_before_is_known_before_any_part_lives(supervised: SimpleNamespace) -> None:
    journal = backupprovider_factory(supervised.settings).journal
    journal.open()
    records = append(journal, 2)
    journal.apply(Transaction(holds=[("gone", record) for record in records]))
    journal.close()
    supervised.provider.start_service()
    supervised.publisher.start_service()
    (problem,) = supervised.publisher.problems()
    assert (problem.name, "exchange gone is held, 2 messages" in problem.text) == ("exchange-held", True)
    supervised.provider.close()
