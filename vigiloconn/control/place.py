"""Where the control socket stands. Knows paths, nothing of what is asked there; imports next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

FILE_NAME = "control.sock"


def control_path(named: str | None, journal: str, listener: str | None) -> Path | None:
    """Return the path of the control socket, None where there is to be none.

    `named` is what the settings say, "" for none, None for the default: beside the journal, for a journal in memory
    beside the socket that takes lines.
    """
    if named is not None:
        return Path(named) if named else None
    neighbour = listener if journal == ":memory:" else journal
    return Path(os.path.realpath(neighbour)).parent / FILE_NAME if neighbour else None
