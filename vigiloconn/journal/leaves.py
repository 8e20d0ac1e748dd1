"""Rows in the leaf pages of a database file to which nothing leads any more. Knows SQLite's file format, no SQL.

A table is a tree: where its root or a page between is bad, or the page with the schema, SQLite reaches none of the
rows below, though they are all there. Here each page speaks for itself. File format: sections 1.5, 1.6, 1.8, 2.1 and
4.1 of SQLite's document of that name.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Value = int | float | bytes | None

_TABLE_LEAF = 13
_HEADER_BYTES = 100
_SIZES: tuple[int, ...] = tuple(2**power for power in range(9, 17))
#: Pages that are looked at to guess their size.
_SAMPLE = 1000
_LOG_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_LEAF_HEADER = struct.Struct(">BHHHB")
_POINTER = struct.Struct(">BI")
_FREE = 2
_POINTER_KINDS = range(1, 6)
#: No number of SQLite's is longer.
_VARINT_BYTES = 9
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Row(NamedTuple):
    """One row of some table."""

    rowid: int
    values: Sequence[Value]
    """As they are stored: text as its bytes, and None in place of a rowid's own column."""


class _Malformed(Exception):
    """Raised where bytes are no part of a table; it never leaves this module."""


class Leaves:
    """The leaf pages of the file at `path`, with its log.

    What was deleted can be met again where a file does not say which of its pages are free (one of an older version).
    Raises `OSError` when the file can't be read. To be closed; what it has opened it goes on reading if SQLite folds
    the log meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._log = -1
        if os.path.exists(f"{path}-wal"):
            self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._logged: dict[int, int] = {}
        self._page_bytes = self._told_size() or self._guessed_size()
        if self._log >= 0:
            self._logged = self._committed()
        self._pages = max(os.fstat(self._file).st_size // self._page_bytes, *self._logged, 0)
        self._knows_free = self._is_mapped()

    def close(self) -> None:
        for fd in (self._file, self._log):
            if fd >= 0:
                os.close(fd)

    def pages(self) -> Iterator[int]:
        """Go through the numbers of the pages that have rows of a table, but the first: that is the schema's."""
        for number in range(2, self._pages + 1):
            if self._is_leaf(self._page(number)) and not self._is_free(number):
                yield number

    def rows(self, number: int, backwards: bool = False) -> Iterator[Row]:
        """Go through the rows of one page that are whole, in their order."""
        page = self._page(number)
        cells = self._cells(page)
        for at in reversed(cells) if backwards else cells:
            try:
                yield self._row(page, at)
            except (_Malformed, IndexError, struct.error):
                continue

    def _row(self, page: bytes, at: int) -> Row:
        payload_bytes, at = _varint(page, at)
        rowid, at = _varint(page, at)
        return Row(rowid - (1 << 64) if rowid >= 1 << 63 else rowid, _values(self._payload(page, at, payload_bytes)))

    def _payload(self, page: bytes, at: int, size: int) -> bytes:
        """Return a row's bytes; what does not fit on its page stands on a chain of others."""
        usable = self._page_bytes
        most = usable - 35
        if size <= most:
            return _exactly(page, at, size)
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        local = local if local <= most else least
        if size > self._pages * usable:
            raise _Malformed
        parts = [_exactly(page, at, local)]
        (follower,) = struct.unpack_from(">I", page, at + local)
        left = size - local
        while left > 0:
            if not 2 <= follower <= self._pages:
                raise _Malformed
            overflow = self._page(follower)
            (follower,) = struct.unpack_from(">I", overflow)
            parts.append(_exactly(overflow, 4, min(left, usable - 4)))
            left -= usable - 4
        return b"".join(parts)

    def _cells(self, page: bytes) -> Sequence[int]:
        _, _, count, _, _ = _LEAF_HEADER.unpack_from(page)
        return struct.unpack_from(f">{count}H", page, _LEAF_HEADER.size)

    def _is_leaf(self, page: bytes) -> bool:
        """Answer whether a page looks like a leaf of a table, with a row at least, in all that its head says."""
        if len(page) < self._page_bytes or page[0] != _TABLE_LEAF:
            return False
        _, _, count, content, _ = _LEAF_HEADER.unpack_from(page)
        end = _LEAF_HEADER.size + 2 * count
        if not count or not end <= (content or 1 << 16) <= self._page_bytes:
            return False
        return all(end <= at < self._page_bytes for at in self._cells(page))

    def _page(self, number: int) -> bytes:
        at = self._logged.get(number)
        if at is not None:
            return os.pread(self._log, self._page_bytes, at)
        return os.pread(self._file, self._page_bytes, (number - 1) * self._page_bytes)

    def _is_mapped(self) -> bool:
        """Answer whether page 2 says of the pages behind it what each is for."""
        page = self._page(2)
        entries = min(self._page_bytes // _POINTER.size, self._pages - 2)
        if len(page) < self._page_bytes or entries < 1:
            return False
        return all(
            kind in _POINTER_KINDS and parent <= self._pages
            for kind, parent in (_POINTER.unpack_from(page, at * _POINTER.size) for at in range(entries))
        )

    def _is_free(self, number: int) -> bool:
        if not self._knows_free:
            return False
        # One map for so many pages, and itself.
        span = self._page_bytes // _POINTER.size + 1
        at = (number - 2) // span * span + 2
        page = self._page(at)
        place = (number - at - 1) * _POINTER.size
        return number == at or page[place : place + 1] == bytes([_FREE])

    def _told_size(self) -> int:
        header = os.pread(self._file, _HEADER_BYTES, 0)
        if not header.startswith(b"SQLite format 3\0"):
            return 0
        told = int.from_bytes(header[16:18], "big")
        told = 1 << 16 if told == 1 else told
        return told if told in _SIZES else 0

    def _guessed_size(self) -> int:
        """Return the size at which most pages look like leaves."""

        def found(size: int) -> int:
            self._page_bytes = size
            whole = os.fstat(self._file).st_size // size
            step = max(1, whole // _SAMPLE)
            looked = [os.pread(self._file, size, number * size) for number in range(1, whole, step)]
            return sum(map(self._is_leaf, looked)) * step

        return max((4096, *_SIZES), key=found)

    def _committed(self) -> dict[int, int]:
        """Return page -> place in the log, of what was committed there last."""
        header = os.pread(self._log, _LOG_HEADER.size, 0)
        if len(header) < _LOG_HEADER.size:
            return {}
        _, _, size, _, salt1, salt2, _, _ = _LOG_HEADER.unpack(header)
        committed: dict[int, int] = {}
        pending: dict[int, int] = {}
        if size != self._page_bytes:
            return {}
        at = _LOG_HEADER.size
        while len(frame := os.pread(self._log, _FRAME_HEADER.size, at)) == _FRAME_HEADER.size:
            number, pages_then, *salts, _, _ = _FRAME_HEADER.unpack(frame)
            if salts != [salt1, salt2]:
                break  # of an earlier round
            pending[number] = at + _FRAME_HEADER.size
            if pages_then:
                committed |= pending
                pending = {}
            at += _FRAME_HEADER.size + size
        return committed


def _values(payload: bytes) -> list[Value]:
    """Return the values of a record (section 2.1)."""
    header_bytes, at = _varint(payload, 0)
    if header_bytes > len(payload):
        raise _Malformed
    kinds = []
    while at < header_bytes:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, size = _value(payload, at, kind)
        values.append(value)
        at += size
    if at != len(payload):
        raise _Malformed
    return values


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, 0
    if kind in _INTEGER_BYTES:
        size = _INTEGER_BYTES[kind]
        return int.from_bytes(_exactly(payload, at, size), "big", signed=True), size
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], 8
    if kind in (8, 9):
        return kind - 8, 0
    if kind < 12:
        raise _Malformed
    size = (kind - 12) // 2
    return _exactly(payload, at, size), size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends (section 1.6)."""
    value = 0
    for byte in data[at : at + _VARINT_BYTES - 1]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def _exactly(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) < size:
        raise _Malformed
    return part
