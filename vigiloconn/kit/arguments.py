"""Command lines by docopt, with its words for people. Imports next to nothing: `send` needs it each time."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from docopt import DocoptExit, docopt

from vigiloconn.kit.exits import EXIT_USAGE

_UNMATCHED = re.compile(r"^Warning: found unmatched \(duplicate\?\) arguments .*", re.MULTILINE)


def parse_arguments(usage: str, arguments: list[str], version: str, program: str) -> dict[str, Any]:
    """Return what docopt makes of a command line.

    Raises `SystemExit`: with status 2, and the usage on standard error, where it makes nothing of it; with 0 after
    `--help` and `--version`. Arguments are not quoted: one may be a password.
    """
    try:
        return dict(docopt(usage, arguments, version=version))
    except DocoptExit as exc:
        said = _UNMATCHED.sub("", str(exc).partition("Usage:")[0]).strip()
        said = said or "the arguments are not understood"
        print(f"{program}: {said}, see --help", exc.usage.strip(), sep="\n", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


def leave_closed_pipe() -> None:
    """Let nothing more be written to standard output, whose reader has gone: Python would try it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
