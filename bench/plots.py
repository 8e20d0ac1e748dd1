"""Small SVG plots of figures: horizontal bars from zero. Knows names and numbers; no library.

Colours are middle tones and text has the reader's own colour scheme, so that a plot can be read in dark and in light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.report import shown

_WIDTH, _NAMES, _ROW, _TOP, _BAR = 720, 270, 24, 46, 14
_RIGHT = 90
_OURS, _OTHERS = "#e07a1f", "#5b8db8"
_STYLE = (
    "text{font:13px sans-serif;fill:#333}.title{font-weight:bold;font-size:14px}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True)
class Plot:
    """One file: figures of a section whose names begin with `prefix`, all in one unit."""

    file: str
    section: str
    prefix: str
    title: str


PLOTS = (
    Plot("rates.svg", "rates", "CPU at ", "CPU a line by rate, us"),
    Plot("cpu-100.svg", "peers", "CPU at 100/s, ", "CPU a line at 100 lines/s, us"),
    Plot("cpu-1000.svg", "peers", "CPU at 1,000/s, ", "CPU a line at 1,000 lines/s, us"),
    Plot("p99-1000.svg", "peers", "p99 at 1,000/s, ", "99 % of lines arrive within, at 1,000 lines/s, ms"),
    Plot("full-speed.svg", "peers", "rate at full speed, ", "Full speed with one writer, lines/s"),
)


def write_plots(sections: dict[str, dict[str, Any]], directory: Path) -> list[Path]:
    """Write the plots whose section is there; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for plot in PLOTS:
        figures = [
            (figure["name"].removeprefix(plot.prefix), figure["value"])
            for figure in sections.get(plot.section, {}).get("figures", [])
            if figure["name"].startswith(plot.prefix) and figure["unit"] != "times"
        ]
        if figures:
            path = directory / plot.file
            path.write_text(render(plot.title, figures))
            written.append(path)
    return written


def render(title: str, figures: Sequence[tuple[str, float]]) -> str:
    """Return the SVG."""
    longest = max(value for _, value in figures)
    height = _TOP + _ROW * len(figures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><text class="title" x="8" y="22">{escape(title)}</text>',
    ]
    for row, (name, value) in enumerate(figures):
        y = _TOP + row * _ROW
        length = value / longest * (_WIDTH - _NAMES - _RIGHT)
        colour = _OURS if "connector" in name else _OTHERS
        parts.append(
            f'<text x="{_NAMES - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_NAMES}" y="{y}" width="{length:.0f}" height="{_BAR}" rx="2" fill="{colour}"/>'
            f'<text x="{_NAMES + length + 6:.0f}" y="{y + 11}">{shown(value)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
