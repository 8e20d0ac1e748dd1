"""Settings that a connector declares: checked like the runtime's own, and what an author's code raises in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.connector import ROOT
from vigiloconn.errors import SettingsError
from vigiloconn.options import parse_settings
from vigiloconn.settings.own import choice, flag, number, seconds, setting, text, whole

SETTINGS = (
    setting("exchange", text, "where it goes"),
    setting("period", seconds, "how often", default="10", unit="s"),
    setting("size", whole(1, 9), "how many", required=False),
    setting("mode", choice("fast", "safe"), "which way", default="safe"),
    setting("loud", flag, "whether it is heard", default="off"),
    setting("share", number(0, 1), "how much", default="0.5"),
)


def test_values_have_their_types_and_defaults() -> None:
    own = parse_settings("[connector-x]\nexchange = out\nperiod = 0.5\n", connector="x", own=SETTINGS).own
    assert own == {"exchange": "out", "period": 0.5, "size": None, "mode": "safe", "loud": False, "share": 0.5}


@pytest.mark.parametrize(("line", "error"), [
    ("", r"x.ini: \[connector-x\] exchange: expected it \(where it goes\), got none"),
    ("exchange = a\nperiode = 3", r"\[connector-x\] periode: unknown key, the nearest known one is period"),
    ("exchange = a\nsize = 10", r"\[connector-x\] size: expected a whole number from 1 to 9, got '10'"),
    ("exchange = a\nshare = 2", r"\[connector-x\] share: expected a number from 0 to 1, got '2'"),
])  # fmt: skip
def test_an_error_names_file_section_and_key(line: str, error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        parse_settings(f"[connector-x]\n{line}\n", Path("x.ini"), connector="x", own=SETTINGS)


def test_a_connector_that_declares_nothing_gets_its_section_as_text() -> None:
    assert parse_settings("[connector-x]\nanything = 1\n", connector="x").own == {"anything": "1"}


def test_keys_that_the_runtime_reads_for_every_connector_need_no_declaration() -> None:
    parse_settings("[connector-x]\nfollow = /a\n", connector="x", own=())
    with pytest.raises(SettingsError, match="unknown key, there are none"):
        parse_settings("[connector-x]\nb = /a\n", connector="x", own=())


def test_a_further_bus_has_the_keys_and_checks_of_the_first() -> None:
    settings = parse_settings("[bus]\nhosts = a\n[bus:far]\nhosts = b, c:1\nqueue = q\n", connector="x")
    assert (settings.bus.hosts, settings.buses["far"].hosts) == (("a",), ("b", "c:1"))
    assert settings.buses["far"].prefetch_count == 500
    with pytest.raises(SettingsError, match=r"\[bus:far\] qeue: unknown key, the nearest known one is queue"):
        parse_settings("[bus:far]\nqeue = q\n", connector="x")
    with pytest.raises(SettingsError, match=r"\[bus:far\] auth: external needs TLS"):
        parse_settings("[bus:far]\nauth = external\n", connector="x")


def run(tmp_path: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    (tmp_path / "s.ini").write_text(f"[connector]\nbackup_file = {tmp_path}/j.sqlite\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "vigiloconn", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.mark.parametrize(("body", "status", "error"), [
    ("int('ten')", 2, "mine can't be built: ValueError: invalid literal for int() with base 10: 'ten'"),
    ("open('/no/such/file')", 1, "mine can't be built: FileNotFoundError"),
])  # fmt: skip
def test_what_build_raises_is_one_line_and_a_status(tmp_path: Path, body: str, status: int, error: str) -> None:
    done = run(tmp_path, f"def build(settings, supervisor):\n    {body}\n", "check", "mine:build", "-c", "s.ini")
    assert done.returncode == status
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "mine.py:2 build" in done.stderr


def test_what_start_service_raises_is_one_line_and_a_status(tmp_path: Path) -> None:
    source = (
        "import socket\nfrom vigiloconn.handlers.base import Handler\n"
        "class Busy(Handler):\n    def start_service(self):\n        raise OSError(98, 'Address already in use')\n"
        "def build(settings, supervisor):\n    supervisor.add(Busy())\n"
    )
    done = run(tmp_path, source, "run", "mine:build", "-c", "s.ini", "-l", "info")
    assert done.returncode == 1
    assert "Address already in use; at mine.py:5 start_service" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_of_settings_is_printed_from_the_declaration(tmp_path: Path) -> None:
    source = (
        "from vigiloconn.settings.own import seconds, setting\n"
        "SETTINGS = (setting('period', seconds, 'how often', default='10', unit='s'),)\n"
        "def build(settings, supervisor):\n    pass\n"
    )
    done = run(tmp_path, source, "settings", "mine:build")
    assert done.returncode == 0
    assert "| `period` | how often | `10` s |" in done.stdout
