"""Logging from the settings. Knows the stdlib's `logging`, nothing of connectors."""

from __future__ import annotations

import ast
import builtins
import configparser
import logging
import logging.config
import logging.handlers
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from vigiloconn.errors import SettingsError, StartError
from vigiloconn.settings.values import parse_list, shown

log = logging.getLogger(__name__)

DEFAULT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

#: The Twisted connectors' formatter encoded text for Python 2; the plain one does what is left of its work.
_PLAIN_FORMATTERS = ("vigilo.common.logging.VigiloFormatter",)
_LISTS = {"loggers": "logger", "handlers": "handler", "formatters": "formatter"}

#: What `fileConfig` lets the arguments of a handler see.
_KNOWN_NAMES = {*vars(logging), *vars(builtins)}

Sections = Mapping[str, Mapping[str, str]]


class LoggingSettings(Protocol):
    """The part of the settings that matters here."""

    @property
    def path(self) -> Path | None:
        """The file they come from."""

    @property
    def logging(self) -> Sections:
        """Sections as `logging.config.fileConfig` reads them."""


def is_logging_section(name: str) -> bool:
    """Return True for the sections that belong to logging."""
    return name in _LISTS or name.startswith(("logger_", "handler_", "formatter_"))


def check_sections(sections: Sections, source: str) -> None:
    """Raise `SettingsError` for what `fileConfig` would stumble over, short of opening anything."""
    if sections:
        _Checker(sections, source).check()


def configure_logging(settings: LoggingSettings, level: str | None = None) -> None:
    """Set logging up as the settings say; without such sections, on stderr from INFO on.

    `level` (a name) replaces the level of every logger and handler. Raises `SettingsError` for a level that
    does not exist, and `StartError` when a handler can't begin, its file's directory missing for example.
    """
    number = _level_number(level) if level is not None else None
    if settings.logging:
        _configure_from(settings.logging, str(settings.path))
        if number is not None:
            for target in _configured(settings.logging):
                target.setLevel(number)
    else:
        logging.basicConfig(
            stream=sys.stderr, format=DEFAULT_FORMAT, level=logging.INFO if number is None else number, force=True
        )


def reopen_log_files() -> None:
    """Open log files again that were renamed or removed (logrotate). A file that can't be opened is kept as it is."""
    for handler in _all_handlers():
        if not isinstance(handler, logging.FileHandler) or not _was_replaced(handler):
            continue
        try:
            # First the new one: a handler without a file would fail with the next record.
            old = handler.setStream(handler._open())
            if old is not None:
                old.close()
        except OSError as exc:
            log.warning("log file can't be opened again, the old one stays in use: %s", exc)


def _was_replaced(handler: logging.FileHandler) -> bool:
    # Only then: a handler of mode "w" would empty a file that is still in its place.
    stream = handler.stream
    if stream is None:  # delay=True: nothing was logged yet
        return False
    try:
        there = os.stat(handler.baseFilename)
    except FileNotFoundError:
        return True
    return not os.path.samestat(there, os.fstat(stream.fileno()))


def _level_number(level: str) -> int:
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise SettingsError(f"--log-level: expected DEBUG, INFO, WARNING, ERROR or CRITICAL, got {shown(level)}")
    return known[level.upper()]


