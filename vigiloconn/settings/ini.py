"""The form of our files: sections, keys, comments. Knows `configparser`, not what a key means."""

from __future__ import annotations

import configparser
import re

from vigiloconn.errors import SettingsError
from vigiloconn.settings.logsetup import is_logging_section

#: No section can have this name, so that `[DEFAULT]` is a section like any other.
_NO_SECTION = "\n"
_QUOTED_ITEM = re.compile(r"""\s*(?:"[^"]*"|'[^']*')""")
_WILDCARD = re.compile(r"#(\.|$)")
_END_OF_ITEM = re.compile(r"(?<=\s)#|,")


def comment_hint(text: str) -> str:
    """Return what to add to an error about a value that looks as if a comment stood behind it; else nothing."""
    return " (behind a value a comment begins with a blank and #)" if re.search(r"\s;", text) else ""


def first_word(key: str) -> str:
    """Return what errors may quote of a key: in `password hunter2 = x` the rest is not for a log."""
    return next(iter(key.split()), "(no key)")


def parse_ini(text: str, source: str) -> configparser.RawConfigParser:
    """Parse the file's form. The parser's own errors quote lines, passwords included: they are not passed on.

    A blank and `#` end an unquoted value, but for those of logging, whose formats may hold both.
    """
    ini = configparser.RawConfigParser(
        comment_prefixes=("#", ";"), inline_comment_prefixes=None, strict=True,
        empty_lines_in_values=False, default_section=_NO_SECTION,
    )
    ini.optionxform = str  # type: ignore[assignment,method-assign]  # keys are case-sensitive
    # The stdlib's goes up to the last bracket of the line, which may stand in a comment.
    ini.SECTCRE = re.compile(r"\[(?P<header>.+?)\]\s*(?:[#;].*)?$")
    try:
        ini.read_string(text, source)
    except configparser.DuplicateSectionError as exc:
        reason = f"line {exc.lineno}: [{exc.section}] stands in the file twice"
    except configparser.DuplicateOptionError as exc:
        reason = f"line {exc.lineno}: [{exc.section}] {first_word(exc.option)}: stands in the section twice"
    except configparser.MissingSectionHeaderError as exc:
        reason = f"line {exc.lineno}: expected a [section] before the first setting"
    except configparser.ParsingError as exc:
        reason = f"line {exc.errors[0][0]}: expected key = value or [section]"
    else:
        for section in ini.sections():
            if not is_logging_section(section):
                _drop_comments(ini, section, text, source)
        return ini
    raise SettingsError(f"{source}: {reason}")


def without_comment(line: str) -> str:
    """Return one line of a value up to the blank and `#` that begin a comment; in quotes they are text.

    A quote that does not begin the value, or an item of a list, is a letter like others.
    """
    position = 0
    while position < len(line):
        quoted = _QUOTED_ITEM.match(line, position)
        end = _END_OF_ITEM.search(line, quoted.end() if quoted else position)
        if end is None:
            break
        if end[0] == "#":
            return line[: end.start()].rstrip()
        position = end.end()
    return line


def _drop_comments(ini: configparser.RawConfigParser, section: str, text: str, source: str) -> None:
    for key, value in ini.items(section):
        kept = _without_comments(key, value, text)
        if not kept and _WILDCARD.match(value):
            # Read as nothing it would bind to another key, without a word.
            raise SettingsError(f"{source}: [{section}] {key}: expected quotes around a wildcard, as in '#': "
                                "a blank and # begin a comment")
        ini.set(section, key, kept)


def _without_comments(key: str, value: str, text: str) -> str:
    first, *others = value.split("\n")
    # The parser has dropped the blanks before the value: `key = # comment` has some, `key=#value` none.
    if not re.search(rf"^\s*{re.escape(key)}\s*[=:]{re.escape(first)}", text, re.MULTILINE):
        first = " " + first
    return "\n".join(without_comment(line) for line in (first, *others)).strip()
