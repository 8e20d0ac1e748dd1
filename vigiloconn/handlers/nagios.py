"""Commands from the bus to Nagios: what passes, in which order, and what happens while Nagios is away.

Knows policy; how a command looks, the pipe and the files are known elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gevent.event import Event

from vigiloconn.errors import BadMessage, PipeClosed, SettingsError
from vigiloconn.handlers.message import ItemFailed, MessageHandler, messagehandler_factory
from vigiloconn.interfaces import Client, Level, Problem
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.nagios.commandfiles import CommandFiles
from vigiloconn.nagios.commands import Skip, Translator, is_argument, process_file
from vigiloconn.nagios.pipe import CommandPipe
from vigiloconn.options import Settings
from vigiloconn.settings.values import Subscription

log = logging.getLogger(__name__)

#: How long commands are gathered for one file.
GATHER_S = 1.0
#: Periods of the looks at the pipe: growing up to the longest while Nagios is away, that one while it is not.
_FIRST_LOOK_S = 0.1
_MAX_LOOK_S = 1.5
_SWEEP_S = 60.0


class HostFilter(Protocol):
    """Knows which hosts this Nagios has."""

    def has_host(self, name: str) -> bool:
        """Answer whether messages of this host are for this Nagios."""


class NagiosCommandHandler(MessageHandler):
    """Writes the messages of a queue to Nagios' command pipe, in the queue's order, and acknowledges them then.

    While nobody reads the pipe nothing is consumed. With `files`, commands are gathered for up to a second, and
    several go as one file, with one PROCESS_FILE in the pipe; when a file can't be written they go one by one.

    Counters in `stats()`, beside those of `MessageHandler`: commands_written, pipe_waits, command_files,
    other_type, other_host, not_accepted; gauge: nagios_reads.
    """

    name = "nagios commands"
    max_workers = 1

    def __init__(
        self,
        pipe: CommandPipe,
        accepted_commands: Iterable[str],
        hosts: HostFilter | None = None,
        files: CommandFiles | None = None,
        *,
        log_traffic: bool = False,
    ) -> None:
        super().__init__()
        self._pipe = pipe
        self._translator = Translator(accepted_commands, hosts.has_host if hosts is not None else None)
        self._files = files
        self._log_traffic = log_traffic
        self._log_refused = RateLimitedLog(log, logging.ERROR)
        self._log_no_file = RateLimitedLog(log)
        self._counts: Counter[str] = Counter()
        self._files_waiting = 0
        self._no_file: str | None = None
        self._is_writing = False
        self._was_away = True
        """Another Nagios may read the pipe than the one that was told of the files."""
        self._look_now = Event()

    def subscribe(self, queue: str, subscriptions: Sequence[Subscription] = (), **options: Any) -> None:
        super().subscribe(queue, subscriptions, gather_s=0.0 if self._files is None else GATHER_S, **options)

    # -- life ------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        """Begin paused: consuming starts once Nagios is there."""
        if not self._translator.accepted_commands:
            log.warning("accepted_commands is empty: no command passes to Nagios")
        if "PROCESS_FILE" in self._translator.accepted_commands:
            log.warning("accepted_commands: with PROCESS_FILE any command passes that stands in some file")
        self._not_now = "Nagios was not looked for yet"

    def run(self) -> None:
        self._begin_helper(self._look_after_nagios, "pipe")
        super().run()

    def stop_service(self) -> None:
        super().stop_service()
        self._pipe.interrupt()
        self._look_now.set()

    def close(self) -> None:
        self._pipe.close()

    def reload(self) -> None:
        self._look_now.set()

    def stats(self) -> dict[str, float]:
        names = ("command_files", "other_type", "other_host", "not_accepted")
        return {
            **super().stats(),
            **self._pipe.stats(),
            **{name: self._counts[name] for name in names},
            "nagios_reads": float(self._not_now is None),
        }

    def problems(self) -> list[Problem]:
        found = super().problems()
        if not self._translator.accepted_commands:
            text = "accepted_commands is empty: no command passes to Nagios"
            found.append(Problem("no-accepted-commands", Level.WARNING, text))
        if self._no_file is not None:
            found.append(Problem("command-file-unwritten", Level.WARNING, self._no_file))
        if self._files_waiting and self._files is not None:
            text = (f"{self._files_waiting} files in {self._files.directory} wait for Nagios: expected it to "
                    "read and delete them within a minute")
            found.append(Problem("command-files-unread", Level.WARNING, text))
        return found

    def pause_producing(self) -> None:
        super().pause_producing()
        self._look_now.set()

    # -- the work --------------------------------------------------------------------------------------------

    def process_messages(self, batch: list[dict[str, Any]]) -> None:
        """Write the commands of these messages. Raises `ItemFailed` with the number of those that are done."""
        translate = self._translator.translate
        commands: list[bytes] = []
        places: list[int] = []
        skipped: list[tuple[int, Skip]] = []
        bad: ItemFailed | None = None
        for place, message in enumerate(batch):
            try:
                result = translate(message)
            except BadMessage as exc:
                bad = ItemFailed(place, exc)
                break
            if isinstance(result, Skip):
                skipped.append((place, result))
            else:
                commands.append(result)
                places.append(place)
        written, closed = self._write(commands)
        done = places[written] if written < len(commands) else bad.done if bad else len(batch)
        for place, skip in skipped:
            if place < done:
                self._note_skipped(skip)
        if closed is not None:
            raise ItemFailed(done, closed)
        if bad is not None:
            raise bad

    def _note_skipped(self, skip: Skip) -> None:
        self._counts[skip.figure] += 1
        if skip.figure == "not_accepted":
            self._log_refused("command %.80r is not in accepted_commands: not written", skip.detail)
        else:
            log.debug("not written: %s %.80r", skip.figure, skip.detail)

    def _write(self, commands: Sequence[bytes]) -> tuple[int, PipeClosed | None]:
        """Write, and return how many are written and why not all."""
        if self._log_traffic:
            for command in commands:
                log.debug("to Nagios: %r", command)
        written = 0
        self._is_writing = True
        try:
            if len(commands) > 1 and self._files is not None and self._write_file(commands, self._files):
                return len(commands), None
            while written < len(commands):
                written += self._pipe.write(commands[written:] if written else commands)
        except PipeClosed as exc:
            return written, exc
        finally:
            self._is_writing = False
        return written, None

    def _write_file(self, commands: Sequence[bytes], files: CommandFiles) -> bool:
        """Pass commands in a file. Returns False when there can't be one; raises `PipeClosed`, and leaves none then."""
        try:
            path = files.write(commands, self._pipe.group_id())
        except OSError as exc:
            self._no_file = f"{files.directory}: no file of commands can be written: {exc.strerror}"
            self._log_no_file("%s; they are written one by one", self._no_file)
            return False
        try:
            self._pipe.write([process_file(str(path), time.time())])
        except BaseException:
            files.discard(path)
            raise
        self._no_file = None
        self._counts["command_files"] += 1
        return True

    # -- Nagios comes and goes -------------------------------------------------------------------------------

    def _look_after_nagios(self) -> None:
        """Resume when Nagios reads the pipe, pause when it does not; a greenlet of the handler's."""
        delays = backoff_delays(_FIRST_LOOK_S, _MAX_LOOK_S)
        sweep_at_s = 0.0
        while not self._stopping:
            was_paused = self._source.is_paused
            self._look()
            if self._source.is_paused != was_paused:
                delays = backoff_delays(_FIRST_LOOK_S, _MAX_LOOK_S)
            if self._files is not None and time.monotonic() >= sweep_at_s:
                self._files_waiting = self._files.sweep()
                sweep_at_s = time.monotonic() + _SWEEP_S
            beat_s = seconds_to_beat(time.monotonic(), _MAX_LOOK_S)
            self._look_now.wait(next(delays) if self._source.is_paused else beat_s)
            self._look_now.clear()

    def _look(self) -> None:
        # A write that waits for room has a limit of its own.
        if self._is_writing:
            return
        try:
            self._pipe.check()
            if self._was_away and self._files is not None:
                self._tell_again(self._files)
            self._was_away = False
        except PipeClosed as exc:
            self._was_away = self._was_away or not self._pipe.has_reader
            reason = str(exc)
            if reason != self._not_now:
                log.warning("commands wait on the bus: %s", reason)
            self._not_now = reason
            if not self._source.is_paused:
                self.pause_producing()
        else:
            if self._source.is_paused:
                log.info("Nagios reads %s", self._pipe.path)
                self.resume_producing()

    def _tell_again(self, files: CommandFiles) -> None:
        """Tell Nagios of the files that are still there, before anything newer. Raises `PipeClosed`.

        The Nagios that was told of them may have died first. It deletes a file whose commands it has carried out, so
        being told twice costs a line in its log and nothing else.
        """
        self._files_waiting = files.sweep()
        commands = [process_file(str(path), time.time()) for path in files.left()]
        if commands:
            log.info("%s: Nagios is told again of %d files in it", files.directory, len(commands))
        told = 0
        while told < len(commands):
            told += self._pipe.write(commands[told:])


def nagioscommand_factory(
    settings: Settings, hosts: HostFilter | None, *, client: Client, publisher: Client | None = None
) -> NagiosCommandHandler:
    """Return a handler for the queue and the command pipe that `settings` name. Raises `SettingsError`."""
    nagios = settings.nagios
    if not nagios.nagios_pipe:
        raise SettingsError(f"{settings.path}: [connector-nagios] nagios_pipe: expected the path of the command pipe")
    files = CommandFiles(_files_directory(settings)) if nagios.group_nagios_commands else None
    handler = NagiosCommandHandler(
        CommandPipe(nagios.nagios_pipe), nagios.accepted_commands, hosts, files, log_traffic=settings.bus.log_traffic
    )
    return messagehandler_factory(settings, handler, client=client, publisher=publisher)


def _files_directory(settings: Settings) -> Path:
    """Return where files of commands go: beside the journal, or without one beside the pipe."""
    journal = settings.runtime.backup_file
    beside = settings.nagios.nagios_pipe if journal == ":memory:" else journal
    directory = Path(beside or "").absolute().parent / "commands"
    if not is_argument(str(directory)):
        raise SettingsError(f"{settings.path}: group_nagios_commands: {str(directory)!r}: expected a path without ';'")
    return directory
