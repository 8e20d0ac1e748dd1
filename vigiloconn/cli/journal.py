"""`vigilo-connector journal`: its command line. Imports no gevent: there is nothing here to wait for but a disk."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from vigiloconn import __version__
from vigiloconn.cli.desks import become_owner
from vigiloconn.cli.journalchanges import Changes
from vigiloconn.cli.journaltext import columns, details, row, total_lines
from vigiloconn.cli.usage import UsageError, parse_instance
from vigiloconn.errors import SettingsError, VigiloError
from vigiloconn.journal.amend import Order
from vigiloconn.journal.lines import to_line
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry
from vigiloconn.journal.reader import JournalReader
from vigiloconn.kit.arguments import parse_arguments
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, fail, say
from vigiloconn.kit.lockfile import holder_of
from vigiloconn.kit.progress import Progress
from vigiloconn.options import Settings, load_settings

PROGRAM = "vigilo-connector journal"
_TABLES = (WAITING, HELD, PARKED)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_NAMED = 20

USAGE = f"""Look at what is in a connector's journal and change it, whether the connector runs or not.

Usage:
  {PROGRAM} count [options]
  {PROGRAM} list [--waiting | --held | --parked] [options]
  {PROGRAM} show ID [options]
  {PROGRAM} export [--waiting | --held | --parked] [options]
  {PROGRAM} import FILE [options]
  {PROGRAM} retry (ID... | --all) [options]
  {PROGRAM} move --from EXCHANGE [--to EXCHANGE] [options]
  {PROGRAM} discard (--waiting | --held | --parked) (ID... | --older-than AGE | --all) [options]
  {PROGRAM} verify [options]
  {PROGRAM} salvage DAMAGED [options]
  {PROGRAM} --help

Commands:
  count    How many messages wait, are held for an exchange that does not take them, are parked with a reason.
  list     The oldest ones, a line each.
  show     All that is known of one message.
  export   A line of JSON for each message, on standard output. Changes nothing.
  import   Accept what `export` wrote (FILE - is standard input), under new numbers, with its times; what was parked
           is parked.
  retry    Send parked messages again: under new numbers, with the time of their first acceptance.
  move     Hold what is held for one exchange for another one: without --to for the one where [publications] sends
           its type.
  discard  Delete messages for good; never what is on its way to the broker.
  verify   Check that the file and each message in it can be read.
  salvage  Take what can be read of a damaged file (backup.sqlite.damaged-DATE) into the journal.

Options:
  --waiting             What waits to be sent.
  --held                What is held for an exchange.
  --parked              What is parked.
  --all                 All of them.
  --type TYPE           Only messages of this type.
  --exchange EXCHANGE   Only what is for this exchange.
  --reason TEXT         Only what is parked for a reason with this text in it.
  --older-than AGE      Only what was accepted longer ago: 90s, 15m, 12h, 7d.
  --limit N             At most so many lines of `list` [default: 100].
  --from EXCHANGE       Where from.
  --to EXCHANGE         Where to.
  --yes                 Do it: `discard` without it says how many it would delete.
  --connector NAME      The connector [default: nagios].
  -c --config FILE      Its settings; without it /etc/vigilo/NAME/settings.ini where there is one, else the defaults.
  -i --id N             Its instance.
  -h --help             Show this.

What is looked at is the file itself. Changes are made by the connector where one runs, on its control socket, and on
the file where none does; standard error says which. They are for root and for the connector's own user.

