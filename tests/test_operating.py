"""The operator's page is true: the commands of its stories are run in order, and print what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connector import ROOT
from tests.support.rabbit import RabbitNode
from tests.test_tutorial import Shell, blocks, commands

PAGE = ROOT / "docs" / "operating.md"


_NEEDS_MOUNT = "The disk is full"


@pytest.fixture
def shell(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Shell]:
    directory, programs = tmp_path / "work", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    made = Shell(directory, programs, f"hosts = {rabbit.address}\nvhost = {vhost}\n")
    made.looks += ("vigilo-connector journal count", "vigilo-connector status", "vigilo-bus-config dead list")
    # The page's broker is that of localhost.
    argv = [sys.executable, str(ROOT / "bin" / "vigilo-bus-config"), "--server", rabbit.address, "--vhost", vhost]
    program = programs / "vigilo-bus-config"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
    program.chmod(0o755)
    yield made
    made.close()


@pytest.fixture
def may_mount(shell: Shell) -> Iterator[bool]:
    """Make `disk` a file system of 6 MB, and answer whether that may be done here."""
    path = shell.directory / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path], check=False).returncode == 0
    yield mounted
    if mounted:
        subprocess.run(["umount", "-l", path], check=True)


def test_the_stories_go_as_they_are_told(shell: Shell, may_mount: bool) -> None:
    files, told, story = [], [], ""
    for block in blocks(PAGE):
        story = (re.findall(r"^## (.*)", block.before, re.M) or [story])[-1]
        if story == _NEEDS_MOUNT and not may_mount:
            continue
        if block.kind == "console":
            for command, expected in commands(block.text):
                shell.run(command, expected)
            told.append(story)
        elif named := re.search(r"`([\w.]+)`[^`]*:\n\n\Z", block.before):
            shell.write(named[1], block.text)
            files.append(named[1])
    # The page was understood, and no story of it was skipped.
    headings = re.findall(r"^## (.*)", PAGE.read_text(encoding="utf-8"), re.M)
    assert sorted({*told, _NEEDS_MOUNT}) == sorted({*headings} - {"Lines of the log"})
    assert len(headings) == 12
    inis = ["settings.ini", "exchange.ini", "queue.ini", "away.ini", "pager.ini", "two.ini", "old.ini", "size.ini"]
    assert [name for name in files if name.endswith(".ini") and name != "disk.ini"] == inis
