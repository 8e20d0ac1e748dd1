"""The command `status`: asks the running connector, or looks into its journal where none runs. A Nagios check too."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vigiloconn.cli.usage import UsageError, parse, parse_instance, parse_timeout
from vigiloconn.control import view
from vigiloconn.control.asking import CantAsk, ask
from vigiloconn.control.journalfile import Unreadable, read_contents
from vigiloconn.control.place import control_path
from vigiloconn.errors import SettingsError
from vigiloconn.journal.clock import JournalClock
from vigiloconn.kit.exits import fail
from vigiloconn.kit.lockfile import holder_of
from vigiloconn.options import Settings, load_settings

#: Statuses of a plugin of Nagios.
CRITICAL, UNKNOWN = 2, 3
_WATCH_S = 2.0
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def main(arguments: list[str]) -> int:
    """Tell how a connector is, and return the exit status of a plugin of Nagios."""
    try:
        options = parse(arguments)
    except SystemExit as exc:
        # A wrong command line is nothing that Nagios should take for CRITICAL.
        raise SystemExit(UNKNOWN if exc.code else 0) from None
    try:
        timeout_s = parse_timeout(options["--timeout"])
        settings = load_settings(
            options["--config"], connector=_name(options["CONNECTOR"] or "nagios"),
            instance=parse_instance(options["--id"]),
        )
    except (UsageError, SettingsError) as exc:
        if options["--nagios"]:
            # Nagios shows nothing of standard error.
            print(_unknown(f"{exc}; vigilo-connector check has all", as_plugin=True))
            return UNKNOWN
        return fail(exc, UNKNOWN)

    def show() -> tuple[list[str], int]:
        return lines_of(settings, timeout_s, options["--json"], options["--nagios"])

    if options["--watch"]:
        return _watch(show)
    lines, status = show()
    print("\n".join(lines))
    return status


def lines_of(settings: Settings, timeout_s: float, as_json: bool, as_plugin: bool) -> tuple[list[str], int]:
    """Return what is to be shown, and the exit status."""
    runtime = settings.runtime
    path = control_path(runtime.control, runtime.backup_file, settings.nagios.listen_unix)
    if path is None:
        return [_unknown("the settings name no control socket", as_plugin)], UNKNOWN
    try:
        answer = ask(path, "/status", timeout_s=timeout_s)
        document: dict[str, Any] = json.loads(answer.body)
        status = int(document["state"]["level"])
    except CantAsk as exc:
        return _without_answer(settings, exc, as_plugin)
    except (ValueError, KeyError) as exc:
        return [_unknown(f"control socket {path}: no answer of a connector: {exc}", as_plugin)], UNKNOWN
    if as_json:
        return [answer.text], status
    return [view.plugin_line(document)] if as_plugin else view.screen(document), status


def _without_answer(settings: Settings, why: CantAsk, as_plugin: bool) -> tuple[list[str], int]:
    journal = settings.runtime.backup_file
    if journal == ":memory:":
        return [_unknown(str(why), as_plugin)], UNKNOWN
    path = Path(os.path.realpath(journal))
    holder = holder_of(f"{path}.lock")
    if not why.is_absent:
        who = "nobody" if holder is None else f"process {holder}"
        return [_unknown(f"{why}; {who} has the journal {path} in use", as_plugin)], UNKNOWN
    if holder is not None:
        text = f"process {holder} has the journal {path} in use and does not answer: it starts or stops, or {why}"
        return [_unknown(text, as_plugin)], UNKNOWN
    lines = [f"no connector runs: nobody has the journal {path} in use"]
    if path.exists():
        try:
            table = settings.runtime.backup_table
            contents = read_contents(path, table, JournalClock(), is_counted=True, with_parked=True)
            lines += view.file_lines(str(path), contents)
        except Unreadable as exc:
            lines.append(str(exc))
    return [f"VIGILO CRITICAL: {'; '.join(line.strip() for line in lines)}"] if as_plugin else lines, CRITICAL


def _unknown(text: str, as_plugin: bool) -> str:
    return f"VIGILO UNKNOWN: {text}" if as_plugin else text


def _watch(show: Callable[[], tuple[list[str], int]]) -> int:
    in_place = sys.stdout.isatty()
    if in_place:
        print("\x1b[2J", end="")
    status = UNKNOWN
    try:
        while True:
            lines, status = show()
            lines = [time.strftime("%H:%M:%S"), *lines]
            if in_place:
                print(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW, end="", flush=True)
            else:
                print("\n".join([*lines, ""]), flush=True)
            time.sleep(_WATCH_S)
    except (KeyboardInterrupt, BrokenPipeError):
        return status


def _name(connector: str) -> str:
    """Return the name that `run` gives a connector: of `package.module:build` it is the module's."""
    return connector.partition(":")[0].rpartition(".")[2] if ":" in connector else connector
