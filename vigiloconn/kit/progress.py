"""A progress bar on a terminal, for what takes more than a second. Knows numbers, not what they count."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
#: What takes less is over before anybody looks.
_DELAY_S = 1.0


class Progress:
    """Counts what is done, of `total` where that is known. Shows nothing where standard error is no terminal."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            # Not before: it takes as long to load as most of these commands to run.
            from tqdm import tqdm

            self._bar = tqdm(desc=label, total=total, delay=_DELAY_S, unit=" messages", leave=False, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def did(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Go through `items` and count them."""
        for item in items:
            yield item
            self.did(1)
