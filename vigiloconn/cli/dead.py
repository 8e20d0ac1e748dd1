"""`vigilo-bus-config dead`: what is done with dead letters, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vigiloconn.consuming.deadletter import SUFFIX
from vigiloconn.consuming.deadqueue import DeadQueue, Letter, dead_queue, looking_counts
from vigiloconn.errors import SettingsError
from vigiloconn.interfaces import Connection
from vigiloconn.kit.escape import printable
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, fail
from vigiloconn.kit.progress import Progress
from vigiloconn.settings import values

_TEXT_CHARS = 60
_BODY_CHARS = 100_000


def work_on_dead(connection: Connection, options: dict[str, Any], program: str) -> int:
    """Do what the command line says with the dead letters of its QUEUE; return the exit status."""
    queue = dead_queue(options["QUEUE"])
    if why := looking_counts(connection, queue):
        if not options["--yes"]:
            return fail(f"queue {queue}: {why}: it takes --yes", EXIT_USAGE, program)
    elif options["drop"] and not options["--yes"]:
        return fail(f"queue {queue}: letters would be deleted for good: it takes --yes", EXIT_USAGE, program)
    with DeadQueue.opened(connection, queue) as dead:
        if options["list"]:
            return _list(dead, options)
        if options["show"]:
            return _show(dead, number_of(options), program)
        return _requeue(dead, options) if options["requeue"] else _drop(dead, options)


def number_of(options: dict[str, Any]) -> int:
    """Return the NUMBER of the letter to show. Raises `SettingsError`."""
    return _whole("NUMBER", options["NUMBER"])


def _list(dead: DeadQueue, options: dict[str, Any]) -> int:
    count = 0
    for letter in _meant(dead, options, default_limit=100):
        came = f"{letter.headers.get('x-vigilo-exchange', '?')} {letter.headers.get('x-vigilo-routing-key', '?')}"
        text = letter.body[:_TEXT_CHARS].decode("utf-8", "replace")
        print(f"{letter.number}  {printable(letter.reason)}  [{printable(came)}]  {printable(text)}")
        count += 1
    print(f"{count} dead letters shown; all are still in queue {dead.queue}")
    return EXIT_DONE


def _show(dead: DeadQueue, number: int, program: str) -> int:
    for letter in dead.letters(number):
        if letter.number == number:
            print(f"reason:      {printable(letter.reason, 2000)}")
            for name, value in {**letter.headers, **letter.properties}.items():
                if name != "x-vigilo-reason":
                    print(f"{printable(name)}: {printable(value, 2000)}")
            print(f"body:        {printable(letter.body.decode('utf-8', 'replace'), _BODY_CHARS)}")
            return EXIT_DONE
    return fail(f"queue {dead.queue} has no letter {number}", EXIT_FAILED, program)


def _requeue(dead: DeadQueue, options: dict[str, Any]) -> int:
    queue = dead.queue.removesuffix(SUFFIX)
    with Progress("requeued") as progress:
        done = dead.requeue(_meant(dead, options), queue, progress.did)
    print(f"{done} dead letters are in queue {queue} again")
    return EXIT_DONE


def _drop(dead: DeadQueue, options: dict[str, Any]) -> int:
    done = 0
    with Progress("dropped") as progress:
        for letter in progress.each(_meant(dead, options)):
            dead.drop(letter)
            done += 1
    print(f"{done} dead letters deleted")
    return EXIT_DONE


def _meant(dead: DeadQueue, options: dict[str, Any], default_limit: int | None = None) -> Iterator[Letter]:
    limit = default_limit if options["--limit"] is None else _whole("--limit", options["--limit"])
    reason = options["--reason"]
    meant = 0
    for letter in dead.letters():
        if limit is not None and meant >= limit:
            return
        if reason is None or reason in letter.reason:
            meant += 1
            yield letter


def _whole(name: str, text: str) -> int:
    try:
        found: int = values.whole(1)(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}") from None
    return found
