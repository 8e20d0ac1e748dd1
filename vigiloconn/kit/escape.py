"""Text that others wrote, made fit for a line of a log. Knows characters, nothing of where the text is from."""

from __future__ import annotations


def printable(text: object, limit: int = 300) -> str:
    """Return `text` on one line: what does not print is escaped as Python writes it, and what is longer is cut.

    Neither a second line nor a terminal's control sequence can be forged by it.
    """
    whole = str(text)
    shown = whole[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(whole) <= limit else f"{shown}..."