Exit status: 0 done; 1 it could not be done, or not all of it; 2 usage or settings.
"""


def main(arguments: list[str]) -> int:
    """Do what `arguments`, which begin with `journal`, say, and return the exit status."""
    options = parse_arguments(USAGE, arguments, f"{PROGRAM} {__version__}", PROGRAM)
    # What the journal itself has to say is for this person.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=f"{PROGRAM}: %(message)s")
    try:
        instance = parse_instance(options["--id"])
        settings = load_settings(options["--config"], connector=options["--connector"], instance=instance)
        return _Command(options, settings).run()
    except (UsageError, SettingsError) as exc:
        return fail(exc, EXIT_USAGE, PROGRAM)
    except VigiloError as exc:
        return fail(exc, EXIT_FAILED, PROGRAM)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_FAILED, PROGRAM)


class _Command:
    """One call of the program: what is looked at, and whose it is."""

    def __init__(self, options: dict[str, Any], settings: Settings) -> None:
        if settings.runtime.backup_file == ":memory:":
            raise UsageError("backup_file is :memory:, as the settings say: there is no file to look at")
        self._options = options
        self._settings = settings
        self._path = Path(os.path.realpath(settings.runtime.backup_file))
        # Opened while this is still root.
        self._source = _opened(options["FILE"]) if options["import"] else None
        become_owner(self._path)
        self._process = holder_of(f"{self._path}.lock")

    def run(self) -> int:
        """Do it and return the exit status."""
        options = self._options
        looks: dict[str, Callable[[JournalReader], int]] = {
            "count": self._count, "list": self._list, "show": self._show, "export": self._export,
            "verify": self._verify,
        }  # fmt: skip
        say(f"{self._path}: {self._who()}", PROGRAM)
        for name, look in looks.items():
            if options[name]:
                with self._reader() as reader:
                    return look(reader)
        return self._change()

    def _who(self) -> str:
        if self._process is not None:
            return f"process {self._process} runs on it"
        lock = Path(f"{self._path}.lock")
        # The lock is its owner's alone, as the journal is.
        if lock.exists() and not os.access(lock, os.R_OK, effective_ids=True):
            return "this user can't see whether a connector runs on it"
        return "no connector runs on it"

    def _reader(self) -> JournalReader:
        return JournalReader(self._path, self._settings.runtime.backup_table)

    # -- looking ---------------------------------------------------------------------------------------------

    def _count(self, reader: JournalReader) -> int:
        for table in _TABLES:
            with Progress(f"counting {table}") as progress:
                total = reader.total(table, progress.each)
            print(*total_lines(table, total, reader.clock.now()), sep="\n")
        return EXIT_DONE

    def _list(self, reader: JournalReader) -> int:
        limit = _whole("--limit", self._options["--limit"])
        entries = [entry for order in self._orders() for entry in islice(self._meant(reader, order), limit + 1)]
        now = reader.clock.now()
        print(*columns([row(entry, self._exchange(entry), now) for entry in entries[:limit]]), sep="\n")
        if len(entries) > limit:
            say(f"there are more than these {limit}: --limit shows them", PROGRAM)
        return EXIT_DONE

    def _show(self, reader: JournalReader) -> int:
        number = _whole("ID", self._options["ID"][0])
        entry = reader.find(number)
        if entry is None:
            return fail(f"message {number} is not in the journal", EXIT_FAILED, PROGRAM)
        print(*details(entry, self._exchange(entry), reader.clock.now()), sep="\n")
        return EXIT_DONE

    def _export(self, reader: JournalReader) -> int:
        with Progress("exported") as progress:
            for order in self._orders():
                for entry in progress.each(self._meant(reader, order)):
                    sys.stdout.buffer.write(to_line(entry))
        sys.stdout.buffer.flush()
        return EXIT_DONE

    def _verify(self, reader: JournalReader) -> int:
        status = EXIT_DONE
        if self._process is not None:
            say("the file is in use: all messages are read, but not all pages of the file", PROGRAM)
        else:
            for verdict in reader.verdicts():
                status = fail(verdict, EXIT_FAILED, PROGRAM)
        for table in _TABLES:
            messages = 0
            strange: list[int] = []
            with Progress(f"verified {table}") as progress:
                for entry in progress.each(reader.all_of(table)):
                    messages += 1
                    if not entry.type:
                        strange.append(entry.id)
            for number in strange[:_MOST_NAMED]:
                say(f"{table}: {number} is no JSON object with a type: it can't be sent", PROGRAM)
            status = EXIT_FAILED if strange else status
            print(f"{table}: {messages} can be read, {len(strange)} of them are no messages")
        return status

    # -- changing --------------------------------------------------------------------------------------------

    def _change(self) -> int:
        options = self._options
        changes = Changes(self._settings, self._path, self._process, PROGRAM)
        if self._source is not None:
            return changes.put_back(self._source)
        if options["salvage"]:
            path = Path(os.path.realpath(options["DAMAGED"]))
            if path == self._path:
                raise UsageError(f"{path} is the journal itself: a damaged one is set aside at the connector's start")
            return changes.salvage(path)
        ids = [_whole("ID", text) for text in options["ID"]]
        if options["retry"]:
            return changes.retry(self._order(PARKED), ids)
        if options["move"]:
            return changes.move(self._order(HELD, options["--from"]), options["--to"])
        [table] = [name for name in _TABLES if options[f"--{name}"]]
        if table == WAITING and options["--exchange"]:
            raise UsageError("--exchange: what waits has no exchange yet: expected --type")
        if not options["--yes"]:
            with self._reader() as reader:
                count = len(ids) or sum(1 for _ in self._meant(reader, self._order(table)))
            return fail(f"{count} {table} messages would be deleted for good: it takes --yes", EXIT_USAGE, PROGRAM)
        return changes.discard(self._order(table), ids)

    # -- what is meant ---------------------------------------------------------------------------------------

    def _orders(self) -> list[Order]:
        chosen = [name for name in _TABLES if self._options[f"--{name}"]]
        return [self._order(table) for table in chosen or _TABLES]

    def _order(self, table: str, exchange: str | None = None) -> Order:
        options = self._options
        age = options["--older-than"]
        return Order(
            table=table, type=options["--type"], reason=options["--reason"],
            exchange=exchange or (options["--exchange"] if table != WAITING else None),
            older_than_s=None if age is None else _seconds(age),
        )  # fmt: skip

    def _meant(self, reader: JournalReader, order: Order) -> Any:
        wanted = self._options["--exchange"]
        # What waits goes where its type does, which the file does not say.
        return (entry for entry in reader.entries(order) if wanted is None or self._exchange(entry) == wanted)

    def _exchange(self, entry: Entry) -> str:
        return entry.exchange if entry.table != WAITING else self._settings.publication(entry.type).exchange


def _opened(name: str) -> Any:
    try:
        return sys.stdin.buffer if name == "-" else open(name, "rb")
    except OSError as exc:
        raise UsageError(f"{name}: can't be read: {exc.strerror}") from exc


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise UsageError(f"--older-than: expected a time such as 90s, 15m, 12h or 7d, got {text!r}")
    return int(match[1]) * _UNITS_S[match[2]]
