"""The journal, on real files, real full disks and real kills."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journals import append, assert_totals_are_exact, body, held_ids, ids, reopened, take
from vigiloconn.errors import JournalBusy, JournalDamaged, SettingsError, StartError
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.runs import runs_of
from vigiloconn.journal.store import CRASH_GAP_IDS, DbRetry
from vigiloconn.journal.transaction import Transaction

ROOT = Path(__file__).resolve().parents[1]


def clock(wall_s: float, boot_s: float = 50.0, boot_id: str = "this boot") -> JournalClock:
    return JournalClock(lambda: wall_s, lambda: boot_s, lambda: boot_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[DbRetry]:
    opened = DbRetry(path)
    opened.open()
    yield opened
    opened.close()


# Rows in, rows out.


def test_appended_messages_are_read_back_in_order_with_body_and_time(journal: DbRetry) -> None:
    first = append(journal, 3, accepted_at=1000.0)
    second = append(journal, 2, accepted_at=1001.5)
    found = journal.peek(0, 10, 1 << 20)
    assert [(r.id, r.body, r.accepted_at) for r in found] == [(r.id, r.body, r.accepted_at) for r in first + second]
    assert journal.last_id() == second[-1].id
    assert_totals_are_exact(journal)


def test_peek_leaves_messages_stored_and_goes_on_after_an_id(journal: DbRetry) -> None:
    records = append(journal, 5)
    assert ids(journal, limit=2) == [r.id for r in records[:2]]
    assert ids(journal, after_id=records[1].id) == [r.id for r in records[2:]]
    assert journal.rows == 5


def test_peek_stops_before_the_byte_bound_but_gives_one_message_whatever_its_size(journal: DbRetry) -> None:
    records = append(journal, 3, size=1000)
    assert ids(journal, max_bytes=10) == [records[0].id]
    assert ids(journal, max_bytes=2 * len(records[0].body)) == [r.id for r in records[:2]]


def test_a_peek_that_stops_early_does_not_keep_the_log_from_being_emptied(journal: DbRetry) -> None:
    append(journal, 50, size=1000)
    journal.peek(0, 50, 10)
    journal.peek_held("x", 0, 50, 10)
    raw = sqlite3.connect(journal.path)
    assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    raw.close()


def test_times_are_kept_per_range_of_a_second_and_forgotten_when_all_is_discarded(journal: DbRetry) -> None:
    a = append(journal, 2, accepted_at=1000.0)
    b = append(journal, 2, accepted_at=1000.9)
    c = append(journal, 2, accepted_at=1001.0)
    d = append(journal, 2, accepted_at=500.0)  # the clock was set back
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [1000.0] * 4 + [1001.0] * 2 + [500.0] * 2
    journal.apply(Transaction(discards=[(1, b[0].id)]))
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [1000.0] + [1001.0] * 2 + [500.0] * 2
    journal.apply(Transaction(discards=[(1, d[-1].id)]))
    reader = sqlite3.connect(journal.path)
    assert reader.execute("SELECT first_id FROM vigiloconn_accepted").fetchall() == [(d[0].id,)]
    reader.close()
    assert a[0].id < c[0].id


def test_messages_of_one_transaction_keep_their_times_where_they_waited_for_it(journal: DbRetry) -> None:
    early, late = take(journal, 2, accepted_at=1000.0), take(journal, 2, accepted_at=1005.0)
    journal.apply(Transaction(appends=[*early, *late]))
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [1000.0] * 2 + [1005.0] * 2


def test_one_transaction_can_append_hold_park_and_discard(journal: DbRetry) -> None:
    old = append(journal, 2)
    new = take(journal, 4)
    journal.apply(
        Transaction(
            appends=new, holds=[("gone", new[0])], parks=[("lost", new[1], "nobody is bound")],
            discards=[(1, old[-1].id)],
        )
    )
    assert ids(journal) == [new[2].id, new[3].id]
    assert held_ids(journal, "gone") == [new[0].id]
    assert [(p.id, p.exchange, p.reason, p.body) for p in journal.parked()] == [
        (new[1].id, "lost", "nobody is bound", new[1].body)
    ]
    assert_totals_are_exact(journal)


def test_held_messages_leave_per_exchange_and_a_parked_one_leaves_the_held_table(journal: DbRetry) -> None:
    records = append(journal, 6)
    journal.apply(Transaction(holds=[("a" if r.id % 2 else "b", r) for r in records]))
    assert journal.held_exchanges() == {"a": 3, "b": 3}
    assert journal.peek_held("a", 0, 1, 1 << 20)[0].accepted_at == records[0].accepted_at
    odd = [r for r in records if r.id % 2]
    journal.apply(Transaction(held_discards=runs_of([odd[0].id, odd[1].id]), parks=[("a", odd[2], "refused")]))
    assert journal.held_exchanges() == {"b": 3}
    assert ids(journal) == []
    assert_totals_are_exact(journal)


def test_a_discard_takes_the_rows_that_it_names_and_no_other(journal: DbRetry) -> None:
    records = append(journal, 10)
    journal.apply(Transaction(holds=[("a" if r.id < 8 else "b", r) for r in records[5:]]))
    journal.apply(Transaction(discards=[(2, 3), (5, 5), (8, 8)], held_discards=[(6, 6), (7, 8), (1, 4)]))
    assert (ids(journal), held_ids(journal, "a"), held_ids(journal, "b")) == ([1, 4], [], [9, 10])
    assert_totals_are_exact(journal)


def test_times_stay_for_as_long_as_a_row_needs_them(journal: DbRetry) -> None:
    a, b, c = (append(journal, 2, accepted_at=at)[0].id for at in (1000.0, 2000.0, 3000.0))
    journal.apply(Transaction(discards=[(b, c + 1)]))
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [1000.0, 1000.0]
    journal.apply(Transaction(discards=[(a, a + 1)]))
    reader = sqlite3.connect(journal.path)
    assert reader.execute("SELECT first_id FROM vigiloconn_accepted").fetchall() == [(c,)]
    reader.close()


def test_a_hold_or_park_that_comes_again_is_not_counted_twice(journal: DbRetry) -> None:
    records = append(journal, 3)
    transaction = Transaction(holds=[("a", records[0])], parks=[("a", records[1], "why")])
    journal.apply(transaction)
    journal.apply(transaction)
    assert (journal.rows, journal.parked_rows, ids(journal)) == (2, 1, [records[2].id])
    assert_totals_are_exact(journal)


def test_parked_messages_stay_however_many_and_count_in_the_totals_of_all(journal: DbRetry) -> None:
    records = append(journal, 5)
    journal.apply(Transaction(parks=[("x", r, "late") for r in records[1:]]))
    journal.apply(Transaction(parks=[("x", records[0], "late")]))
    assert [p.id for p in journal.parked()] == [2, 3, 4, 5, 1]
    assert (journal.rows, journal.size_bytes) == (0, 0)
    assert (journal.all_rows, journal.all_bytes) == (5, sum(len(r.body) for r in records))
    assert_totals_are_exact(journal)


def test_a_transaction_that_fails_changes_neither_rows_nor_gauges(journal: DbRetry) -> None:
    records = append(journal, 3)
    again = [*take(journal, 1), records[0]]  # an id that is in use
    with pytest.raises(sqlite3.IntegrityError):
        journal.apply(Transaction(appends=again, discards=[(1, records[1].id)]))
    assert ids(journal) == [r.id for r in records]
    assert_totals_are_exact(journal)
    append(journal, 1)


def test_reading_a_page_uses_the_index_however_many_rows_there_are(journal: DbRetry) -> None:
    append(journal, 1)
    reader = sqlite3.connect(journal.path)
    plans = [
        reader.execute("EXPLAIN QUERY PLAN " + sql).fetchall()
        for sql in (
            "SELECT id, msg FROM tobus WHERE id > 5 ORDER BY id LIMIT 9",
            "SELECT id, msg FROM vigiloconn_held WHERE exchange = 'a' AND id > 5 ORDER BY id LIMIT 9",
        )
    ]
    reader.close()
    for plan in plans:
        text = " ".join(row[3] for row in plan)
        assert "SEARCH" in text
        assert "TEMP B-TREE" not in text


# Ids and totals over restarts.


def test_ids_are_never_used_again_after_emptying_and_reopening(path: Path) -> None:
    journal = reopened(path)
    records = append(journal, 10)
    name = journal.uuid
    journal.apply(Transaction(discards=[(1, records[-1].id)]))
    journal.next_id += 7  # used for messages that were sent without being journaled
    expected = journal.next_id
    journal.close()
    journal = reopened(path)
    assert (journal.next_id, journal.rows, journal.size_bytes, journal.last_id()) == (expected, 0, 0, 0)
    assert journal.uuid == name
    journal.close()


def test_an_orderly_stop_leaves_no_log_behind_and_closing_twice_is_harmless(path: Path) -> None:
    journal = reopened(path)
    append(journal, 10)
    journal.close()
    journal.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        f"{path.name}{suffix}" for suffix in ("", ".closed", ".lock", ".reserve")
    ]
    assert path.with_name(f"{path.name}.reserve").stat().st_blocks * 512 >= 1 << 20


def test_times_and_held_messages_survive_a_restart(path: Path) -> None:
    journal = reopened(path)
    records = append(journal, 3, accepted_at=4242.0)
    journal.apply(Transaction(holds=[("gone", records[0])]))
    journal.close()
    journal = DbRetry(path)
    assert journal.open().taken_over == 3
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [4242.0, 4242.0]
    assert journal.held_exchanges() == {"gone": 1}
    append(journal, 1, accepted_at=4242.5)
    assert [r.accepted_at for r in journal.peek(0, 10, 1 << 20)] == [4242.0] * 3
    journal.close()


def test_a_log_that_was_laid_out_grows_no_more_and_is_read_as_any_other(path: Path) -> None:
    journal = DbRetry(path)
    journal.open()
    log = Path(f"{path}-wal")
    # What another program has just put into the log stays there.
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO tobus (id, msg) VALUES (7, '{}')")
    other.close()
    journal.lay_out_log()
    laid_out_bytes = log.stat().st_size
    journal.take_in(0, [])
    first = append(journal, 1)[0].id
    for _ in range(200):
        append(journal, 1)
    assert log.stat().st_size == laid_out_bytes == 4 << 20
    # As a kill would leave it.
    copy = path.with_name("copy.sqlite")
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    journal.close()
    again = reopened(copy)
    assert [id for id in ids(again) if id >= first] == list(range(first, first + 201))
    assert again.rows == 202
    again.close()


def test_where_the_disk_has_no_plenty_of_room_the_log_is_not_laid_out(path: Path) -> None:
    journal = DbRetry(path, free_bytes=lambda directory: 40 << 20)
    journal.open()
    journal.lay_out_log()
    assert Path(f"{path}-wal").stat().st_size < 1 << 20
    journal.close()


def test_everything_applied_is_there_after_a_kill_and_the_totals_are_exact(path: Path) -> None:
    script = """
        import sys
        from vigiloconn.interfaces import Record, RouteKey
        from vigiloconn.journal.store import Transaction, DbRetry
        journal = DbRetry(sys.argv[1])
        journal.open()
        journal.lay_out_log()
        key = RouteKey("event", None, True)
        while True:
            first = journal.next_id
            journal.next_id += 50
            records = [Record(i, key, b'{"n": %d}' % i, 1.0) for i in range(first, first + 50)]
            discards = [(1, first - 200)] if first > 200 else []
            journal.apply(Transaction(appends=records, holds=[("h", records[3])], discards=discards))
            print(records[-1].id, flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        said = [int(child.stdout.readline()) for _ in range(20)]
    finally:
        child.send_signal(signal.SIGKILL)
        # Not `communicate`, which reads past the lines that `readline` has read ahead.
        rest = child.stdout.read()
        child.wait(timeout=20)
        child.stdout.close()
    # A line that was cut short was not said.
    said += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    journal = reopened(path)
    applied = said[-1]
    expected = [i for i in range(applied - 249 + 1, applied + 1) if i % 50 != 4]
    found = ids(journal)
    done_since = found[-1] - applied  # the last transaction may have been committed and not said
    assert done_since in (0, 50)
    assert [i for i in found if i <= applied] == [i for i in expected if i >= found[0]]
    assert found[0] == applied + done_since - 50 + 1 - 200 + 1
    assert found[-1] < journal.next_id
    assert journal.next_id > CRASH_GAP_IDS  # ids that were used without being journaled are not used again
    assert_totals_are_exact(journal)
    journal.close()


# Files of others.


def twisted_file(path: Path, count: int) -> None:
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, msg TXT)")
        old.executemany("INSERT INTO tobus VALUES (NULL, ?)", [(body(i).decode(),) for i in range(1, count + 1)])
    old.close()


