"""Random settings: a file is in order, or it is refused with an error that names the place."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.chaos.garbage import mutate, nasty_text
from tests.support.connector import ROOT
from vigiloconn.errors import SettingsError
from vigiloconn.options import load_settings
from vigiloconn.settings import logsetup, schema

_directory = tempfile.TemporaryDirectory(prefix="vigiloconn-fuzz-")
_PATH = Path(_directory.name) / "settings.ini"
_SAMPLE = (ROOT / "conf/settings.ini").read_bytes()
_KEYS = [(name, entry.key, entry.default or "") for name, entries in schema.SECTIONS.items() for entry in entries]
_SECTIONS = sorted({section for section, _, _ in _KEYS} | {
    "loggers", "handlers", "formatters", "logger_root", "handler_h", "formatter_f", "DEFAULT", "other", ""
})
_LOGGING_KEYS = ("keys", "level", "handlers", "class", "args", "formatter", "format", "qualname", "propagate")


def case(chance: random.Random) -> int:
    """Try one file."""
    data = mutate(chance, _SAMPLE) if chance.random() < 0.3 else _file(chance)
    _PATH.write_bytes(data)
    try:
        settings = load_settings(_PATH)
        logsetup.check_sections(settings.logging, str(_PATH))
    except SettingsError as exc:
        _check(str(exc))
    return 1


def _check(error: str) -> None:
    # One that does not say which file is of no use to the one who has to mend it.
    assert "settings.ini" in error, f"no file in the error: {error}"
    assert "\n" not in error, f"more than one line: {error!r}"


def _file(chance: random.Random) -> bytes:
    lines = []
    for _ in range(chance.randint(1, 4)):
        section, key, default = chance.choice(_KEYS)
        lines.append(f"[{section if chance.random() < 0.9 else chance.choice(_SECTIONS)}]")
        lines.append(f"{key}{chance.choice((' = ', '=', ': ', ' '))}{_value(chance, default)}")
        if chance.random() < 0.2:
            lines.append(f"{chance.choice(_LOGGING_KEYS)} = {_value(chance, 'h')}")
        if chance.random() < 0.1:
            lines.append(chance.choice(("  continued", "# comment", "; comment", "no separator", "", "=", "[", "]")))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _value(chance: random.Random, default: str) -> str:
    return chance.choice((
        default, nasty_text(chance), default + nasty_text(chance), f"'{nasty_text(chance)}'", f'"{default}"',
        "1, 2, x:3", "a:b:c", "host:99999", "[::1]:5672", "[::1", "-1", "1e3", "10K", "block, perf:drop-newest",
        "perf:", ",", "",
    ))
