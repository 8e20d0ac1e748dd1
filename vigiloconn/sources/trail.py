"""The trail of one followed path: which file is read now, from where, and which comes next. Knows files, not lines.

The path leads from file to file: the one that was read is renamed and another takes its name, or it is emptied, or
replaced. None is left before it is read to its end, as far as it can still be found.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.sources import rotated
from vigiloconn.sources.identity import FileId, Mark, fingerprint, first_data, has_before
from vigiloconn.sources.pieces import FileReader
from vigiloconn.sources.rotated import Found

log = logging.getLogger(__name__)

#: How long after its successor was seen to hold data a renamed file is looked at again. Who writes it may be told of
#: the new one a while later, but writes no more to the old one then.
_SECOND_LOOK_S = 0.5


class NoFile(OSError):
    """Raised when what stands at the path is no file that lines could be taken from."""


class Done(NamedTuple):
    """A file that was read to its end."""

    path: str
    """The path that was followed: the file has another name."""
    mark: Mark
    """Its end."""


def encode_done(files: Collection[Done]) -> str | None:
    """Return `files` as they are kept; None where there is none."""
    return msgspec.json.encode(list(files)).decode() if files else None


def parse_done(text: str | None) -> list[Done]:
    """Return the files that a text holds, none where it can't be read."""
    try:
        return msgspec.json.decode(text, type=list[Done]) if text else []
    except msgspec.MsgspecError:
        return []