def test_a_twisted_file_is_taken_over_in_place_and_its_rows_come_first(path: Path) -> None:
    twisted_file(path, 4)
    journal = DbRetry(path, clock=clock(5000.0))
    report = journal.open()
    assert (report.taken_over, report.set_aside, report.problem, report.volatile) == (4, None, "", False)
    assert journal.next_id == 5
    append(journal, 2, accepted_at=6000.0)
    found = journal.peek(0, 10, 1 << 20)
    assert [r.id for r in found] == [1, 2, 3, 4, 5, 6]
    assert [r.body for r in found] == [body(i) for i in range(1, 7)]
    assert [r.accepted_at for r in found] == [5000.0] * 4 + [6000.0] * 2
    assert_totals_are_exact(journal)
    journal.close()


def test_what_waits_in_tobus_is_taken_over_into_the_table_that_the_settings_name(path: Path) -> None:
    twisted_file(path, 2500)
    journal = DbRetry(path, table="mine", clock=clock(5000.0))
    assert journal.open().taken_over == 2500
    found = journal.peek(0, 10_000, 1 << 30)
    assert [r.body for r in found] == [body(i) for i in range(1, 2501)]
    assert {r.accepted_at for r in found} == {5000.0}
    append(journal, 1)
    assert ids(journal)[-1] == 2501
    journal.close()
    with sqlite3.connect(path) as old:
        assert old.execute("SELECT count(*) FROM tobus").fetchone() == (0,)
        # The old program once more.
        old.execute("INSERT INTO tobus VALUES (NULL, ?)", (body(7).decode(),))
    old.close()
    journal = reopened(path, table="mine")
    assert journal.rows == 2502
    assert journal.peek(2501, 10, 1 << 20)[0].body == body(7)
    journal.close()
    journal = reopened(path, table="mine")
    assert journal.rows == 2502
    journal.close()