def _all_handlers() -> Iterator[logging.Handler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    seen: set[int] = set()
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            # A MemoryHandler stands before the handler that writes.
            for each in (handler, getattr(handler, "target", None)):
                if isinstance(each, logging.Handler) and id(each) not in seen:
                    seen.add(id(each))
                    yield each


def _configured(sections: Sections) -> Iterator[logging.Logger | logging.Handler]:
    for name in _kept_loggers(sections):
        yield logging.getLogger(None if name == "root" else sections[f"logger_{name}"].get("qualname"))
    yield from _all_handlers()


def _kept_loggers(sections: Sections) -> list[str]:
    """Return the loggers to set up, by key: all but those of Twisted, which nobody here writes to."""
    def is_twisteds(name: str) -> bool:
        qualname = sections.get(f"logger_{name}", {}).get("qualname", name)
        return qualname == "twisted" or qualname.startswith("twisted.")

    return [name for name in parse_list(sections["loggers"]["keys"]) if not is_twisteds(name)]


def _configure_from(sections: Sections, source: str) -> None:
    ini = configparser.RawConfigParser(default_section="\n")
    for name, section in sections.items():
        ini[name] = _as_stdlib_reads(name, section)
    ini["loggers"]["keys"] = ",".join(_kept_loggers(sections))
    try:
        logging.config.fileConfig(ini, disable_existing_loggers=False)
    except OSError as exc:
        raise StartError(f"{source}: [handlers]: logging can't begin: {exc}") from exc
    except (ArithmeticError, AttributeError, ImportError, LookupError, NameError, RuntimeError, TypeError,
            ValueError, configparser.Error) as exc:
        # All that the arguments of a handler, which are an expression, can run into. Most of these errors quote what
        # they stumbled over, which may be a mail handler's password.
        detail = f": {exc}" if isinstance(exc, TypeError) else ""
        raise SettingsError(f"{source}: [handlers]: logging can't be set up: {type(exc).__name__}{detail}: expected "
                            "args and kwargs that suit the class in each [handler_...]") from None


def _as_stdlib_reads(name: str, section: Mapping[str, str]) -> dict[str, str]:
    """Return the section in the stdlib's dialect: no comma at the end of a list, no class that is gone."""
    result = dict(section)
    key = "keys" if name in _LISTS else "handlers" if name.startswith("logger_") else None
    if key in result:
        result[key] = ",".join(parse_list(result[key]))
    if name.startswith("formatter_") and result.get("class") in _PLAIN_FORMATTERS:
        del result["class"]
    return result


class _Checker:
    """Checks names and references of one file's logging sections."""

    def __init__(self, sections: Sections, source: str) -> None:
        self._sections = sections
        self._source = source
        self._names: dict[str, tuple[str, ...]] = {}

    def check(self) -> None:
        for plural, singular in _LISTS.items():
            self._names[plural] = self._list(plural, "keys")
            for name in self._names[plural]:
                if f"{singular}_{name}" not in self._sections and name != "twisted":
                    raise self._error(plural, "keys", f"names {shown(name)}, expected a section [{singular}_{name}]")
        if "root" not in self._names["loggers"]:
            raise self._error("loggers", "keys", "expected root in the list")
        for name in _kept_loggers(self._sections):
            self._check_logger(f"logger_{name}", name == "root")
        for name in self._names["handlers"]:
            self._check_handler(f"handler_{name}")
        for name in self._names["formatters"]:
            self._check_formatter(f"formatter_{name}")

    def _error(self, section: str, key: str, text: str) -> SettingsError:
        return SettingsError(f"{self._source}: [{section}] {key}: {text}")

    def _get(self, section: str, key: str) -> str:
        try:
            return self._sections[section][key]
        except KeyError:
            raise self._error(section, key, "expected it for logging, got nothing") from None

    def _list(self, section: str, key: str) -> tuple[str, ...]:
        try:
            return parse_list(self._get(section, key))
        except ValueError as exc:
            raise self._error(section, key, str(exc)) from None

    def _check_logger(self, section: str, is_root: bool) -> None:
        self._check_level(section)
        if not is_root:
            self._get(section, "qualname")
            if self._sections[section].get("propagate", "1").strip() not in ("0", "1"):
                raise self._error(section, "propagate", "expected 0 or 1")
        for name in self._list(section, "handlers"):
            if name not in self._names["handlers"]:
                raise self._error(section, "handlers", f"{shown(name)} is not among the keys of [handlers]")

    def _check_handler(self, section: str) -> None:
        self._check_level(section)
        name = self._get(section, "class")
        if not _is_handler_class(name):
            raise self._error(section, "class", f"expected a class of logging handlers, got {shown(name)}")
        formatter = self._sections[section].get("formatter", "")
        if formatter and formatter not in self._names["formatters"]:
            raise self._error(section, "formatter", f"{shown(formatter)} is not among the keys of [formatters]")
        for key in ("args", "kwargs"):
            # Not quoted: a mail handler's arguments hold a password, and one without quotes looks like a name.
            try:
                has_foreign_names = not _names(self._sections[section].get(key, "()")) <= _KNOWN_NAMES
            except (SyntaxError, ValueError):
                raise self._error(section, key, "expected a Python expression, such as ('/dev/log',)") from None
            if has_foreign_names:
                raise self._error(section, key, "expected quotes around text, and only names of Python's logging")

    def _check_formatter(self, section: str) -> None:
        keys = self._sections[section]
        if keys.get("class", "") not in ("", *_PLAIN_FORMATTERS):
            return  # a class of the operator's own may take any format
        # Tried on a record: the constructor lets pass what would fail with every message.
        record = logging.LogRecord("name", logging.INFO, "path", 1, "text", (), None)
        style = keys.get("style", "%")
        try:
            logging.Formatter(keys.get("format"), keys.get("datefmt"), style).format(record)  # type: ignore[arg-type]
        except (TypeError, ValueError) as exc:
            raise self._error(section, "format", f"expected fields of log records, such as %(message)s: {exc}") from exc

    def _check_level(self, section: str) -> None:
        level = self._sections[section].get("level", "")
        if level and level not in logging.getLevelNamesMapping():
            raise self._error(section, "level", f"expected DEBUG, INFO, WARNING, ERROR, CRITICAL or NOTSET, "
                                                f"got {shown(level)}")


def _names(expression: str) -> set[str]:
    """Return the names that an expression takes from outside. Raises `SyntaxError`, `ValueError`."""
    names = [node for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)]
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - own


def _is_handler_class(name: str) -> bool:
    """Return True for what `fileConfig` takes: a name in the module `logging`, or a dotted one from anywhere."""
    for candidate in (f"logging.{name}", name):
        try:
            found = pkgutil.resolve_name(candidate)
        except (ImportError, AttributeError, ValueError):
            continue
        return isinstance(found, type) and issubclass(found, logging.Handler)
    return False
