"""A followed file's side of the flow: lines of a file into the journal, each once. Knows when, not which file or how.

The position is kept in the transaction that accepts the lines (`Batch.kept`), so nothing is taken twice and nothing is
left out, whatever ends when. What finds no room waits in the file.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from greenlet import greenlet

from vigiloconn.errors import SettingsError, StartError
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.interfaces import Batch, Level, Problem
from vigiloconn.journal.clock import read_boot_id
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.kit.turns import Turns
from vigiloconn.nagios.changes import HOST_PREFIX
from vigiloconn.nagios.records import Parsed, RecordReader
from vigiloconn.options import Settings
from vigiloconn.serialize import MAX_LINE_BYTES
from vigiloconn.sources.identity import Mark, parse_mark
from vigiloconn.sources.pieces import FileChanged, FileReader, Piece
from vigiloconn.sources.reclaim import CantReclaim, Puncher, remove
from vigiloconn.sources.trail import Done, NoFile, Trail, check_kind, encode_done, parse_done
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: What the names of the kept texts begin with; the path as the settings have it follows.
KEPT_PREFIX = "follow:"
#: The same for files that are done and still to be removed.
_DONE_PREFIX = "followed:"
#: The kernel tells of each change; this is for what it can't tell of, and for files that come and go.
_POLL_S = 1.0
#: After lines were taken the next look waits so long, that many can share it.
_GATHER_S = 0.02
#: A file that is not there is a problem when it has not come after this time.
_MISSING_SHOWN_S = 60.0


class _Halted(Exception):
    """Ends the wait for room in the journal: it is time to stop, and the file keeps what is in it."""


class _Watch:
    """The kernel's word of each change to a file."""

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._on_change = on_change
        self._name = ""
        self._watcher: Any = None

    def go_to(self, name: str) -> None:
        """Watch this file and no other one."""
        if name != self._name:
            self.close()
            self._name = name
            self._watcher = gevent.get_hub().loop.stat(name, _POLL_S)
            self._watcher.start(self._on_change)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None


