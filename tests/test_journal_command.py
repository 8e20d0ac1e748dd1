"""`vigilo-connector journal` on a file on which no connector runs, by its command line."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.connector import ROOT
from tests.support.journals import assert_totals_are_exact, held_ids, ids, reopened
from tests.support.user import as_nobody
from vigiloconn.cli import journal as command
from vigiloconn.interfaces import Record, RouteKey
from vigiloconn.journal.transaction import Transaction
from vigiloconn.kit.progress import Progress

KEY = RouteKey("event", None, True)
Out = pytest.CaptureFixture[str]


def body(number: int) -> bytes:
    return b'{"type":"event","n":%d}' % number


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A journal with 5 waiting, 3 held and 4 parked messages."""
    journal = reopened(tmp_path / "backup.sqlite")
    records = [Record(n, KEY, body(n), 1000.0 + n) for n in range(1, 13)]
    journal.apply(Transaction(appends=records))
    journal.apply(Transaction(
        holds=[("events", record) for record in records[5:8]],
        parks=[("events", record, "nobody is bound" if n else "too long") for n, record in enumerate(records[8:])],
    ))  # fmt: skip
    journal.close()
    (tmp_path / "settings.ini").write_text(f"[connector]\nbackup_file = {tmp_path}/backup.sqlite\n")
    return tmp_path


def run(place: Path, *arguments: str) -> int:
    return command.main(["journal", *arguments, "--config", f"{place}/settings.ini"])


def test_count_says_what_is_where_and_why(place: Path, capsys: Out) -> None:
    assert run(place, "count") == 0
    out, err = capsys.readouterr()
    assert "waiting: 5 messages" in out
    assert "3 for exchange events" in out
    assert "3 for events: nobody is bound" in out
    assert "no connector runs on it" in err


def test_who_may_not_see_the_lock_is_not_told_that_no_connector_runs(capsys: Out) -> None:
    # In a directory that others may enter: those of a test are their owner's alone.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "settings.ini").write_text(f"[connector]\nbackup_file = {place}/backup.sqlite\n")
        for file in (place / "backup.sqlite", place / "backup.sqlite.lock"):
            file.touch(mode=0o000)
        with as_nobody():
            assert run(place, "count") == 1
    err = capsys.readouterr().err
    assert "this user can't see whether a connector runs on it" in err
    assert "can't be read: Permission denied: be root or the connector's user" in err


def test_list_and_show_tell_of_one_message(place: Path, capsys: Out) -> None:
    assert run(place, "list", "--parked", "--reason", "too long") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["9", "parked"]
    assert run(place, "show", "7") == 0
    assert '"n":7' in capsys.readouterr().out
    assert run(place, "show", "99") == 1


def test_retried_messages_wait_under_new_numbers_with_the_time_of_their_first_acceptance(place: Path) -> None:
    assert run(place, "retry", "--all", "--reason", "nobody") == 0
    journal = reopened(place / "backup.sqlite")
    rows = journal.peek(5, 100, 1 << 20)
    parked = [row.id for row in journal.parked()]
    assert_totals_are_exact(journal)
    journal.close()
    assert [row.body for row in rows] == [body(n) for n in (10, 11, 12)]
    assert all(row.id > 12 for row in rows)
    assert [row.accepted_at for row in rows] == [1010.0, 1011.0, 1012.0]
    assert parked == [9]


def test_an_id_that_is_not_parked_is_said_and_the_others_are_retried(place: Path, capsys: Out) -> None:
    assert run(place, "retry", "9", "1") == 1
    out, err = capsys.readouterr()
    assert "1 messages to be sent again" in out
    assert "1 are not there" in err


def test_held_messages_move_to_the_exchange_that_is_named(place: Path) -> None:
    assert run(place, "move", "--from", "events", "--to", "others") == 0
    journal = reopened(place / "backup.sqlite")
    found = held_ids(journal, "others"), held_ids(journal, "events")
    assert_totals_are_exact(journal)
    journal.close()
    assert found == ([6, 7, 8], [])


def test_held_messages_move_by_default_where_the_settings_send_their_type(place: Path) -> None:
    with open(place / "settings.ini", "a") as settings:
        settings.write("[publications]\nevent = newplace\n")
    assert run(place, "move", "--from", "events") == 0
    journal = reopened(place / "backup.sqlite")
    found = journal.held_exchanges()
    journal.close()
    assert found == {"newplace": 3}


def test_discard_deletes_nothing_without_yes_and_what_is_named_with_it(place: Path, capsys: Out) -> None:
    assert run(place, "discard", "--held", "--all") == 2
    assert "3 held messages would be deleted" in capsys.readouterr().err
    for arguments in (("--held", "--all"), ("--waiting", "1", "2"), ("--parked", "--older-than", "7d")):
        assert run(place, "discard", *arguments, "--yes") == 0
    journal = reopened(place / "backup.sqlite")
    left = ids(journal), journal.held_exchanges(), journal.parked_rows
    assert_totals_are_exact(journal)
    journal.close()
    assert left == ([3, 4, 5], {}, 0)


