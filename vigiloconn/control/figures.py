"""The table of all figures: what each counts and what is normal. The one source of metrics and documentation.

`python -m vigiloconn.control.figures` prints the table of `docs/figures.md`; with that file's name behind it it is put
there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple

from vigiloconn.kit.tables import main, markdown_table

Kind = Literal["counter", "gauge"]


class Figure(NamedTuple):
    """One figure of one kind of part."""

    group: str
    name: str
    """As `stats()` gives it."""
    kind: Kind
    meaning: str
    normal: str
    metric: str = ""
    """The metric's name behind `vigilo_`, without `_total`; empty: group and name."""

    @property
    def metric_name(self) -> str:
        """The name under which it stands in the metrics."""
        return f"vigilo_{self.metric or f'{self.group}_{self.name}'}"


def _counters(group: str, *rows: tuple[str, str, str] | tuple[str, str, str, str]) -> list[Figure]:
    return [Figure(group, row[0], "counter", *row[1:]) for row in rows]


def _gauges(group: str, *rows: tuple[str, str, str] | tuple[str, str, str, str]) -> list[Figure]:
    return [Figure(group, row[0], "gauge", *row[1:]) for row in rows]


#: Which figure tells what kind of part it is that gives it.
MARKERS = {
    "journal": "backup", "publisher": "published", "client": "connected", "socket": "connections_total",
    "follow": "follow_position", "consumer": "acknowledged", "file": "conf_loads", "status": "states_sent",
    "operator": "loop_stall", "control": "control_requests",
}  # fmt: skip

