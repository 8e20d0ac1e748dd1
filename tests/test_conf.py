"""What stands in `conf/` is read by what will read it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vigiloconn.options import load_settings
from vigiloconn.settings import paths

CONF = Path(__file__).parent.parent / "conf"
UNIT = CONF / "vigilo-connector-nagios.service"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def test_the_example_settings_are_the_defaults() -> None:
    example, defaults = load_settings(CONF / "settings.ini"), load_settings("/dev/null")
    assert (example.bus, example.runtime, example.nagios) == (defaults.bus, defaults.runtime, defaults.nagios)


def test_every_line_that_the_example_offers_is_valid(tmp_path: Path) -> None:
    text = (CONF / "settings.ini").read_text(encoding="utf-8")
    opened, count = re.subn(r"^;(?=\w+ = )", "", text, flags=re.MULTILINE)
    assert count > 20
    assert not re.search(r"^;", opened, re.MULTILINE)
    file = tmp_path / "settings.ini"
    file.write_text(opened, encoding="utf-8")
    settings = load_settings(file)
    assert settings.nagios.accepted_commands == ("PROCESS_SERVICE_CHECK_RESULT", "PROCESS_HOST_CHECK_RESULT")
    assert settings.publication("perf").ttl_s == 86400


def test_the_topology_has_an_exchange_and_a_queue_for_each_type() -> None:
    ini = configparser.RawConfigParser()
    ini.read(CONF / "bus.ini", encoding="utf-8")
    exchanges, bound = {}, {}
    for section in ini.sections():
        kind, _, name = section.partition(":")
        assert kind in ("exchange", "binding"), section
        if kind == "exchange":
            assert set(ini[section]) <= {"type"}
            exchanges[name] = ini[section].get("type", "fanout")
        else:
            assert {"exchange", "queue"} <= set(ini[section]) <= {"exchange", "queue", "key"}
            bound[ini[section]["exchange"]] = ini[section]["queue"]
    assert exchanges == dict.fromkeys(("event", "perf", "state", "nagios"), "fanout")
    assert set(bound) == set(exchanges)


def unit_settings() -> dict[str, dict[str, list[str]]]:
    """Return section -> key -> values of the unit."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current.setdefault(key, []).append(value)
    return sections


def test_the_unit_starts_again_after_crashes_and_not_after_wrong_settings() -> None:
    service = unit_settings()["Service"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]
    assert service["ExecStart"][0].endswith("/vigilo-connector run nagios")
    assert service["StateDirectory"] == ["vigilo/connector-nagios"]


def test_the_unit_runs_nothing_that_a_small_debian_lacks() -> None:
    service = unit_settings()["Service"]
    programs = {value.split()[0] for key, values in service.items() if key.startswith("Exec") for value in values}
    # Even `kill` is a program of a package that may be missing; the shell has one of its own.
    assert programs <= {"/bin/sh", "/usr/local/bin/vigilo-connector"}


def test_what_the_readme_installs_is_where_the_unit_and_the_program_look() -> None:
    readme = (CONF.parent / "README.md").read_text(encoding="utf-8")
    commands = readme.partition("## Install\n")[2].partition("\nAs root")[0]
    service = unit_settings()["Service"]
    folder = Path(service["ExecStart"][0].split()[0]).parent
    assert f"/bin/vigilo-connector /opt/vigiloconn/bin/vigilo-bus-config {folder}/\n" in commands
    assert f"-m 640 -g {service['Group'][0]} conf/settings.ini {paths.default_settings('nagios')}" in commands
    assert f"adduser --system --group --no-create-home --home /var/lib/nagios4 {service['User'][0]}\n" in commands
    for file in re.findall(r"conf/\S+", commands):
        assert (CONF.parent / file).is_file()


def test_the_unit_waits_longer_than_the_connector_may_take_to_stop() -> None:
    stop_timeout_s = load_settings("/dev/null").runtime.stop_timeout_s
    assert float(unit_settings()["Service"]["TimeoutStopSec"][0]) > 2 * stop_timeout_s


def test_the_unit_may_give_its_socket_to_a_group() -> None:
    # `@privileged` holds chown, so it has to be allowed again behind it.
    filters = unit_settings()["Service"]["SystemCallFilter"]
    assert filters.index("@chown") > next(i for i, each in enumerate(filters) if "@privileged" in each)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    file = tmp_path / UNIT.name
    # The program need not be installed where the tests run.
    file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, timeout=60, check=False)
    # An unknown key is only a line on stderr. Other units of the machine are not ours to judge.
    assert [line for line in done.stderr.splitlines() if UNIT.name in line or str(tmp_path) in line] == []
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", file],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]
