"""A transaction around a block, on a real file of SQLite's: what is committed, what is undone, what comes out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from vigiloconn.errors import JournalBusy, OutsideChange
from vigiloconn.journal.begun import Begun, Translated


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "file", isolation_level=None, timeout=0.0)
    made.execute("CREATE TABLE rows (id INTEGER)")
    yield made
    made.close()


def rows(connection: sqlite3.Connection) -> list[int]:
    assert not connection.in_transaction
    return [id for (id,) in connection.execute("SELECT id FROM rows")]


def test_a_block_is_committed_at_its_end(connection: sqlite3.Connection, tmp_path: Path) -> None:
    with Begun(connection, Translated(tmp_path)):
        connection.execute("INSERT INTO rows VALUES (1)")
    assert rows(connection) == [1]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_whatever_is_raised_undoes_the_block(
    connection: sqlite3.Connection, tmp_path: Path, error: BaseException
) -> None:
    def fail() -> None:
        with Begun(connection, Translated(tmp_path)):
            connection.execute("INSERT INTO rows VALUES (1)")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert rows(connection) == []


def test_a_look_that_fails_begins_nothing_and_is_no_failure_of_the_block(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    failures: list[int] = []

    def look() -> None:
        raise OutsideChange("another program has written")

    with pytest.raises(OutsideChange), Begun(connection, Translated(tmp_path), look, lambda: failures.append(1)):
        pytest.fail("the block is not to be entered")
    assert (rows(connection), failures) == ([], [])


def test_an_error_of_sqlite_comes_out_as_ours_and_the_failure_is_told(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    failures: list[int] = []
    with pytest.raises(JournalBusy), Begun(connection, Translated(tmp_path), failed=lambda: failures.append(1)):
        raise locked(tmp_path)
    assert (rows(connection), failures) == ([], [1])


def locked(directory: Path) -> sqlite3.Error:
    """Return the error of a file that another connection has locked."""
    one, other = (sqlite3.connect(directory / "other", isolation_level=None, timeout=0.0) for _ in range(2))
    try:
        one.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as exc:
        return exc
    finally:
        one.close()
        other.close()
    raise AssertionError("two have begun")