class FileFollower(Handler):
    """Takes whole lines that somebody appends to a file, and gives room back as `reclaim` says: keep, remove, punch.

    `others` are the paths of other followers. Gauges in `stats()`: follow_position, follow_lag_bytes, follow_lag_s.
    """

    def __init__(
        self,
        path: str,
        provider: BackupProvider,
        *,
        reclaim: str = "keep",
        with_service: bool = False,
        others: Collection[str] = (),
        max_line_bytes: int = MAX_LINE_BYTES,
        boot_id: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"follow {path}"
        self.path = path
        self.lines = 0
        self.malformed = 0
        self.too_long = 0
        self.reclaimed_bytes = 0
        self._provider = provider
        self._reclaim = reclaim
        self._with_service = with_service
        self._max_line_bytes = max_line_bytes
        self._monotonic = monotonic
        self._trail = Trail(
            path, max_line_bytes=max_line_bytes, others=others,
            boot_id=read_boot_id() if boot_id is None else boot_id, clock=monotonic,
        )  # fmt: skip
        self._known: dict[str, str] = {}
        self._records = self._new_reader()
        self._accepted: Mark | None = None
        self._file_began_at = 0
        self._on_its_way = 0
        self._is_at_end = False
        self._behind_since_s: float | None = None
        self._missing_since_s: float | None = None
        self._puncher = Puncher()
        self._to_remove: deque[Done] = deque()
        self._kept_done: str | None = None
        self._reclaim_trouble = ""
        self._turns = Turns()
        self._wake = Event()
        self._stopping = Event()
        self._putting: greenlet | None = None
        self._unread_log = RateLimitedLog(log, logging.ERROR, period_s=60.0)
        self._malformed_log = RateLimitedLog(log)
        self._too_long_log = RateLimitedLog(log)

    # -- life ---------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        """Find out how far the file was read. Raises `StartError` where the path leads to no file."""
        try:
            check_kind(self.path, os.stat(self.path).st_mode)
        except NoFile as exc:
            raise StartError(str(exc)) from exc
        except OSError:
            pass  # it may come, or be made readable, at any time
        self._known = self._provider.kept(HOST_PREFIX)
        self._records = self._new_reader()
        name = KEPT_PREFIX + self.path
        text = self._provider.kept(name).get(name)
        self._accepted = parse_mark(text)
        if text and self._accepted is None:
            log.error("%s: what the journal has kept of its position can't be read: it is read from its beginning",
                      self.path)
        self._trail.resume_from(self._accepted)
        self._resume_removing()

    def run(self) -> None:
        # Anew in each life: what an earlier one had read and not put is read again.
        self._records = self._new_reader()
        watch = _Watch(self._wake.set)
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                watch.go_to(self._trail.find_name())
                has_taken = self.take()
                self.give_back()
                if has_taken:
                    self._stopping.wait(_GATHER_S)
                self._wake.wait(seconds_to_beat(time.monotonic(), _POLL_S))
        except _Halted:
            pass
        finally:
            watch.close()

    def stop_service(self) -> None:
        """Take no more. What is in the file waits there for the next start."""
        self._stopping.set()
        self._wake.set()
        if self._putting is not None:
            gevent.kill(self._putting, _Halted())

    def close(self) -> None:
        self._trail.close()

    def take(self) -> bool:
        """Take what there is for now. True when there was something."""
        has_taken = False
        try:
            while not self._stopping.is_set() and self._take():
                has_taken = True
                self.give_back()
                self._turns.stand_back()
        except OSError as exc:
            trail = self._trail
            trail.trouble = f"followed file {self.path}: can't be read: {exc.strerror}; tried again"
            self._unread_log("%s", trail.trouble)
            trail.start_over()
        return has_taken

    def stats(self) -> dict[str, float]:
        """`follow_lines` were taken, `follow_malformed` of them are no message; `follow_too_long` were skipped."""
        return {
            "follow_lines": self.lines,
            "follow_malformed": self.malformed,
            "follow_too_long": self.too_long,
            "follow_torn": self._trail.torn,
            "follow_reclaimed_bytes": self.reclaimed_bytes,
            "follow_position": self._accepted.position if self._accepted else 0,
            "follow_lag_bytes": self._lag_bytes(),
            "follow_lag_s": self._monotonic() - self._behind_since_s if self._behind_since_s is not None else 0.0,
        }

    def problems(self) -> list[Problem]:
        found = []
        trail = self._trail
        if trail.trouble:
            found.append(Problem("follow-unreadable", Level.CRITICAL, trail.trouble, self.path))
        elif self._missing_since_s is not None and self._monotonic() - self._missing_since_s >= _MISSING_SHOWN_S:
            text = f"followed file {self.path}: does not exist: see that something writes it, or take it out of follow"
            found.append(Problem("follow-missing", Level.WARNING, text, self.path))
        trail.unreadable = [path for path in trail.unreadable if os.path.exists(path)]
        for path in trail.unreadable:
            text = f"followed file {self.path}: {path} was compressed before it was read: its lines are not taken"
            found.append(Problem("follow-compressed", Level.CRITICAL, text, path))
        if self._reclaim_trouble:
            text = f"followed file {self._reclaim_trouble}: what was taken stays in it (follow_reclaim)"
            found.append(Problem("follow-reclaim", Level.WARNING, text, self.path))
        return found

    def _new_reader(self) -> RecordReader:
        return RecordReader(self._known, with_service=self._with_service)

    # -- lines --------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Take the next piece, or go to the next file. False when there is nothing to take for now."""
        trail = self._trail
        if trail.reader is None and not self._is_begun():
            return False
        reader = trail.reader
        assert reader is not None
        try:
            piece = reader.read()
        except FileChanged:
            trail.start_over()
            return True
        if piece is None:
            return self._is_moved_on()
        if piece.position != reader.position:
            self._put(piece, reader)
        return True

    def _is_begun(self) -> bool:
        trail = self._trail
        if trail.begin():
            self._missing_since_s = None
            self._put_mark()
            return True
        if trail.trouble:
            self._missing_since_s = None
        elif self._missing_since_s is None:
            self._missing_since_s = self._monotonic()
            log.info("%s: is not there: waiting for it", self.path)
        waiting = trail.waiting_mark
        if waiting is not None and not self._on_its_way and waiting != self._accepted:
            # What comes meanwhile is read, be it renamed and this process ended before it is seen.
            self._put_batch(Parsed([], 0, [], {}), waiting)
        return False

    def _is_moved_on(self) -> bool:
        """The file was read to its end: leave it if it is done."""
        self._is_at_end = True
        self._note_lag()
        done = self._trail.move_on()
        if done is None:
            return False
        log.info("%s: the file was renamed and is read to its end: reading goes on in its successor", self.path)
        if self._reclaim == "remove":
            self._to_remove.append(done)
        self._put_mark()
        return True

    def _put(self, piece: Piece, reader: FileReader) -> None:
        parsed = self._records.parse(piece.lines)
        self._is_at_end = False
        self._note_lag()
        mark = self._trail.mark(piece.position, piece.tail)
        self._put_batch(parsed, mark)
        # At once: were it put again, its lines would be there twice.
        reader.advance(piece)
        self._trail.advance()
        self._known.update(parsed.changed)
        # Between two records the templates leave an empty line.
        self.lines += len(piece.lines) - piece.lines.count(b"")
        self._count_bad(piece, parsed)

    def _put_mark(self) -> None:
        """Let the journal know of a file that was begun, before anything is taken from it."""
        trail = self._trail
        assert trail.reader is not None
        self._file_began_at = trail.reader.position
        self._put_batch(Parsed([], 0, [], {}), trail.mark(trail.reader.position, trail.reader.tail))

    def _put_batch(self, parsed: Parsed, mark: Mark) -> None:
        done = encode_done(self._to_remove)
        kept: dict[str, str | None] = {KEPT_PREFIX + self.path: mark.text(), **parsed.changed}
        if done != self._kept_done:
            kept[_DONE_PREFIX + self.path] = done
        batch = Batch(parsed.items, parsed.size_bytes, on_accepted=partial(self._take_note, mark), kept=kept)
        # Before: it may be accepted before this greenlet comes to run again.
        self._on_its_way += 1
        self._putting = gevent.getcurrent()
        try:
            self._provider.put(batch)
            self._kept_done = done
        except BaseException:
            self._on_its_way -= 1
            raise
        finally:
            self._putting = None

    def _take_note(self, mark: Mark) -> None:
        """A batch is in the journal."""
        self._accepted = mark
        self._on_its_way -= 1
        self._note_lag()
        if not self._on_its_way:
            # For what may be given back now.
            self._wake.set()

    def _note_lag(self) -> None:
        if self._is_at_end and not self._on_its_way:
            self._behind_since_s = None
        elif self._behind_since_s is None:
            self._behind_since_s = self._monotonic()

    def _count_bad(self, piece: Piece, parsed: Parsed) -> None:
        self.malformed += parsed.malformed
        for line, why in parsed.rejected:
            self._malformed_log("%s: malformed line skipped, before byte %d: %s: %r",
                                self.path, piece.position, why, line[:200])
        self.too_long += len(piece.too_long)
        for start in piece.too_long:
            self._too_long_log("%s: line over %d bytes skipped, before byte %d; it begins with %r",
                               self.path, self._max_line_bytes, piece.position, start)

    def _lag_bytes(self) -> int:
        """Return what is not accepted yet."""
        trail, accepted = self._trail, self._accepted
        unread_bytes = trail.unread_bytes()
        if trail.reader is None:
            return unread_bytes
        is_of_this = accepted is not None and accepted.id == trail.id
        began_at = accepted.position if accepted and is_of_this else self._file_began_at
        return unread_bytes + trail.reader.position - began_at

    # -- room ---------------------------------------------------------------------------------------------------

    def give_back(self) -> None:
        """Give back what was taken and is on the disk by now."""
        if self._reclaim_trouble or self._accepted is None:
            return
        try:
            if self._reclaim == "punch":
                self._punch(self._accepted)
            while self._to_remove and self._accepted.id != self._to_remove[0].mark.id and not self._on_its_way:
                if not self._provider.is_synced():
                    return
                if not remove(*self._to_remove[0]):
                    return
                self._to_remove.popleft()
        except CantReclaim as exc:
            self._reclaim_trouble = str(exc)
            log.warning("%s: what was taken stays there", exc)

    def _resume_removing(self) -> None:
        """Go on with what an earlier life had read to its end and not removed yet."""
        if self._reclaim == "remove":
            name = _DONE_PREFIX + self.path
            self._kept_done = self._provider.kept(name).get(name)
            self._to_remove.extend(parse_done(self._kept_done))

    def _punch(self, accepted: Mark) -> None:
        # Only under its own name: it counts as writing, and the order of renamed files is that of the last writing.
        if self._puncher.is_due(accepted) and self._provider.is_synced():
            self.reclaimed_bytes += self._puncher.punch(self._trail.find_name(), accepted)


def filefollowers_factory(settings: Settings, provider: BackupProvider) -> list[FileFollower]:
    """Return a follower for each file that `follow` names. Raises `SettingsError`."""
    paths, reclaim = settings.nagios.follow, settings.nagios.follow_reclaim
    if paths and reclaim != "keep" and settings.runtime.backup_file == ":memory:":
        raise SettingsError(
            f"{settings.path or 'defaults'}: [connector-{settings.connector}] follow_reclaim: what was taken must be "
            f"on disk before it is given back: expected keep with backup_file = :memory:, got {reclaim}"
        )
    return [
        FileFollower(
            path, provider, reclaim=reclaim, with_service=settings.nagios.follow_with_service,
            others=[other for other in paths if other != path],
        )
        for path in paths
    ]  # fmt: skip