def test_a_table_tobus_of_another_make_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE tobus (x TEXT)")
        other.execute("INSERT INTO tobus VALUES ('y')")
    other.close()
    journal = reopened(path, table="mine")
    assert journal.rows == 0
    journal.close()


def test_the_old_program_can_take_the_file_back(path: Path) -> None:
    journal = reopened(path)
    append(journal, 2)
    journal.close()
    old = sqlite3.connect(path)
    ddl = old.execute("SELECT sql FROM sqlite_master WHERE name = 'tobus'").fetchone()[0]
    assert ddl.replace('"', "").endswith("tobus (id INTEGER PRIMARY KEY, msg TXT)")
    assert old.execute("SELECT id, msg, typeof(msg) FROM tobus ORDER BY id").fetchall() == [
        (1, body(1).decode(), "text"),
        (2, body(2).decode(), "text"),
    ]
    old.execute("INSERT INTO tobus VALUES (NULL, ?)", (body(3).decode(),))
    old.commit()
    old.close()


def test_rows_that_another_program_changed_are_counted_again_under_a_new_uuid(path: Path) -> None:
    journal = reopened(path, clock=clock(100.0))
    append(journal, 3, accepted_at=50.0)
    name = journal.uuid
    journal.close()
    old = sqlite3.connect(path)
    old.execute("DELETE FROM tobus")
    old.execute("INSERT INTO tobus VALUES (NULL, ?)", (body(1).decode(),))  # an id that we have used
    old.commit()
    old.close()
    journal = reopened(path, clock=clock(200.0))
    assert journal.uuid != name
    assert [(r.id, r.accepted_at) for r in journal.peek(0, 10, 1 << 20)] == [(1, 200.0)]
    assert journal.next_id == 4
    assert_totals_are_exact(journal)
    journal.close()


