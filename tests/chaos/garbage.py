"""Random bytes and texts of the kinds that break parsers. Pure."""

from __future__ import annotations

import random

_NASTY = (
    b"\0", b"\r", b"\n", b"\r\n", b"\x7f", b"\x1b[31m", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"|", b"||", b";", b"\\", b"%", b"%s", b"{}", b'"', b"'", b",", b"[",
    b"]", b"#", b"=", b":", b"-1", b"0", b"1e400", b"nan", b"inf", b"9" * 30, b" ", b"\t", b"A" * 300,
    "é𝄞\u202e".encode(), b"sync|", b"failed|",
)
_NASTY_TEXTS = (
    *(piece.decode("utf-8", "surrogateescape") for piece in _NASTY),
    "\ud800", "\u2028", "\x85", "１２", "1_000", "0x10", "true", "None", "()", "${x}", "%(x)s",
)


def some_bytes(chance: random.Random, most: int = 60) -> bytes:
    """Return up to `most` random bytes."""
    return chance.randbytes(chance.randint(0, most))


def nasty_bytes(chance: random.Random) -> bytes:
    """Return a few pieces that have a meaning to some parser."""
    return b"".join(chance.choices(_NASTY, k=chance.randint(1, 3)))


def nasty_text(chance: random.Random) -> str:
    """Return a few such pieces as text, lone surrogates included."""
    return "".join(chance.choices(_NASTY_TEXTS, k=chance.randint(1, 3)))


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Return `data` with some changes: bytes flipped, cut out, doubled, put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randint(0, len(changed))
        upto = min(len(changed), at + chance.choice((1, 1, 2, 8, 64)))
        match chance.randrange(5):
            case 0 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at:upto]
            case 2:
                changed[at:at] = changed[at:upto]
            case 3:
                changed[at:at] = nasty_bytes(chance)
            case _:
                changed[at:upto] = some_bytes(chance, 8)
    return bytes(changed)
