"""The script that installs RabbitMQ, with stand-ins for apt and its neighbours: what it changes and what it leaves."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.support.connector import ROOT

SCRIPT = ROOT / "tests" / "support" / "install-rabbitmq.sh"


class Machine:
    """Paths of a machine that has no RabbitMQ, and programs that write down how they were called."""

    def __init__(self, root: Path) -> None:
        self.prefix = root / "rabbitmq"
        self.policy = root / "policy-rc.d"
        self.calls = root / "calls"
        self._bin = root / "bin"
        self._bin.mkdir()
        broker = self.prefix / "rabbitmq_server-3.10.8" / "sbin" / "rabbitmq-server"
        self.program("id", "echo 0")
        self.program("systemctl", "")
        self.program("apt-get", f"""
            if [ -x {self.policy} ]; then echo "policy $({self.policy}; echo $?)" >>{self.calls}; fi
            case "$*" in *install*) mkdir -p {broker.parent}; printf '#!/bin/sh\\n' >{broker}; chmod 755 {broker};; esac
        """)

    def program(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{textwrap.dedent(text)}\n')
        path.chmod(0o755)

    def own_policy(self, status: int) -> str:
        text = f"#!/bin/sh\nexit {status}\n"
        self.policy.write_text(text)
        self.policy.chmod(0o755)
        return text

    def install(self) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self._bin}:/usr/bin:/bin"}
        env |= {"RABBITMQ_PREFIX": str(self.prefix), "POLICY_RC_D": str(self.policy)}
        return subprocess.run(["sh", str(SCRIPT)], env=env, capture_output=True, text=True, timeout=30, check=False)

    def called(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_service_starts_are_forbidden_during_the_installation_only(machine: Machine) -> None:
    done = machine.install()
    assert done.returncode == 0, done.stderr
    called = machine.called()
    assert called.count("policy 101") == 2
    assert "install -y --no-install-recommends rabbitmq-server" in called
    assert "systemctl disable -q rabbitmq-server.service" in called
    assert not machine.policy.exists()


def test_the_machines_own_policy_stays_as_it_is(machine: Machine) -> None:
    text = machine.own_policy(101)
    assert machine.install().returncode == 0
    assert machine.policy.read_text() == text


def test_nothing_is_installed_where_the_machines_policy_lets_services_start(machine: Machine) -> None:
    text = machine.own_policy(0)
    done = machine.install()
    assert done.returncode == 1
    assert "lets services start" in done.stderr
    assert "apt-get" not in machine.called()
    assert machine.policy.read_text() == text


def test_nothing_is_called_when_rabbitmq_is_there(machine: Machine) -> None:
    assert machine.install().returncode == 0
    machine.calls.unlink()
    done = machine.install()
    assert (done.returncode, done.stdout, done.stderr, machine.called()) == (0, "", "", "")


def test_failed_installation_shows_apts_words_and_leaves_no_policy(machine: Machine) -> None:
    machine.program("apt-get", "echo 'E: no network'; exit 100")
    done = machine.install()
    assert done.returncode == 1
    assert "E: no network" in done.stderr
    assert "apt-get update failed" in done.stderr
    assert not machine.policy.exists()


def test_other_users_than_root_are_told_what_to_install(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    done = machine.install()
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends rabbitmq-server" in done.stderr
    assert "apt-get" not in machine.called()