def test_a_file_of_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    reopened(path).close()
    raw = sqlite3.connect(path)
    raw.execute("UPDATE vigiloconn_meta SET value = '99' WHERE key = 'schema'")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match=r"newer version .*schema 99"):
        DbRetry(path).open()
    assert path.read_bytes() == before


def test_a_table_with_other_columns_is_refused_and_not_touched(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE tobus (id INTEGER PRIMARY KEY, line TEXT, day INTEGER)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match="columns id, line, day, expected id"):
        DbRetry(path).open()
    assert path.read_bytes() == before


def test_another_table_name_is_used_and_a_bad_one_is_refused(path: Path) -> None:
    journal = reopened(path, table="order")  # a keyword is a name too
    append(journal, 1)
    assert ids(journal) == [1]
    journal.close()
    for bad in ("a b", 'a"; DROP TABLE x', "", "1st", "sqlite_x", "vigiloconn_meta", "tobus\n"):
        with pytest.raises(SettingsError, match="backup_table"):
            DbRetry(path, table=bad)


def test_a_journal_in_memory_works_and_says_that_it_is_volatile() -> None:
    journal = DbRetry(":memory:")
    assert journal.open().volatile
    records = append(journal, 2)
    journal.apply(Transaction(discards=[(1, records[0].id)]))
    assert ids(journal) == [records[1].id]
    journal.close()
    assert not Path(":memory:.lock").exists()


