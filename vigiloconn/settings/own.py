"""What a connector's author writes to declare settings: keys of `[connector-NAME]` with type, default, bounds and help.

    SETTINGS = (
        setting("exchange", text, "where it goes"),
        setting("period", seconds, "how often it is measured", default="10", unit="s"),
    )

beside `build`. Its values are in `settings.own`, checked before `build` is called.
"""

from __future__ import annotations

from vigiloconn.settings.schema import Entry
from vigiloconn.settings.values import (
    Converter,
    byte_count,
    choice,
    flag,
    optional_text,
    parse_list,
    seconds,
    seconds_up_to,
    secret,
    text_value,
    whole,
)

__all__ = [
    "byte_count",
    "choice",
    "flag",
    "names",
    "number",
    "optional_text",
    "seconds",
    "seconds_up_to",
    "secret",
    "setting",
    "text",
    "whole",
]  # fmt: skip

text = text_value("a text")
names = parse_list


def number(minimum: float, maximum: float) -> Converter:
    """Build a converter for a number within bounds, both included."""

    def convert(given: str) -> float:
        try:
            value = float(given.strip())
        except ValueError:
            value = float("nan")
        if not minimum <= value <= maximum:
            raise ValueError(f"expected a number from {minimum:g} to {maximum:g}, got {given.strip()[:80]!r}")
        return value

    return convert


def setting(
    key: str, convert: Converter, doc: str, *, default: str | None = None, required: bool | None = None, unit: str = ""
) -> Entry:
    """Declare one key. `convert` takes its text and returns the value, or raises `ValueError("expected ..., got ...")`.

    `default` is written as in the file. Without one the key is required, unless `required=False`: then it is None.
    """
    is_required = default is None if required is None else required
    default_doc = "required" if is_required else ""
    return Entry(key, key, default, convert, doc, unit, "", (), default_doc, is_required)