FIGURES = (
    *_counters(
        "journal",
        ("accepted", "messages that were accepted: they are safe", "as many as lines are written"),
        ("dropped", "messages that were refused as `when_full` says", "0"),
    ),
    *_gauges(
        "journal",
        ("queue", "messages in memory, before their commit or before the publisher", "near 0", "journal_queue"),
        ("backup", "messages that wait in the journal, held ones included", "near 0; grows in an outage",
         "journal_messages"),
        ("backup_bytes", "bytes of those", "near 0; grows in an outage", "journal_bytes"),
        ("backup_in_buf", "messages that wait for their commit", "near 0", "journal_uncommitted"),
        ("backup_out_buf", "messages that wait in memory for the publisher", "near 0", "journal_read_ahead"),
        ("held", "messages of exchanges that are held", "0", "journal_held"),
        ("parked", "messages that are parked", "0", "journal_parked"),
        ("all_rows", "messages in all tables: what `journal_max_messages` bounds", "below 80 % of the bound"),
        ("all_bytes", "bytes in all tables: what `journal_max_bytes` bounds", "below 80 % of the bound"),
        ("writers_waiting", "writers that wait for room", "0"),
    ),
    *_counters(
        "publisher",
        ("sent", "publishes that the broker has confirmed; a batch is one", "as many as published"),
        ("published", "publishes that were written to the broker", "as many as sent; more after a lost connection"),
        ("confirmed", "messages that the broker has confirmed", "as many as accepted"),
        ("returned", "publishes that no queue wanted", "0"),
        ("nacked", "publishes that a queue refused", "0"),
        ("expired", "messages that have waited for longer than their TTL", "0"),
        ("parked", "messages that were parked", "0"),
        ("unroutable", "messages that no queue wanted and that `when_unroutable = drop` forgets", "0"),
    ),
    *_gauges(
        "publisher",
        ("in_flight", "publishes that the broker has not answered", "at most `window`"),
        ("held_exchanges", "exchanges that are held or silent", "0"),
    ),
    *_gauges("client", ("connected", "1 while there is a connection to a broker", "1")),
    *_counters("client", ("connections", "connections that were made", "1, and one for each change of broker")),
    *_counters(
        "socket",
        ("received", "lines that were taken", "as many as are written", "socket_lines"),
        ("malformed", "lines that are none", "0"),
        ("too_long", "lines above 64 KiB", "0"),
        ("synced", "questions for acceptance that were answered `synced`", "as many as are asked"),
        ("failed", "questions for acceptance that were answered `failed`", "0"),
        ("connections_total", "writers that have come", "no matter", "socket_connections_made"),
        ("refused", "writers that were refused, for want of descriptors", "0"),
    ),
    *_gauges("socket", ("connections", "writers that are connected", "as many as there are")),
    *_counters(
        "follow",
        ("follow_lines", "lines that were taken of the file", "as many as are written", "follow_lines"),
        ("follow_malformed", "of these, lines that are none", "0", "follow_malformed"),
        ("follow_too_long", "lines above 64 KiB", "0", "follow_too_long"),
        ("follow_torn", "last lines of a file without an end", "0", "follow_torn"),
        ("follow_reclaimed_bytes", "bytes that were given back to the disk", "no matter", "follow_reclaimed_bytes"),
    ),
    *_gauges(
        "follow",
        ("follow_position", "how far the file is read, in bytes", "near the file's end", "follow_position_bytes"),
        ("follow_lag_bytes", "bytes that are not read yet", "near 0", "follow_lag_bytes"),
        ("follow_lag_s", "for how long there is something unread", "below a few seconds", "follow_lag_seconds"),
    ),
    *_counters(
        "consumer",
        ("received", "messages that came from the bus", "no matter"),
        ("redelivered", "of these, those that had come before", "0; some after a lost connection"),
        ("acknowledged", "messages that are done", "as many as received"),
        ("rejected", "messages that were rejected", "0"),
        ("too_large", "of these, those above `max_message`", "0"),
        ("processed", "messages that were handled", "as many as received"),
        ("failed", "tries that failed", "0"),
        ("dead_lettered", "messages that went to the queue `QUEUE.dead`", "0"),
        ("commands_written", "commands that were written to Nagios' pipe", "as many as come"),
        ("pipe_waits", "how often Nagios was away, or its pipe full", "0"),
        ("command_files", "files of grouped commands", "no matter"),
        ("other_type", "messages that are no commands", "0"),
        ("other_host", "messages for hosts that this Nagios does not know", "no matter"),
        ("not_accepted", "commands that `accepted_commands` does not name", "0"),
    ),
    *_gauges(
        "consumer",
        ("ready", "messages that wait here to be handled", "at most `prefetch_count`"),
        ("nagios_reads", "1 while Nagios reads its pipe", "1"),
    ),
    *_counters(
        "file",
        ("conf_loads", "how often the file was read", "no matter"),
        ("conf_failures", "how often it could not be read, or was broken", "0"),
    ),
    *_counters(
        "status",
        ("states_sent", "states that were sent to the bus", "one in each `status_period`"),
        ("figures_skipped", "figures that were not sent, for want of room", "0"),
    ),
    *_gauges("operator", ("loop_stall", "the longest time of the last minute for which nothing else could run, in "
                          "seconds", "below 0.1", "loop_stall_seconds")),
    *_counters("operator", ("loop_stalled", "sum of such times, in seconds", "grows slowly", "loop_stalled_seconds")),
    *_counters(
        "control",
        ("control_requests", "requests on the control socket", "no matter", "control_requests"),
        ("retried", "parked messages that an operator had sent again", "0"),
        ("discarded", "messages that an operator has deleted", "0"),
        ("moved", "held messages that an operator gave to another exchange", "0"),
        ("imported", "messages that an operator has put into the journal", "0"),
    ),
)  # fmt: skip

_BY_KEY = {(figure.group, figure.name): figure for figure in FIGURES}


def group_of(figures: Mapping[str, float]) -> str | None:
    """Return what kind of part gives these figures, None for an author's own."""
    return next((group for group, marker in MARKERS.items() if marker in figures), None)


def find(group: str | None, name: str) -> Figure | None:
    """Return what is known of a figure, None where nothing is."""
    return _BY_KEY.get((group or "", name))


def table() -> str:
    """Return the Markdown table."""
    rows = [
        (figure.group, f"`{figure.name}`", f"`{figure.metric_name}{'_total' if figure.kind == 'counter' else ''}`",
         figure.meaning, figure.normal)
        for figure in FIGURES
    ]  # fmt: skip
    return markdown_table(("part", "figure", "metric", "meaning", "normal"), rows)


if __name__ == "__main__":
    main("vigiloconn.control.figures", table(), sys.argv[1:])
