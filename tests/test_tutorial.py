"""The tutorial is true: its files are written, its commands run, and their outputs are what it says.

A block is a file when the text before it ends in `` `NAME`: ``. In a console block, lines after a command are its
output, with `...` for anything. A command that only looks (cat, grep, tail) is repeated until it shows that. One that
ends in `&` goes on in the background until `kill %N`, numbered as shells do it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import children
from tests.support.connector import ROOT
from tests.support.rabbit import RabbitNode
from tests.support.wait import wait_until

_TUTORIAL = ROOT / "docs" / "tutorial.md"
_LOOKS = ("cat", "grep", "tail")
_DEADLINE_S = 60


class Block(NamedTuple):
    """A fenced block of the page."""

    before: str
    kind: str
    text: str


def blocks(page: Path = _TUTORIAL) -> list[Block]:
    found = re.findall(r"(.*?)^```(\w+)\n(.*?)^```\n", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(*parts) for parts in found]


def commands(text: str) -> list[tuple[str, str]]:
    """Return (command, expected output) of a console block."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.M)
    assert parts[0] == ""
    return list(zip(parts[1::2], parts[2::2], strict=True))


def is_as_expected(output: str, expected: str) -> bool:
    pattern = re.escape(expected).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, output) is not None


class Shell:
    """A directory, a PATH with the programs, and what runs in the background."""

    def __init__(self, directory: Path, programs: Path, broker: str) -> None:
        self.directory = directory
        self.looks = _LOOKS
        """Commands that are repeated until they show what is expected."""
        self._broker = broker
        self._jobs: dict[int, subprocess.Popen[bytes]] = {}
        for name, target in (("python", []), ("vigilo-connector", [str(ROOT / "bin" / "vigilo-connector")])):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *target])} "$@"\n')
            program.chmod(0o755)
        # Where the library lies, and nothing of the tutorial's own directory: that is for the program to find.
        self._env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def write(self, name: str, text: str) -> None:
        text = text.replace("localhost\n", self._broker.removeprefix("hosts = "))
        (self.directory / name).write_text(text, encoding="utf-8")

    def run(self, command: str, expected: str) -> None:
        if command.endswith("&"):
            argv = ["sh", "-c", f"exec {command.removesuffix('&')}"]
            number = max(self._jobs, default=0) + 1
            self._jobs[number] = children.spawn(argv, env=self._env, cwd=self.directory)
        elif command.startswith("kill %"):
            children.end(self._jobs.pop(int(command.removeprefix("kill %"))), grace_s=_DEADLINE_S)
        elif command.startswith(self.looks):
            self._look_until(command, expected)
        else:
            output = self._output(command)
            assert is_as_expected(output, expected), f"$ {command}\n{output}\nexpected:\n{expected}{self._logs()}"

    def close(self) -> None:
        for job in self._jobs.values():
            children.end(job)

    def _output(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self._env, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_DEADLINE_S,
        )  # fmt: skip
        return done.stdout

    def _look_until(self, command: str, expected: str) -> None:
        try:
            wait_until(lambda: is_as_expected(self._output(command), expected), _DEADLINE_S, f"$ {command}", 0.1)
        except AssertionError as exc:
            output = self._output(command)
            raise AssertionError(f"{exc}\n{output}\nexpected:\n{expected}{self._logs()}") from None

    def _logs(self) -> str:
        return "\n".join(f"\n{path.name}:\n{path.read_text()}" for path in self.directory.glob("*.log"))


@pytest.fixture
def shell(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Shell]:
    directory, programs = tmp_path / "work", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    made = Shell(directory, programs, f"hosts = {rabbit.address}\nvhost = {vhost}\n")
    yield made
    made.close()


def test_the_tutorial_does_what_it_says(shell: Shell) -> None:
    files, ran = [], []
    for block in blocks():
        named = re.search(r"`([\w.]+)`[^`]*:\n\n\Z", block.before)
        if block.kind == "console":
            for command, expected in commands(block.text):
                shell.run(command, expected)
                ran.append(command)
        elif named:
            shell.write(named[1], block.text)
            files.append(named[1])
    # The page was understood, and nothing of it was skipped.
    pager = ["pager.py", "settings.ini"]
    assert files == [*pager, "publish.py", *pager, "dead.py", "disk.py", "disk.ini"]
    assert len([command for command in ran if command.startswith("vigilo-connector run")]) == 3
