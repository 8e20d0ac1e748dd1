"""Which known word a misspelled one may have meant. Knows words, not what they are for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: How much alike two words are (1.0: the same) for one to be meant by the other.
_ALIKE = 0.6


def nearest(word: str, known: Iterable[str], alike: float = _ALIKE) -> str | None:
    """Return the known word that is most like `word`, None where none is: it would send people the wrong way."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=alike)
    return near[0] if near else None