# Owners and places.


def test_a_second_process_is_refused_with_the_owners_pid(journal: DbRetry) -> None:
    script = "import sys; from vigiloconn.journal.store import DbRetry; DbRetry(sys.argv[1]).open()"
    child = subprocess.run(
        [sys.executable, "-c", script, journal.path], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert child.returncode != 0
    assert f"is held by process {os.getpid()}: stop it" in child.stderr
    append(journal, 1)


def test_a_refused_second_owner_leaves_the_lock_with_the_first_which_frees_it_on_close(path: Path) -> None:
    first = reopened(path)
    link = path.with_name("other-name.sqlite")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StartError, match="is held by process"):
            DbRetry(name).open()
    append(first, 1)
    first.close()
    reopened(path).close()


def test_readers_are_allowed_while_the_journal_is_in_use(journal: DbRetry) -> None:
    append(journal, 2)
    reader = sqlite3.connect(journal.path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM tobus").fetchone() == (2,)
    append(journal, 2)
    reader.close()


def test_a_foreign_writer_makes_apply_say_try_later_and_costs_no_reserve(journal: DbRetry) -> None:
    records = append(journal, 2)
    foreign = sqlite3.connect(journal.path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalBusy, match="another program has locked it"):
        journal.apply(Transaction(discards=[(1, records[-1].id)]))
    foreign.close()
    assert Path(f"{journal.path}.reserve").exists()
    journal.apply(Transaction(discards=[(1, records[-1].id)]))
    assert journal.rows == 0


def test_a_missing_directory_or_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"directory .*nowhere does not exist: create it"):
        DbRetry(tmp_path / "nowhere" / "backup.sqlite").open()
    with pytest.raises(StartError, match="expected a file"):
        DbRetry(tmp_path).open()


# Damage.


def filled(path: Path, count: int = 500) -> bytes:
    journal = reopened(path)
    append(journal, count, size=200)
    journal.close()
    return path.read_bytes()


def header_gone(data: bytes) -> bytes:
    return b"\0" * 100 + data[100:]


def page_gone(data: bytes) -> bytes:
    # Every leaf of every table and index: type bytes 13 and 10 at the start of a page.
    pages = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    return b"".join(b"\xff" * 4096 if page[0] in (10, 13) and i > 0 else page for i, page in enumerate(pages))


