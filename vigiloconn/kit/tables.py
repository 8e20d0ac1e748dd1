"""Tables in documents that come from lists in the code. Knows Markdown and two marks, not what stands in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_table(page: str, module: str, table: str) -> str:
    """Return a document with the table of `module` between its two marks. Raises `ValueError`."""
    begin, end = f"<!-- table: python -m {module} -->\n", "<!-- end of table -->\n"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"expected the lines {begin.strip()!r} and {end.strip()!r}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(module: str, table: str, arguments: list[str]) -> None:
    """Print a table or, with the name of a document, put it there."""
    if not arguments:
        print(table, end="")
        return
    path = Path(arguments[0])
    path.write_text(with_table(path.read_text(encoding="utf-8"), module, table), encoding="utf-8")
