"""Errors that are kept. Knows that an error holds the frames it came through, and so all that was in use there."""

from __future__ import annotations

import copy
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def again(error: E) -> E:
    """Return an error like this one to be raised: the one that is kept never gets a traceback."""
    return copy.copy(error)


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
