"""What the README tells operators to do with parked messages, done as it stands there."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.store import DbRetry, Transaction

README = Path(__file__).resolve().parents[1] / "README.md"


def test_parked_messages_are_sent_again_after_the_statements_of_the_readme(tmp_path: Path) -> None:
    path = tmp_path / "backup.sqlite"
    statements = re.findall(r"^    (INSERT INTO tobus .*|DELETE FROM vigiloconn_parked.*)$", README.read_text(), re.M)
    assert len(statements) == 2
    journal = DbRetry(path)
    journal.open()
    records = [Record(number, RouteKey("event", None, True), b'{"n":%d}' % number, 1.0) for number in (1, 2, 3)]
    journal.apply(Transaction(appends=records))
    journal.apply(Transaction(parks=[("event", record, "nobody is bound") for record in records[:2]]))
    journal.close()
    with sqlite3.connect(path) as operator:
        for statement in statements:
            operator.execute(statement)
    operator.close()
    journal = DbRetry(path)
    report = journal.open()
    waiting = [(row.id, row.body) for row in journal.peek(0, 10, 1 << 20)]
    parked = journal.parked_rows
    totals = (journal.rows, journal.size_bytes)
    journal.close()
    assert (report.set_aside, parked) == (None, 0)
    assert waiting == [(record.id, record.body) for record in records]
    assert totals == (3, sum(len(record.body) for record in records))
