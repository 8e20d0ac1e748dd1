"""Figures as they come: printed beside their targets, kept for JSON. Knows numbers, not what they measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine


class Report:
    """Prints each figure as the median of its rounds with their spread, and remembers which targets were missed."""

    def __init__(self, out: Callable[[str], None] = print) -> None:
        self._out = out
        self.missed: list[str] = []
        self.sections: dict[str, dict[str, Any]] = {}
        self._figures: list[dict[str, Any]] = []
        self._saved: dict[str, dict[str, Any]] = {}

    def section(self, name: str, title: str) -> None:
        """Begin a section: what follows belongs to it."""
        self._figures = []
        notes: list[str] = []
        where = machine.describe()
        self.sections[name] = {"title": title, "machine": where, "figures": self._figures, "notes": notes}
        self._out(f"\n{name}: {title}\n  {machine.sentence(where)}")

    def end_section(self, name: str) -> None:
        """Note how busy the machine was in the end."""
        if name in self.sections:
            machine.note_end(self.sections[name]["machine"])

    def note(self, text: str) -> None:
        """Say a sentence that the section needs to be understood."""
        self.sections[next(reversed(self.sections))]["notes"].append(text)
        self._out(f"  {text}")

    def figure(
        self,
        name: str,
        values: float | Sequence[float],
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> float:
        """Print one figure and return its median. `at_most` or `at_least` make it a target."""
        values = [values] if isinstance(values, (int, float)) else list(values)
        value = median(values)
        met = None
        if at_most is not None or at_least is not None:
            met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        figure = {
            "name": name, "value": value, "low": min(values), "high": max(values), "rounds": len(values), "unit": unit,
            "at_most": at_most, "at_least": at_least, "met": met,
        }  # fmt: skip
        self._figures.append(figure)
        self._out(f"  {name:<66} {shown(value):>10} {unit:<12} {_spread(figure)}{_verdict(figure)}")
        if met is False:
            self.missed.append(name)
        return value

    def save(self, path: Path) -> None:
        """Write the sections into a JSON file. Those of another run that are in it and were not measured now stay."""
        known = json.loads(path.read_text())["sections"] if path.exists() else {}
        self._saved = {**known, **self.sections}
        path.write_text(json.dumps({"sections": self._saved}, indent=1) + "\n")

    def known(self) -> dict[str, dict[str, Any]]:
        """Return all sections: those of this run, and those that `save` found in its file."""
        return {**self._saved, **self.sections}


def shown(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def target(figure: dict[str, Any]) -> str:
    """Return the target in words, empty when there is none."""
    if figure["at_most"] is not None:
        return f"at most {shown(figure['at_most'])}"
    return f"at least {shown(figure['at_least'])}" if figure["at_least"] is not None else ""


def _spread(figure: dict[str, Any]) -> str:
    return f"({shown(figure['low'])} to {shown(figure['high'])}) " if figure["rounds"] > 1 else ""


def _verdict(figure: dict[str, Any]) -> str:
    return "" if figure["met"] is None else f"{target(figure)}: {'ok' if figure['met'] else 'MISSED'}"
