"""The form of our files: sections, keys, comments. Knows `configparser`, not what a key means."""

from __future__ import annotations

import configparser
import re

from vigiloconn.errors import SettingsError

#: No section can have this name, so that `[DEFAULT]` is a section like any other.
_NO_SECTION = "\n"


def comment_hint(text: str) -> str:
    """Return what to add to an error about a value that looks as if a comment stood behind it; else nothing."""
    return " (a comment needs a line of its own)" if re.search(r"\s[#;]", text) else ""


def parse_ini(text: str, source: str) -> configparser.RawConfigParser:
    """Parse the file's form. The parser's own errors quote lines, passwords included: they are not passed on."""
    ini = configparser.RawConfigParser(
        comment_prefixes=("#", ";"), inline_comment_prefixes=None, strict=True,
        empty_lines_in_values=False, default_section=_NO_SECTION,
    )
    ini.optionxform = str  # type: ignore[assignment,method-assign]  # keys are case-sensitive
    try:
        ini.read_string(text, source)
    except configparser.DuplicateSectionError as exc:
        reason = f"line {exc.lineno}: [{exc.section}] stands in the file twice"
    except configparser.DuplicateOptionError as exc:
        reason = f"line {exc.lineno}: [{exc.section}] {exc.option.split()[0]}: stands in the section twice"
    except configparser.MissingSectionHeaderError as exc:
        reason = f"line {exc.lineno}: expected a [section] before the first setting"
    except configparser.ParsingError as exc:
        reason = f"line {exc.errors[0][0]}: expected key = value or [section]"
    else:
        return ini
    raise SettingsError(f"{source}: {reason}")
