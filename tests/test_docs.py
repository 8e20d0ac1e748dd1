"""The documents name what is there."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _names() -> list[tuple[str, str]]:
    """Return (document, dotted name) of all that is named in this package."""
    return sorted({
        (path.name, name)
        for path in DOCUMENTS
        for name in re.findall(r"\bvigiloconn(?:\.\w+)+", path.read_text(encoding="utf-8"))
    })  # fmt: skip


@pytest.mark.parametrize(("document", "name"), _names())
def test_what_a_document_names_can_be_imported(document: str, name: str) -> None:
    assert pkgutil.resolve_name(name) is not None, document


def test_every_row_of_the_table_of_names_leads_to_something_importable() -> None:
    rows = [line for line in (ROOT / "docs/names.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert len(rows) > 20
    # `build` is the author's own function.
    assert [row for row in rows if "`vigiloconn." not in row and "`build(" not in row] == []
