"""Held messages and settings that name another exchange for them since."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journals import append, assert_totals_are_exact, held_ids
from tests.support.publishing import Rig, ids
from vigiloconn.errors import StartError
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.journal.store import DbRetry, Transaction
from vigiloconn.options import load_settings
from vigiloconn.publishing.states import State


@pytest.fixture
def journal(tmp_path: Path) -> DbRetry:
    """A journal with messages 1 to 3 held for `old`, 4 and 5 for `other`, 6 for none."""
    made = DbRetry(tmp_path / "backup.sqlite")
    made.open()
    records = append(made, 6)
    made.apply(Transaction(holds=[("old", record) for record in records[:3]]))
    made.apply(Transaction(holds=[("other", record) for record in records[3:5]]))
    return made


def test_held_messages_move_to_the_exchange_that_is_named_now_in_the_order_of_their_ids(journal: DbRetry) -> None:
    assert journal.readdress_held("new settings", lambda body: "other") == 3
    assert held_ids(journal, "other") == [1, 2, 3, 4, 5]
    assert journal.held_exchanges() == {"other": 5}
    assert held_ids(journal, "old") == []
    assert_totals_are_exact(journal)
    journal.close()


def test_messages_whose_exchange_is_not_known_stay(journal: DbRetry) -> None:
    assert journal.readdress_held("new settings", lambda body: None) == 0
    assert journal.held_exchanges() == {"old": 3, "other": 2}
    journal.close()


def test_held_messages_are_looked_at_once_for_each_change_of_the_settings(journal: DbRetry) -> None:
    journal.readdress_held("settings", lambda body: None)
    journal.close()
    again = DbRetry(journal.path)
    again.open()
    assert again.readdress_held("settings", lambda body: "other") == 0
    assert again.readdress_held("other settings", lambda body: "other") == 3
    again.close()


def test_more_messages_than_fit_into_one_step_all_move(tmp_path: Path) -> None:
    journal = DbRetry(tmp_path / "backup.sqlite")
    journal.open()
    journal.apply(Transaction(holds=[("old", record) for record in append(journal, 1200)]))
    assert journal.readdress_held("new settings", lambda body: "new") == 1200
    assert held_ids(journal, "new") == list(range(1, 1201))
    journal.close()


def test_a_publisher_that_is_prepared_before_its_journal_is_told_the_order(tmp_path: Path) -> None:
    provider = BackupProvider(DbRetry(tmp_path / "backup.sqlite"), load_settings("/dev/null").runtime)
    with pytest.raises(StartError, match="not open: add it to the supervisor before the publisher"):
        provider.readdress_held("settings", lambda kind: kind)


def test_publisher_sends_them_to_the_new_exchange_before_newer_ones_of_their_type() -> None:
    before = Rig("[publications]\nevent = old\n")
    before.connect()
    before.accept(3)
    before.channel("old").close_by_broker(404)
    after = Rig("[publications]\nevent = new\n", before.journal)
    after.accept(2)
    after.connect()
    assert "old" not in after.publisher.outlets
    after.ack("new")
    after.ack("new")
    assert after.state("new") is State.OPEN
    assert ids(after.connection.published) == [1, 2, 3, 4, 5]
    assert {message.exchange for message in after.connection.published} == {"new"}