@pytest.mark.parametrize(("arguments", "said"), [
    (("retry", "--all"), "interrupted: 4 messages to be sent again so far"),
    (("import", "lines"), "interrupted: 2 messages imported so far"),
    (("verify",), "interrupted"),
])  # fmt: skip
def test_an_interrupted_change_says_how_much_is_done(
    place: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert run(place, "export", "--parked") == 0
    (place / "lines").write_text("".join(capsys.readouterr().out.splitlines(keepends=True)[:2]))
    monkeypatch.chdir(place)
    monkeypatch.setattr(Progress, "did", interrupt)
    assert run(place, *arguments) == 1
    assert said in capsys.readouterr().err


def test_what_is_exported_is_imported_elsewhere_with_its_times(
    place: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(place, "export") == 0
    (place / "lines").write_bytes(capsysbinary.readouterr().out + b"garbage\n")
    other = place / "other"
    other.mkdir()
    reopened(other / "backup.sqlite").close()
    (other / "settings.ini").write_text(f"[connector]\nbackup_file = {other}/backup.sqlite\n")
    assert run(other, "import", str(place / "lines")) == 1
    out, err = capsysbinary.readouterr()
    assert b"12 messages imported" in out
    assert b"line 13" in err
    journal = reopened(other / "backup.sqlite")
    rows = journal.peek(0, 100, 1 << 20)
    parked = [(row.reason, row.body) for row in journal.parked()]
    assert_totals_are_exact(journal)
    journal.close()
    assert [(row.body, row.accepted_at) for row in rows] == [(body(n), 1000.0 + n) for n in range(1, 9)]
    assert parked == [("too long", body(9)), *(("nobody is bound", body(n)) for n in (10, 11, 12))]


@pytest.mark.parametrize("verb", ["import", "salvage"])
def test_what_an_interrupted_run_has_put_back_is_not_put_back_again(
    place: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    source = tmp_path / "source"
    old = reopened(source)
    old.apply(Transaction(appends=[Record(n, KEY, body(n), 1000.0) for n in range(1, 2001)]))
    old.close()
    if verb == "import":
        lines = [b'{"table":"waiting","id":%d,"message":%s}\n' % (n, body(n)) for n in range(1, 2001)]
        source.write_bytes(b"".join(lines))
    told = Progress.did

    def stop(self: Progress, count: int) -> None:
        told(self, count)
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "did", stop)
    assert run(place, verb, str(source)) == 1
    monkeypatch.setattr(Progress, "did", told)
    assert run(place, verb, str(source)) == 0
    assert "500 messages were" in capsys.readouterr().err
    journal = reopened(place / "backup.sqlite")
    found = [json.loads(row.body)["n"] for row in journal.peek(0, 5000, 1 << 30)]
    assert found == [*range(1, 6), *range(1, 2001)]
    assert journal.kept("put-back:") == {}
    assert_totals_are_exact(journal)
    journal.close()


def test_a_finished_import_can_be_made_again(place: Path, tmp_path: Path, capsys: Out) -> None:
    source = tmp_path / "source"
    source.write_bytes(b'{"table":"waiting","id":1,"message":%s}\n' % body(1))
    for _ in range(2):
        assert run(place, "import", str(source)) == 0
        assert capsys.readouterr().out == "1 messages imported\n"


def test_verify_names_what_is_no_message_and_what_the_file_has_lost(place: Path, capsys: Out) -> None:
    assert run(place, "verify") == 0
    with sqlite3.connect(place / "backup.sqlite") as outside:
        outside.execute("UPDATE tobus SET msg = 'no message' WHERE id = 3")
    outside.close()
    assert run(place, "verify") == 1
    assert "waiting: 3 is no JSON object" in capsys.readouterr().err


def test_all_rows_outside_of_bad_pages_are_salvaged_from_both_sides_of_them(tmp_path: Path, capsys: Out) -> None:
    damaged = tmp_path / "damaged"
    journal = reopened(damaged)
    journal.apply(Transaction(appends=[
        Record(n, KEY, b'{"type":"event","n":%d,"t":"%s"}' % (n, b"x" * 300), 1000.0) for n in range(1, 2001)
    ]))  # fmt: skip
    journal.close()
    with damaged.open("r+b") as file:
        size = damaged.stat().st_size
        for page in random.Random(1).sample(range(40, size // 4096 - 20), 3):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    reopened(tmp_path / "backup.sqlite").close()
    (tmp_path / "settings.ini").write_text(f"[connector]\nbackup_file = {tmp_path}/backup.sqlite\n")
    assert run(tmp_path, "salvage", str(damaged)) == 1
    err = capsys.readouterr().err
    assert "can't be read: waiting: id" in err
    journal = reopened(tmp_path / "backup.sqlite")
    found = {json.loads(row.body)["n"] for row in journal.peek(0, 5000, 1 << 30)}
    journal.close()
    # A page has some twelve of these rows.
    assert 1900 < len(found) < 2000
    assert {1, 2000} <= found


def test_a_bar_is_shown_on_no_pipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    assert run(place, "count") == 0
    assert "\r" not in told.getvalue()


def test_a_journal_that_is_not_there_is_no_traceback(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "settings.ini").write_text(f"[connector]\nbackup_file = {tmp_path}/none.sqlite\n")
    for arguments in (("count",), ("retry", "--all")):
        assert run(tmp_path, *arguments) == 1
        assert "there is none" in capsys.readouterr().err
    assert not (tmp_path / "none.sqlite").exists()


def test_what_is_no_file_is_said_in_one_line(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "settings.ini").write_text(f"[connector]\nbackup_file = {tmp_path}/backup.sqlite\n")
    for make in (os.mkdir, os.mkfifo):
        make(tmp_path / "backup.sqlite")
        for words in (["count"], ["verify"], ["retry", "--all"]):
            assert run(tmp_path, *words) == 1
            assert "expected a file, found something else" in capsys.readouterr().err.splitlines()[-1]
        os.rename(tmp_path / "backup.sqlite", tmp_path / f"old-{make.__name__}")


@pytest.mark.parametrize("words", [["count"], ["export"]])
def test_output_that_finds_no_room_is_one_line_and_status_1(place: Path, words: list[str]) -> None:
    argv = [sys.executable, "-m", "vigiloconn", "journal", *words, "--config", f"{place}/settings.ini"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 1
    assert "standard output can't be written: No space left" in done.stderr
    assert "Traceback" not in done.stderr