class Trail:
    """Reads `path` and, before it, what bore its name since the mark that it resumes from.

    `others` are paths that are followed themselves: not to be taken for renamed ones. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        path: str,
        *,
        max_line_bytes: int,
        others: Collection[str] = (),
        boot_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.id = FileId(0, 0)
        self.reader: FileReader | None = None
        """The file that is read now; None while there is none."""
        self.trouble = ""
        """Why the file can't be read, in one line with what to do; empty when it can, or is only not there yet."""
        self.unreadable: list[str] = []
        """Compressed files whose lines are not taken."""
        self.torn = 0
        """Files whose last line had no newline when they were done."""
        self._name = path
        self._paths_of_others = others
        self._others: list[str] = []
        self._max_line_bytes = max_line_bytes
        self._boot_id = boot_id
        self._clock = clock
        self._mark: Mark | None = None
        self._began_ns = 0
        self._second_look_s: float | None = None
        self._listing_log = RateLimitedLog(log, logging.ERROR, period_s=600.0, clock=clock)

    def resume_from(self, mark: Mark | None) -> None:
        """Begin where an earlier life has ended; None: the path is followed for the first time."""
        self._mark = mark

    def mark(self, position: int, tail: bytes) -> Mark:
        """Return what is to be kept when the file that is read now was read up to a position, with `tail` before it."""
        return Mark(*self.id, position, fingerprint(tail), self._began_ns, self._boot_id)

    def find_name(self) -> str:
        """Return where the path leads by now: a link may be led to another file at any time."""
        try:
            self._name = os.path.realpath(self.path)
            self._others = [os.path.realpath(each) for each in self._paths_of_others]
        except FileNotFoundError:
            pass  # a link is replaced in this very moment: the next time will do
        return self._name

    def unread_bytes(self) -> int:
        """Return how many bytes are not read yet, as far as they are seen from here."""
        live = self._live()
        if self.reader is None:
            return live.size_bytes if live else 0
        return self.reader.unread_bytes() + (live.size_bytes if live and live.id != self.id else 0)

    def begin(self) -> bool:
        """Open the file where reading goes on. True when one was opened; see `trouble` else."""
        self.find_name()
        try:
            is_open = self._begin_first() if self._mark is None else self._resume(self._mark)
        except OSError as exc:
            self._note(_what_to_do(exc, self.path))
            return False
        self.trouble = ""
        return is_open

    @property
    def waiting_mark(self) -> Mark | None:
        """What is to be kept while the first file is waited for, None when it is not."""
        return self._mark if self._mark is not None and self._mark.is_waiting else None

    def start_over(self) -> None:
        """The file that was read has changed under the reader: look anew where its rest is."""
        assert self.reader is not None
        self._mark = self.mark(self.reader.position, self.reader.tail)
        self.close()

    def advance(self) -> None:
        """Something was read: the second look has to come after it."""
        self._second_look_s = None

    def move_on(self) -> Done | None:
        """The file was read to its end. Where it is done, leave it for the next one, and return which it was."""
        assert self.reader is not None
        self.find_name()
        live = self._live()
        if live is not None and live.id == self.id:
            self._second_look_s = None
            return None
        written_ns = os.fstat(self.reader.fd).st_mtime_ns
        newer = self._readable(rotated.after(self._renamed(), self.id, written_ns), written_ns)
        if any(each.size_bytes for each in newer):
            # Who writes has moved on twice.
            is_due = True
        elif live is not None and live.size_bytes:
            is_due = self._is_second_look_due()
        else:
            is_due, self._second_look_s = False, None
        # Read again, because what was written before the successor may have come since.
        return self._leave(newer) if is_due and self.reader.read() is None else None

    def close(self) -> None:
        """Let go of the file. Harmless when called twice."""
        self._second_look_s = None
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def _is_second_look_due(self) -> bool:
        if self._second_look_s is None:
            self._second_look_s = self._clock() + _SECOND_LOOK_S
        return self._clock() >= self._second_look_s

    def _leave(self, newer: list[Found]) -> Done | None:
        """Open what comes next, and let go of the file that is done. None when there is nothing to open."""
        assert self.reader is not None
        reader = self.reader
        done = Done(self._name, self.mark(reader.position, reader.tail))
        try:
            if not self._open_first(newer):
                return None
        except OSError as exc:
            self._note(_what_to_do(exc, self.path))
            return None
        self.trouble = ""
        self._second_look_s = None
        if rest := reader.unread_bytes():
            self.torn += 1
            log.warning("%s: %d bytes at the end of a file that is done are no whole line and are not taken",
                        self.path, rest)
        reader.close()
        return done

    def _note(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.error("%s", trouble)
        self.trouble = trouble

    # -- which file ---------------------------------------------------------------------------------------------

    def _live(self) -> Found | None:
        try:
            return rotated.look_at(self._name)
        except OSError:
            return None

    def _renamed(self) -> list[Found]:
        try:
            return rotated.renamed(self._name, self._others)
        except FileNotFoundError:
            return []
        except PermissionError as exc:
            self._listing_log("%s: its directory can't be read, so that renamed files are not found: %s: let the "
                              "connector's user or group read it", self.path, exc.strerror)
            return []

    def _readable(self, files: list[Found], since_ns: int) -> list[Found]:
        """Return `files`, which come next, without those that were compressed, and say which those are."""
        for each in files:
            # At that very moment: it is the file that is read, which others have compressed meanwhile.
            if each.is_compressed and each.written_ns > since_ns and each.path not in self.unreadable:
                self.unreadable.append(each.path)
                log.error("%s: %s was compressed before it was read: its lines are not taken; let the rotation leave "
                          "the latest file as it is (logrotate: delaycompress)", self.path, each.path)
        return [each for each in files if not each.is_compressed]

    def _open_first(self, files: list[Found]) -> bool:
        """Begin the oldest of renamed files or, where there is none, the one that bears the name."""
        first = files[0] if files else rotated.look_at(self._name)
        return first is not None and self._open(first)

    def _begin_first(self) -> bool:
        """Begin a path that was never read. Where there is no file, whatever comes from now on is to be read."""
        if self._open_first([]):
            return True
        # By the clock of the files themselves.
        since_ns = max((each.written_ns + 1 for each in self._renamed()), default=0)
        self._mark = Mark(0, 0, 0, fingerprint(b""), since_ns, self._boot_id)
        return False

    def _resume(self, mark: Mark) -> bool:
        """Open the file that a mark is of, or what comes after it."""
        live = rotated.look_at(self._name)
        if live is not None and live.id == mark.id and self._open(live, mark):
            return True
        renamed = self._renamed()
        if self._open_renamed(renamed, mark):
            return True
        return self._open_shorter(live, renamed, mark) or self._open_other(live, mark)

    def _open_renamed(self, renamed: list[Found], mark: Mark) -> bool:
        """Open the file that a mark is of under another name or, where it is gone, a copy of it."""
        # By its number first: a copy has the same bytes.
        for each in sorted(renamed, key=lambda each: each.id != mark.id):
            is_own = each.id == mark.id
            may_be_copy = mark.position > 0 and each.written_ns >= mark.began_ns
            if each.is_compressed or not (is_own or may_be_copy):
                continue
            try:
                if self._open(each, mark):
                    log.info("%s: reading goes on in %s, at byte %d", self.path, each.path, mark.position)
                    return True
            except PermissionError:
                if is_own:
                    raise
        return False

    def _open_shorter(self, live: Found | None, renamed: list[Found], mark: Mark) -> bool:
        """Open the file of a mark at its end if a crash of the machine has cost it some of what was read."""
        if mark.boot_id == self._boot_id:
            return False
        for each in [live, *renamed] if live else renamed:
            if each.id == mark.id and each.size_bytes < mark.position:
                log.warning("%s: %s is shorter since the machine was booted, %d bytes instead of %d: reading goes on "
                            "at its end", self.path, each.path, each.size_bytes, mark.position)
                return self._open(each, position=each.size_bytes)
        return False

    def _open_other(self, live: Found | None, mark: Mark) -> bool:
        """Open what is there now, which is not what was read."""
        newer = self._readable(rotated.since(self._renamed(), mark.began_ns), mark.began_ns)
        if not self._open_first(newer):
            return False
        if mark.is_waiting:
            return True
        what = "is another file, and the one that was read is not found"
        if live is not None and live.id == mark.id:
            what = "was emptied or written anew" if live.size_bytes < mark.position else "was written anew"
        log.warning("%s: %s: it is read from its beginning on; what was not read before is gone", self.path, what)
        return True

    def _open(self, found: Found, mark: Mark | None = None, position: int | None = None) -> bool:
        """Open a file at its first data, at a position or, if it is the one that was read, at a mark. False if it is
        another one. Raises `OSError`."""
        # O_NONBLOCK: a FIFO must not hang.
        fd = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            check_kind(self.path, status.st_mode)
            is_it = mark is None or has_before(fd, mark)
            if is_it:
                start = mark.position if mark else first_data(fd) if position is None else position
                self.reader = FileReader(fd, start, self._max_line_bytes)
        except BaseException:
            os.close(fd)
            raise
        if not is_it:
            os.close(fd)
            return False
        assert self.reader is not None
        self.id = FileId(status.st_dev, status.st_ino)
        self._began_ns = mark.began_ns if mark else status.st_mtime_ns
        self._mark = self.mark(start, self.reader.tail)
        return True


def check_kind(path: str, mode: int) -> None:
    """Raise `NoFile` where no regular file was found."""
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "something else"
        raise NoFile(f"followed file {path}: expected a file that somebody appends lines to, found {kind}: name "
                     "another one in follow")


def _what_to_do(exc: OSError, path: str) -> str:
    if isinstance(exc, NoFile):
        return str(exc)
    if isinstance(exc, PermissionError):
        return (f"followed file {exc.filename or path}: not readable for user id {os.geteuid()}: let it be read by the "
                "connector's user or group, and its directory entered; tried again")
    return f"followed file {exc.filename or path}: can't be read: {exc.strerror}; tried again"
