"""Errors that are kept. Knows that an error holds the frames it came through, and so all that was in use there."""

from __future__ import annotations

import copy
import os
import traceback
from typing import TypeVar

from vigiloconn.kit.escape import printable

E = TypeVar("E", bound=BaseException)


def again(error: E) -> E:
    """Return an error like this one to be raised: the one that is kept never gets a traceback."""
    return copy.copy(error)


def frames_text(error: BaseException, max_frames: int = 8, max_chars: int = 1200) -> str:
    """Return the last frames that an error came through on one printable line, the innermost last; "" without any.

    On one line, and escaped, since texts of others are in it: no line of a log can be forged by them.
    """
    frames = traceback.extract_tb(error.__traceback__)[-max_frames:]
    texts = [f"{os.path.basename(each.filename)}:{each.lineno} {each.name}: {each.line}" for each in frames]
    return printable(" > ".join(texts)[-max_chars:], max_chars)


def without_traces(error: E) -> E:
    """Take the tracebacks off an error and its causes, so that it can be kept, and return it."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            links += (link.__cause__, link.__context__)
    return error
