"""A handful of seeds of `make chaos`, those whose faults begin and end at once, in every direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.disk import can_mount
from tests.chaos.plan import draw_plan
from tests.chaos.runner import Run
from tests.chaos.stage import HANDLER, LINES, PIPE
from tests.support.rabbit import RabbitNode


def test_seed_decides_everything() -> None:
    assert draw_plan(11) == draw_plan(11)
    assert draw_plan(11) != draw_plan(12)


@pytest.mark.parametrize(
    ("direction", "seed"), [(LINES, 1), (LINES, 15), (LINES, 21), (LINES, 23), (HANDLER, 7), (PIPE, 7)]
)
def test_promise_is_kept_under_faults(direction: str, seed: int, spare_node: RabbitNode, tmp_path: Path) -> None:
    plan = draw_plan(seed, direction=direction, is_short=True, may_mount=can_mount())
    report = Run(plan, Cluster([spare_node]), tmp_path / "run", print).play()
    print(report)
    again = f"make chaos SEED={seed} RUNS=1 CLUSTER=0 FUZZ=0 ARGS='--short --only={direction}'"
    assert report.verdict.findings == [], f"again: {again}"
    assert report.verdict.obligations > 0
