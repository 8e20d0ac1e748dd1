"""The author's reference is true: its blocks run, as a reader would have them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vigiloconn.testing import MemoryBus, run_connector

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "authors.md"


def block(word: str) -> dict[str, Any]:
    """Run the block of Python that has `word` in it, and return its names."""
    blocks = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.S)
    [found] = [text for text in blocks if word in text]
    names: dict[str, Any] = {"__name__": "page"}
    exec(found, names)
    return names


def test_the_consumer_and_its_test_do_what_they_say() -> None:
    block("def test_a_page")["test_a_page_is_sent"](block("class Pager")["build"])


def test_the_parallel_handler_is_one() -> None:
    poster = block("class Poster")["Poster"]()
    assert poster.order_key({"host": "a"}) == "a"


def test_the_source_takes_each_line_once_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = block("class Table")
    module = ModuleType("page")
    module.SETTINGS = names["SETTINGS"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "page", module)
    table = tmp_path / "table.txt"
    table.write_text("one\ntwo\n")
    bus = MemoryBus()
    bus.declare_queue("q", bus.declare_exchange("event"))
    for exchange in ("nagios", "perf"):
        bus.declare_queue("own", bus.declare_exchange(exchange))
    settings = (
        f"[connector]\nbackup_file = {tmp_path}/j.sqlite\n[connector-table]\ntable = {table}\nperiod = 0.01\n"
    )
    found = []
    for _ in range(2):
        with run_connector(names["build"], settings, connector="table", bus=bus):
            found += [each.json()["message"] for each in bus.drain("q", 2)]
        with table.open("a") as file:
            file.write("three\nfour\n")
    assert found == ["one", "two", "three", "four"]
