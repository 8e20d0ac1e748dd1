"""Distributed configuration: what is in force while files change, break, vanish and come back."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import peewee
import pytest

from vigiloconn.conffile import BadFile, ConfDB, ConfFile, ConfFileJSON, NagiosConfFile
from vigiloconn.connectors.nagios import build
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Supervisor

HOSTS = "define host {\n\thost_name\tsrv1\n}\ndefine service {\n  host_name   srv2,srv3 ; comment\n  host_namex no\n}\n"


def until(condition: Callable[[], object], what: str) -> None:
    """Let greenlets run until the condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within 20 s"
        gevent.sleep(0.005)


Run = Callable[[ConfFile[Any]], None]


@pytest.fixture
def run() -> Iterator[Run]:
    lives: list[tuple[ConfFile[Any], gevent.Greenlet[..., Any]]] = []

    def start(file: ConfFile[Any]) -> None:
        file.start_service()
        lives.append((file, gevent.spawn(file.run)))

    yield start
    for file, life in lives:
        file.stop_service()
        life.join(10)
        assert life.dead
        life.get()


def replace(path: Path, text: str | bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    new.rename(path)


def make_database(path: Path, *rows: str) -> None:
    new = path.with_name("new")
    new.unlink(missing_ok=True)
    with sqlite3.connect(new) as database:
        database.execute("CREATE TABLE host (name TEXT)")
        database.executemany("INSERT INTO host VALUES (?)", [(row,) for row in rows])
    database.close()
    new.rename(path)


def test_json_is_read_at_the_start_and_again_when_it_was_replaced_or_rewritten(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.json"
    path.write_text('{"a": 1}')
    changes: list[int] = []
    file = ConfFileJSON(path, poll_s=0.01, on_change=lambda: changes.append(1))
    run(file)
    assert file.data == {"a": 1}
    replace(path, '{"a": 2}')
    until(lambda: file.data == {"a": 2}, "the replaced file is read")
    path.write_text("[3]")
    until(lambda: file.data == [3], "the rewritten file is read")
    assert file.problems() == []
    assert len(changes) == file.stats()["conf_loads"] >= 3


@pytest.mark.parametrize("broken", [b"", b'{"a": ', b"\xff", b"[" * 100_000])
def test_a_broken_file_keeps_what_was_in_force_and_says_so(
    broken: bytes, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "conf.json"
    path.write_text('{"a": 1}')
    file = ConfFileJSON(path, poll_s=0.01)
    run(file)
    replace(path, broken)
    until(file.problems, "the problem is seen")
    assert file.data == {"a": 1}
    [(_, level, text, _)] = file.problems()
    assert level == 1
    assert str(path) in text
    assert "stays in force" in text
    assert caplog.text.count("stays in force") == 1
    replace(path, '{"a": 2}')
    until(lambda: file.data == {"a": 2}, "the cured file is read")
    assert file.problems() == []


def test_a_file_that_vanishes_keeps_what_was_in_force_and_one_that_appears_is_read(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.json"
    file = ConfFileJSON(path, poll_s=0.01)
    run(file)
    assert file.data is None
    assert "nothing in force" in file.problems()[0].text
    path.write_text("[1]")
    until(lambda: file.data == [1], "the file that appeared is read")
    path.unlink()
    until(file.problems, "its absence is seen")
    assert file.data == [1]


def test_a_reload_reads_at_once_whatever_the_file_looks_like(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.json"
    path.write_text("[1]")
    file = ConfFileJSON(path, poll_s=3600)
    run(file)
    path.write_text("[2]")
    gevent.sleep(0)
    assert file.data == [1]
    file.reload()
    until(lambda: file.data == [2], "it is read")


def test_a_file_that_can_not_be_read_is_a_line_in_the_log_and_no_traceback_beside_it(
    tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    file = ConfFileJSON(tmp_path / "missing", poll_s=60)
    run(file)
    file.reload()
    until(lambda: file.failures == 2, "the reload failed")

    assert "Traceback" not in capfd.readouterr().err


def test_a_file_in_the_middle_of_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts.cfg"
    path.write_text("host_name a\nhost_name b\n")
    file = NagiosConfFile(path)
    file.load()
    for number in range(5):
        path.write_text("host_name a\n" * (number + 1))
        assert not file._is_changed(), "it has not come to rest"
    assert file._is_changed()


def test_reading_leaves_other_greenlets_running(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "slow"
    path.write_text("x")
    turns: list[float] = []

    class Slow(ConfFile[str]):
        def read(self) -> str:
            time.sleep(0.2)
            return self.path.read_text()

    file = Slow(path, poll_s=0.01)
    run(file)
    ticker = gevent.spawn(lambda: [(gevent.sleep(0.01), turns.append(file.loads)) for _ in range(2000)])
    replace(path, "y")
    until(lambda: file.data == "y", "it is read")
    ticker.kill()
    assert turns.count(1) > 1


def test_the_hosts_of_nagios_are_found_in_object_files(tmp_path: Path) -> None:
    path = tmp_path / "objects.cache"
    path.write_bytes(HOSTS.encode() + "host_name hôte\n".encode("iso-8859-15"))
    hosts = NagiosConfFile(path)
    assert hosts.load()
    assert hosts.data == {"srv1", "srv2", "srv3", "hôte"}
    assert hosts.has_host("srv1")
    assert not hosts.has_host("SRV1")
    assert not hosts.has_host("no")
    assert hosts.problems() == []


def test_without_a_readable_file_every_host_passes_with_a_warning(run: Run) -> None:
    hosts = NagiosConfFile("/nonexistent/hosts.cfg", poll_s=0.01)
    run(hosts)
    hosts.reload()
    gevent.sleep(0.05)
    assert hosts.has_host("anything")
    [(_, level, text, _)] = hosts.problems()
    assert level == 1
    assert "all hosts pass" in text


def test_without_nagios_config_the_connector_has_no_filter_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    supervisor = Supervisor()
    build(parse_settings("[bus]\nqueue = q\n[connector-nagios]\nnagios_pipe = /nonexistent/nagios.cmd\n"), supervisor)
    assert not [handler for handler in supervisor.handlers if isinstance(handler, NagiosConfFile)]
    assert "messages of all hosts pass to Nagios" in caplog.text


def test_a_host_file_that_loses_its_hosts_keeps_the_filter(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "hosts.cfg"
    path.write_text(HOSTS)
    hosts = NagiosConfFile(path, poll_s=0.01)
    run(hosts)
    path.write_text("# nothing any more\n")
    until(hosts.problems, "the problem is seen")
    assert hosts.has_host("srv1")
    assert not hosts.has_host("other")
    path.write_text("host_name other\n")
    until(lambda: hosts.has_host("other"), "the new host is known")
    assert not hosts.has_host("srv1")


def test_a_database_is_read_through_peewee_and_again_when_another_process_replaced_it(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.db"
    make_database(path, "a", "b")
    conf = ConfDB(path, poll_s=0.01)
    run(conf)
    assert conf.query("SELECT name FROM host ORDER BY name") == [("a",), ("b",)]
    assert conf.query("SELECT count(*) FROM host WHERE name = ?", "a") == [(1,)]

    class Host(peewee.Model):
        name = peewee.TextField(primary_key=True)

    with Host.bind_ctx(conf.data):
        assert [host.name for host in Host.select().order_by(Host.name)] == ["a", "b"]
    make_database(path, "c")
    until(lambda: conf.query("SELECT name FROM host") == [("c",)], "the new database is in force")


def test_a_database_in_wal_mode_is_followed_while_its_writer_keeps_it_open(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.db"
    make_database(path, "a")
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    conf = ConfDB(path, poll_s=0.01)
    run(conf)
    writer.execute("INSERT INTO host VALUES ('b')")
    writer.commit()
    until(lambda: conf.query("SELECT count(*) FROM host") == [(2,)], "the commit is seen")
    writer.close()


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("# made by icinga2 object list\nweb1\n\n  db 2.example.com \r\nweb1\n", {"web1", "db 2.example.com"}),
        ("define-me\nhost_names\n", {"define-me", "host_names"}),
        ("define host {\n  host_name web1,db2\n  address x\n}\n", {"web1", "db2"}),
    ],
)
def test_list_of_names_is_a_list_of_hosts_where_nothing_is_defined(text: str, hosts: set[str], tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    assert NagiosConfFile(path).read() == hosts


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "define timeperiod {\n  timeperiod_name always\n}\n"])
def test_file_without_a_host_is_broken(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(BadFile, match="or a plain list of names, found none"):
        NagiosConfFile(path).read()


@pytest.mark.parametrize("broken", [b"not a database, but long enough to look like something else entirely" * 20, b""])
def test_a_broken_database_keeps_the_old_one(broken: bytes, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "conf.db"
    make_database(path, "a")
    conf = ConfDB(path, poll_s=0.01)
    run(conf)
    replace(path, broken)
    until(conf.problems, "the problem is seen")
    assert conf.query("SELECT name FROM host") == [("a",)]
    path.unlink()
    until(lambda: "No such file" in json.dumps(conf.problems()), "its absence is seen")
    assert conf.query("SELECT name FROM host") == [("a",)]
    assert not os.listdir(tmp_path), "reading makes no file"


def test_a_question_that_the_database_can_not_answer_is_an_error_of_ours(tmp_path: Path) -> None:
    conf = ConfDB(tmp_path / "conf.db")
    assert not conf.load()
    with pytest.raises(BadFile, match="No such file"):
        conf.query("SELECT 1")
    make_database(conf.path, "a")
    assert conf.load()
    with pytest.raises(BadFile, match="no such table"):
        conf.query("SELECT * FROM service")
