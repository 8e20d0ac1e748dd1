"""The operator's page is true: the commands of its stories are run in order, and print what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connector import ROOT
from tests.support.rabbit import RabbitNode
from tests.test_tutorial import Shell, blocks, commands

PAGE = ROOT / "docs" / "operating.md"


@pytest.fixture
def shell(rabbit: RabbitNode, vhost: str, tmp_path: Path) -> Iterator[Shell]:
    directory, programs = tmp_path / "work", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    made = Shell(directory, programs, f"hosts = {rabbit.address}\nvhost = {vhost}\n")
    made.looks += ("vigilo-connector journal count", "vigilo-connector status")
    yield made
    made.close()


def test_the_stories_go_as_they_are_told(shell: Shell) -> None:
    files, ran = [], 0
    for block in blocks(PAGE):
        if block.kind == "console":
            for command, expected in commands(block.text):
                shell.run(command, expected)
                ran += 1
        elif named := re.search(r"`([\w.]+)`[^`]*:\n\n\Z", block.before):
            shell.write(named[1], block.text)
            files.append(named[1])
    assert files == ["settings.ini", "exchange.ini", "queue.ini", "away.ini", "two.ini"]
    assert ran == 27
