"""The commands `run` and `check`: settings, logging, signals, exit statuses."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

import gevent

from vigiloconn import __version__
from vigiloconn.cli.brokers import brokers_problems, uses
from vigiloconn.cli.surroundings import surroundings
from vigiloconn.cli.usage import UsageError, parse, parse_instance
from vigiloconn.connectors.operating import add_control, add_notifier
from vigiloconn.control.dump import dump
from vigiloconn.control.notify import Notifier
from vigiloconn.errors import SettingsError, StartError
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.kit import descriptors
from vigiloconn.kit.escape import printable
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, fail, say
from vigiloconn.kit.traces import frames_text
from vigiloconn.options import Settings, load_settings
from vigiloconn.settings import logsetup
from vigiloconn.settings.schema import Entry, own_table, settings_table
from vigiloconn.supervisor import Supervisor

log = logging.getLogger("vigiloconn")

Build = Callable[[Settings, Supervisor], None]

#: Tracked objects that are made before the collector looks at the young ones; 700 is Python's.
_YOUNG_OBJECTS = 5000

GROUP = "vigiloconn.connectors"


def main(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return the exit status."""
    options = parse(arguments)
    try:
        instance = parse_instance(options["--id"])
        name, build = find_connector(options["CONNECTOR"])
        own = declared_settings(build)
        if options["settings"]:
            return _print_settings(name, own)
        settings = load_settings(options["--config"], connector=name, instance=instance, own=own)
        if options["check"]:
            return _check(build, settings, connect=options["--connect"])
        logsetup.configure_logging(settings, options["--log-level"])
        supervisor = Supervisor(stop_timeout_s=settings.runtime.stop_timeout_s)
        notifier = add_notifier(supervisor)
        _call_build(build, settings, supervisor)
        operating = add_control(settings, supervisor, notifier)
    except (SettingsError, UsageError) as exc:
        return fail(exc, EXIT_USAGE)
    except StartError as exc:
        return fail(exc, EXIT_FAILED)
    gevent.signal_handler(signal.SIGHUP, _hang_up, supervisor, notifier)
    gevent.signal_handler(signal.SIGUSR1, dump, operating.report.document)
    return _run(settings, supervisor)


def find_connector(text: str) -> tuple[str, Build]:
    """Return a connector's name and its `build`, from a name or `package.module:build`. Raises `UsageError`.

    Modules are looked for in the working directory too, and there first.
    """
    if ":" in text:
        module_name, _, attribute = text.partition(":")
        # An installed program has its own directory there, not the one that it is called in.
        sys.path.insert(0, os.getcwd())
        return module_name.rpartition(".")[2], _load(text, module_name, attribute or "build")
    if text == "nagios":
        return text, _load(text, "vigiloconn.connectors.nagios", "build")
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == text:
            return text, _load(text, entry.module, entry.attr or "build")
    known = sorted({"nagios", *(entry.name for entry in importlib.metadata.entry_points(group=GROUP))})
    raise UsageError(f"CONNECTOR: expected one of {', '.join(known)} or package.module:build, got {text!r}")


def _load(text: str, module_name: str, attribute: str) -> Build:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise UsageError(f"CONNECTOR: {text!r}: no module {exc.name!r} (looked for in sys.path)") from exc
    build = getattr(module, attribute, None)
    if not callable(build):
        raise UsageError(f"CONNECTOR: {text!r}: {module_name} has no function {attribute!r}")
    found: Build = build
    return found


def declared_settings(build: Build) -> Sequence[Entry] | None:
    """Return what the connector's module declares as `SETTINGS` beside `build`; None where it declares nothing."""
    found: Sequence[Entry] | None = getattr(sys.modules.get(build.__module__), "SETTINGS", None)
    return found


def _print_settings(name: str, own: Sequence[Entry] | None) -> int:
    if name == "nagios":
        print(settings_table(), end="")
    elif own is None:
        say(f"{name} declares no settings of its own (SETTINGS beside its build)")
    else:
        print(own_table(f"connector-{name}", own), end="")
    return EXIT_DONE


def _call_build(build: Build, settings: Settings, supervisor: Supervisor) -> None:
    """Build the connector. What an author's code raises in ignorance becomes one line for the operator.

    Raises `SettingsError` and `StartError`.
    """
    try:
        build(settings, supervisor)
    except (SettingsError, StartError):
        raise
    except OSError as exc:
        log.debug("build failed", exc_info=True)
        raise StartError(_in_one_line(f"{settings.connector} can't be built", exc)) from exc
    except Exception as exc:
        log.debug("build failed", exc_info=True)
        place = settings.path or "defaults"
        raise SettingsError(_in_one_line(f"{place}: {settings.connector} can't be built", exc)) from exc


def _in_one_line(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {printable(error)}; at {frames_text(error, 1)}"


def _check(build: Build, settings: Settings, *, connect: bool) -> int:
    logsetup.check_sections(settings.logging, str(settings.path))
    supervisor = Supervisor()
    _call_build(build, settings, supervisor)
    has_journal = any(isinstance(part, BackupProvider) for part in supervisor.handlers)
    for warning in (*settings.warnings, *surroundings(settings, has_journal=has_journal)):
        say(f"warning: {warning}")
    if connect and not _check_brokers(settings, supervisor):
        return EXIT_FAILED
    print(f"{settings.path or 'no settings file: the defaults'}: in order")
    return EXIT_DONE


def _check_brokers(settings: Settings, supervisor: Supervisor) -> bool:
    """Say what is wrong with the brokers of each section; answer whether nothing is."""
    is_well = True
    for use in uses(settings, supervisor.handlers):
        problems = 0
        # Each when it is known: the next broker may take its time.
        for problem in brokers_problems(settings, use):
            say(problem)
            problems += 1
        if problems:
            is_well = False
        else:
            hosts = ", ".join(use.bus.hosts)
            print(f"[{use.section}] {hosts}: logged in, and all that the settings name is there and may be used")
    return is_well


def _run(settings: Settings, supervisor: Supervisor) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, supervisor.stop)
    log.info("%s %s starts with %s", settings.service_name, __version__, settings.path or "default settings")
    for warning in settings.warnings:
        log.warning("%s", warning)
    descriptors.raise_limit()
    _spare_the_collector()
    try:
        status = supervisor.run()
    except StartError as exc:
        log.critical("%s", exc)
        return EXIT_FAILED
    except Exception as exc:
        # An author's start_service: a port in use, a directory that is not there.
        log.debug("the start failed", exc_info=True)
        log.critical("%s", _in_one_line("the start failed", exc))
        return EXIT_FAILED
    log.info("%s stopped, status %d", settings.service_name, status)
    return status


def _spare_the_collector() -> None:
    """What is loaded now stays: to look through it again and again for garbage is what the collector costs."""
    gc.collect()
    gc.freeze()
    # Each message makes some objects that are tracked, and none of them a circle.
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _hang_up(supervisor: Supervisor, notifier: Notifier) -> None:
    notifier.reloading()
    logsetup.reopen_log_files()
    for handler in supervisor.handlers:
        handler.reload()
    notifier.reloaded()
