"""The tables of docs/measurements.md, from a run's JSON: `python -m bench.document FILE.json DOCUMENT.md`.

What stands between the two marks of the document is replaced, so no figure there is one that no run has printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.machine import sentence
from bench.report import shown, target

BEGIN, END = "<!-- figures: python -m bench.document -->", "<!-- end of figures -->"


def render(sections: dict[str, dict[str, Any]]) -> str:
    """Return the tables of all sections."""
    return "\n\n".join(_section(name, section) for name, section in sections.items())


def _section(name: str, section: dict[str, Any]) -> str:
    lines = [f"### `{name}`", "", f"{section['title']}.", "", *[f"- {note}" for note in section["notes"]]]
    if section["notes"]:
        lines.append("")
    lines += [
        f"*{sentence(section['machine'])}.*",
        "",
        "| figure | median | spread | unit | target |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    return "\n".join([*lines, *map(_row, section["figures"])])


def _row(figure: dict[str, Any]) -> str:
    spread = f"{shown(figure['low'])} to {shown(figure['high'])}" if figure["rounds"] > 1 else ""
    verdict = "" if figure["met"] is None else f"{target(figure)}{'' if figure['met'] else ', **missed**'}"
    return f"| {figure['name']} | {shown(figure['value'])} | {spread} | {figure['unit']} | {verdict} |"


def replace(document: str, tables: str) -> str:
    """Return the document with the tables between its marks. Raises ValueError when it has none."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END}")
    return f"{head}{begin}\n\n{tables}\n\n{end}{tail}"


def main(source: str, document: str) -> None:
    """Replace the tables."""
    path = Path(document)
    sections = json.loads(Path(source).read_text())["sections"]
    path.write_text(replace(path.read_text(encoding="utf-8"), render(sections)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
