"""docs/problems.md comes from the table in the code, and the table names every problem that a part of ours has."""

from __future__ import annotations

import re
from pathlib import Path

from vigiloconn.control.advice import ADVICE, table
from vigiloconn.kit.tables import with_table

ROOT = Path(__file__).resolve().parents[1]
#: What follows `queue-`: the topics of `BoundQueue`, and `consume`.
_COMPUTED = {"queue-declare", "queue-bind", "queue-consume"}


def test_the_document_holds_the_table_of_today() -> None:
    page = (ROOT / "docs/problems.md").read_text(encoding="utf-8")
    assert page == with_table(page, "vigiloconn.control.advice", table())


def test_every_problem_has_advice_and_no_advice_is_for_a_problem_that_is_none() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "vigiloconn").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'Problem\(\s*"([a-z-]+)"', text)}
    named |= {name for text in sources for name in re.findall(r'^    problem = "([a-z-]+)"', text, re.MULTILINE)}
    assert {advice.name for advice in ADVICE} == named | _COMPUTED
