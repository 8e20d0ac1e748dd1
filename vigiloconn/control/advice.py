"""The table of all problems: what each means and what to do about it. The one source of their documentation.

`python -m vigiloconn.control.advice` prints the table of `docs/problems.md`; with that file's name behind it it is put
there.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from vigiloconn.kit.tables import main, markdown_table


class Advice(NamedTuple):
    """What is known of a problem before it is there."""

    name: str
    level: str
    meaning: str
    what_to_do: str


ADVICE = (
    Advice("broker-blocked", "WARNING", "the broker has a memory or disk alarm and takes no messages; they gather in "
           "the journal; after `blocked_timeout` another broker is tried",
           "free memory or disk on the broker; `rabbitmqctl status` names its alarms"),
    Advice("bus-away", "WARNING, CRITICAL where the login is refused", "no connection to any broker; messages gather "
           "in the journal", "start the broker or mend the network; after a refused login check [bus] user, password, "
           "vhost"),
    Advice("channel-limit", "WARNING, CRITICAL where it allows none", "the broker allows fewer channels than there are "
           "exchanges, which take turns", "raise channel_max on the broker, or the user's limit"),
    Advice("command-file-unwritten", "WARNING", "a file with grouped commands could not be written",
           "make its directory writable for the connector's user"),
    Advice("command-files-unread", "WARNING", "Nagios does not read the files with grouped commands",
           "look whether Nagios runs and checks external commands (check_external_commands=1)"),
    Advice("configuration-file", "WARNING", "a distributed file is broken; what it said before is in force",
           "mend the file; it is read again by itself"),
    Advice("confirms-missing", "WARNING", "the broker takes messages and confirms none, and there is no other broker",
           "look at the broker's log and queues; a quorum queue may lack its majority"),
    Advice("control-unusable", "WARNING", "nothing can be asked of this process",
           "name another place in [connector] control, or start the connector again where the file was removed"),
    Advice("dead-letter-unsent", "WARNING", "a message that can't be handled can't be put aside either: it waits",
           "create the queue `QUEUE.dead`, or let the user declare it"),
    Advice("disk-full", "CRITICAL", "the journal's disk has no room; nothing new is accepted, publishing goes on",
           "make room on the disk, or let the bus take what waits"),
    Advice("exchange-held", "WARNING", "the broker refuses what goes to this exchange; it waits in order, others go on",
           "where it does not drain by itself, create the exchange or give the user the right to write"),
    Advice("exchange-silent", "WARNING", "messages to this exchange are not confirmed; further ones wait",
           "look at its queues: a quorum queue may lack its majority, a stream its leader"),
    Advice("follow-compressed", "CRITICAL", "a followed file was compressed before it was read: its lines are missing",
           "unpack it, send its lines with `vigilo-connector send`, and let logrotate wait (delaycompress)"),
    Advice("follow-missing", "WARNING", "a file that is to be followed does not exist",
           "see that something writes it, or take it out of `follow`"),
    Advice("follow-reclaim", "WARNING", "what was taken of a followed file can't be given back to the disk",
           "do what its words say, or leave out `follow_reclaim`"),
    Advice("follow-unreadable", "CRITICAL", "a followed file can't be read: its lines are not taken",
           "make it readable for the connector's user"),
    Advice("journal-busy", "CRITICAL", "another program has locked the journal; writers wait, nothing is dropped",
           "end that program's transaction: `fuser` names who has the file open"),
    Advice("journal-damaged", "CRITICAL", "the journal's file was damaged and is set aside with what was unread in it",
           "`vigilo-connector journal salvage FILE` takes what can be read of the old file; then move it away and "
           "start the connector again"),
    Advice("journal-full", "CRITICAL", "journal_max_messages or journal_max_bytes is reached; when_full applies",
           "let the bus take what waits, send or discard parked messages, or raise the bounds"),
    Advice("journal-log", "CRITICAL", "a reader keeps a transaction open, so that the journal's log can't be folded",
           "end that reader: `fuser` names who has the file open"),
    Advice("journal-unwritable", "CRITICAL", "the journal can't be written for another reason than room",
           "look whether its disk is mounted read-only or fails"),
    Advice("journal-volatile", "WARNING", "backup_file is :memory:, what waits is lost at a stop",
           "name a file in backup_file"),
    Advice("messages-dropped", "WARNING", "since the start, messages were refused as when_full says",
           "see why the journal was full; raise its bounds, or let those types wait (when_full)"),
    Advice("messages-parked", "WARNING", "messages that no queue wants, or that can't be sent, are set apart",
           "bind a queue to their exchange and send them again, or discard them"),
    Advice("nagios-config-unread", "WARNING", "nagios_config can't be read: messages of all hosts pass to Nagios",
           "make the file readable for the connector's user"),
    Advice("no-accepted-commands", "WARNING", "accepted_commands is empty: no command passes to Nagios",
           "name the commands that may pass in accepted_commands"),
    Advice("part-mute", "WARNING", "a part does not tell its state or its figures: a fault of the program",
           "report what the log says of it"),
    Advice("queue-bind", "WARNING", "the queue can't be bound to an exchange of `subscriptions`",
           "create the exchange or give the user the right to read it"),
    Advice("queue-consume", "WARNING", "the queue can't be consumed", "do what the broker's words say"),
    Advice("queue-declare", "WARNING", "the queue can't be declared, or was declared otherwise",
           "compare its arguments with queue_type and queue_messages_ttl"),
    Advice("queue-paused", "WARNING", "nothing is taken from the queue, because the one that it is for is away",
           "start Nagios, or what else reads"),
    Advice("socket-file", "CRITICAL", "the socket's file was removed or replaced: no new writer is heard",
           "start the connector again"),
    Advice("writers-blocked", "WARNING", "writers wait because nothing more can be accepted (when_full = block)",
           "see the problem beside it: a full disk, a full or locked journal"),
    Advice("writers-refused", "CRITICAL", "the limit on open files allows no more writers",
           "raise LimitNOFILE (ulimit -n), or let writers close their connections"),
)  # fmt: skip

_BY_NAME = {advice.name: advice for advice in ADVICE}


def advice_for(name: str) -> str:
    """Return what to do about a problem, "" where nothing is known: an author's own problem says it in its text."""
    known = _BY_NAME.get(name)
    return known.what_to_do if known else ""


def table() -> str:
    """Return the Markdown table."""
    rows = [(f"`{advice.name}`", *advice[1:]) for advice in ADVICE]
    return markdown_table(("problem", "level", "what it means", "what to do"), rows)


if __name__ == "__main__":
    main("vigiloconn.control.advice", table(), sys.argv[1:])
