"""The measuring itself: its receiver misses nothing, and no document has a figure that no run has printed."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from bench import document, plots
from bench.lines import WARM_WRITER, Shape
from bench.procfs import usage
from bench.receiver import Tally
from bench.report import Report
from vigiloconn.serialize import parse_chunk

ROOT = Path(__file__).resolve().parents[1]
_RUN = json.loads((ROOT / "docs/measurements.json").read_text())["sections"]


@pytest.mark.parametrize(
    "shape", [Shape(), Shape("perf"), Shape(lanes=4), Shape(line_bytes=4096, lanes=100, keys=1000)]
)
def test_every_line_of_a_shape_is_a_line_of_the_connector_and_is_known_again(shape: Shape) -> None:
    lines = [shape.maker()(2, number, 7) for number in range(200)]
    items, _, rejected = parse_chunk([line.rstrip(b"\n") for line in lines])
    tally = Tally()
    for _, body in items:
        tally.note(body, 7 + 3_000_000)
    assert (rejected, tally.faults, tally.lines, set(tally.delays_ms)) == ([], [], 200, {3.0})


def test_a_line_has_the_bytes_that_were_asked_for() -> None:
    assert {len(Shape(line_bytes=size, keys=keys).maker()(1, 5, 9)) for size in (500,) for keys in (1, 9)} == {500}


@pytest.mark.parametrize("numbers", [[0, 2], [0, 0], [1, 0], [1]])
def test_a_line_that_is_lost_repeated_or_out_of_order_is_a_fault(numbers: list[int]) -> None:
    tally = Tally()
    for number in numbers:
        tally.note(Shape().maker()(1, number, 0), 0)
    assert tally.faults


def test_lines_that_warm_up_are_not_measured() -> None:
    tally = Tally()
    tally.note(Shape().maker()(WARM_WRITER, 0, 5), 9)
    assert (tally.warm, tally.lines, tally.delays_ms, tally.faults) == (1, 0, [], [])


def test_the_cpu_of_a_process_includes_what_its_threads_took_before_they_ended() -> None:
    def spin() -> None:
        while time.thread_time() < 0.05:
            pass

    before = usage(os.getpid()).cpu_s
    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
    assert usage(os.getpid()).cpu_s - before >= 0.05


def test_a_target_is_held_against_the_median_and_a_miss_is_remembered() -> None:
    report = Report(lambda text: None)
    report.section("some", "title")
    assert report.figure("met", [1.0, 9.0, 2.0], "ms", at_most=2) == 2
    report.figure("missed", 3.0, "times", at_least=4)
    assert report.missed == ["missed"]


def test_saving_keeps_the_sections_that_did_not_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        report = Report(lambda text: None)
        report.section(name, "title")
        report.figure("figure", 1.0, "ms")
        report.save(tmp_path / "run.json")
    assert list(report.known()) == ["one", "two"]


def test_the_tables_of_the_measurements_are_those_of_the_run_beside_them() -> None:
    text = (ROOT / "docs/measurements.md").read_text(encoding="utf-8")
    assert document.replace(text, document.render(_RUN)) == text


def test_the_plots_are_those_of_the_run(tmp_path: Path) -> None:
    for path in plots.write_plots(_RUN, tmp_path):
        assert path.read_text() == (ROOT / "docs/img" / path.name).read_text(), path.name


def test_the_figures_of_the_readme_are_those_of_the_run() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    pattern = (
        r"some (\d+) MB of memory and ([\d.]+) microseconds of CPU a line at full speed, (\d+) where lines come singly"
    )
    found = re.search(pattern, text)
    assert found is not None
    figures = {figure["name"]: figure["value"] for name in ("full", "rates") for figure in _RUN[name]["figures"]}
    names = ("memory at most, 3 writers", "CPU at full speed, connector", "CPU at 1,000/s, connector")
    # In round numbers: two digits.
    assert [float(text) for text in found.groups()] == [float(f"{figures[name]:.2g}") for name in names]