@pytest.mark.parametrize(
    "damage",
    [
        header_gone,
        page_gone,
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2 + 77],
        lambda data: data[:50],
        lambda data: b"not a database at all\n" * 1000,
        lambda data: b"xy",
    ],
    ids=["header", "page", "half", "half-odd", "stub", "garbage", "two-bytes"],
)
def test_a_damaged_file_is_set_aside_as_it_was_and_a_fresh_one_begun(path: Path, damage: object) -> None:
    damaged = damage(filled(path))  # type: ignore[operator]
    path.write_bytes(damaged)
    journal = DbRetry(path)
    report = journal.open()
    assert report.set_aside is not None
    assert report.set_aside.name.startswith("backup.sqlite.damaged-")
    assert report.set_aside.read_bytes() == damaged
    assert report.problem
    assert "\n" not in report.problem
    assert (report.taken_over, journal.rows) == (0, 0)
    append(journal, 3)
    journal.close()
    journal = DbRetry(path)
    assert journal.open().problem == ""
    assert journal.rows == 3
    journal.close()


def test_an_empty_file_is_simply_new(path: Path) -> None:
    path.touch()
    journal = DbRetry(path)
    assert journal.open().set_aside is None
    append(journal, 1)
    journal.close()


def test_setting_aside_overwrites_no_earlier_file_and_takes_the_log_along(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vigiloconn.journal.files.time.strftime", lambda _: "20300101-000000")
    for text in (b"first", b"second", b"third"):
        path.write_bytes(text)
        Path(f"{path}-wal").write_bytes(b"log of " + text)
        reopened(path).close()
    names = [f"backup.sqlite.damaged-20300101-000000{suffix}" for suffix in ("", "-2", "-3")]
    assert [path.with_name(name).read_bytes() for name in names] == [b"first", b"second", b"third"]
    assert path.with_name(f"{names[0]}-wal").read_bytes() == b"log of first"


def test_a_log_that_sqlite_would_pass_over_in_silence_is_set_aside_with_its_file(path: Path) -> None:
    filled(path)
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(bytes(range(1, 256)) * 100)
    journal = DbRetry(path)
    report = journal.open()
    assert report.set_aside is not None
    assert Path(f"{report.set_aside}-wal").read_bytes() == bytes(range(1, 256)) * 100
    assert "write-ahead log" in report.problem
    journal.close()


def test_a_log_of_which_a_power_cut_left_nothing_but_zeros_is_an_empty_one(path: Path) -> None:
    filled(path)
    path.with_name(f"{path.name}-wal").write_bytes(bytes(4096))
    journal = DbRetry(path)
    assert journal.open().set_aside is None
    assert journal.rows > 0
    journal.close()


def test_an_empty_file_whose_log_is_not_is_set_aside(path: Path) -> None:
    path.touch()
    Path(f"{path}-wal").write_bytes(b"unread")
    journal = DbRetry(path)
    report = journal.open()
    assert report.set_aside is not None
    assert Path(f"{report.set_aside}-wal").read_bytes() == b"unread"
    journal.close()


def test_damage_found_while_running_is_told_and_a_fresh_start_keeps_ids_ascending(path: Path) -> None:
    filled(path, 10_000)  # more than the page cache holds
    journal = reopened(path)
    name, next_id = journal.uuid, journal.next_id
    path.write_bytes(page_gone(path.read_bytes()))
    with pytest.raises(JournalDamaged):
        ids(journal)
    with pytest.raises(JournalDamaged):
        journal.apply(Transaction(discards=[(1, 9000)]))
    aside = journal.start_afresh("a page is gone")
    assert aside.exists()
    assert aside.read_bytes()[:16] == b"SQLite format 3\0"
    assert journal.uuid != name
    assert journal.next_id == next_id
    assert (journal.rows, journal.size_bytes) == (0, 0)
    records = append(journal, 2)
    assert ids(journal) == [r.id for r in records]
    with pytest.raises(StartError, match="is held by process"):
        DbRetry(path).open()
    journal.close()
    assert Path(f"{path}.lock").exists()


def test_a_file_that_was_deleted_under_the_journal_is_damage(journal: DbRetry) -> None:
    append(journal, 1)
    os.unlink(journal.path)
    with pytest.raises(JournalDamaged):
        append(journal, 1)
    journal.start_afresh("deleted")
    append(journal, 1)
    assert journal.rows == 1
