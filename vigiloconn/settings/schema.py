"""The table of all settings: the one source of their defaults, their checks and their documentation.

`python -m vigiloconn.schema` prints the tables of `docs/settings.md`; with that file's name behind it they
are put into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vigiloconn.kit.limits import MAX_TTL_S
from vigiloconn.settings import values
from vigiloconn.settings.values import Converter

WHEN_FULL = {"*": "block", "perf": "drop-newest"}
WHEN_UNROUTABLE = {"*": "park"}

_BEGIN = "<!-- tables: python -m vigiloconn.schema docs/settings.md -->\n"
_END = "<!-- end of tables -->\n"


class Entry(NamedTuple):
    """One key of one section."""

    key: str
    attribute: str
    """Its name in the settings object; it carries the unit."""
    default: str | None
    """As one would write it in the file; None means unset."""
    convert: Converter
    doc: str
    unit: str = ""
    since: str = "new"
    """`twisted` where the Twisted connectors have the same key with the same meaning."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the key."""
    default_doc: str = ""
    """The default in words, where it is none or depends on the connector."""
    is_required: bool = False


def _old(
    key: str, default: str | None, convert: Converter, doc: str, *,
    attribute: str = "", unit: str = "", aliases: tuple[str, ...] = (), default_doc: str = "",
) -> Entry:
    return Entry(key, attribute or key, default, convert, doc, unit, "twisted", aliases, default_doc)


def _new(
    key: str, default: str | None, convert: Converter, doc: str, *,
    attribute: str = "", unit: str = "", default_doc: str = "",
) -> Entry:
    return Entry(key, attribute or key, default, convert, doc, unit, "new", (), default_doc)


def _time(key: str, default: str, doc: str, since: str = "new") -> Entry:
    return Entry(key, f"{key}_s", default, values.seconds, doc, "s", since)


BUS = (
    _old("hosts", "localhost", values.parse_hosts,
         "brokers, in order of preference: `host`, `host:port`, `[v6]`, `[v6]:port`; "
         "the port is 5672, with `use_ssl` 5671", aliases=("host",)),
    _old("user", "guest", values.plain, "account"),
    _old("password", "guest", values.secret, "its password; above is where else it may come from"),
    _new("password_file", None, values.optional_text, "file whose first line is the password"),
    _new("vhost", "/", values.text_value("a virtual host"), "virtual host"),
    _new("auth", "plain", values.auth_method,
         "how to log in: `plain` and `amqplain` with user and password, `external` with the client certificate"),
    _old("use_ssl", "False", values.flag, "TLS; certificate chain and host name are verified"),
    _new("ca_file", None, values.optional_text, "certificates of the authorities to trust (PEM)",
         default_doc="the system's"),
    _new("cert_file", None, values.optional_text, "client certificate (PEM)"),
    _new("key_file", None, values.optional_text, "its key (PEM)", default_doc="in `cert_file`"),
    _new("server_name", None, values.optional_text, "name that the broker's certificate must carry",
         default_doc="the host's"),
    _old("queue", None, values.amqp_name, "queue to consume"),
    _new("queue_type", "classic", values.queue_type, "type that the queue is declared with"),
    _old("queue_messages_ttl", "0", values.whole(0, MAX_TTL_S),
         "how long a message may wait in the queue; 0: for ever", attribute="queue_messages_ttl_s", unit="s"),
    _old("subscriptions", ",", values.frozen_subscriptions,
         "list of `exchange[:routing key]` to bind the queue to; the key defaults to the queue's name",
         default_doc="none"),
    _old("prefetch_count", "500", values.whole(1, 65535), "messages that the broker may send ahead", unit="messages"),
    _new("prefetch_bytes", "64 MiB", values.byte_count,
         "bound of what was sent ahead and is not finished; one message may be larger; suffix K, M, G", unit="bytes"),
    _new("max_body", "1 MiB", values.byte_count,
         "a larger message from the queue is not decoded, but a dead letter; suffix K, M, G",
         attribute="max_body_bytes", unit="bytes"),
    _new("max_message", "16 MiB", values.byte_count,
         "largest message that is taken from the queue, suffix K, M, G; a larger one is rejected unread",
         attribute="max_message_bytes", unit="bytes"),
    _new("dead_letter", "on", values.flag, "keep messages that can't be handled in a dead letter queue"),
    _new("workers", None, values.whole(1, 1000),
         "how many messages are worked side by side; order is kept within what the handler says",
         default_doc="the handler's, `1`"),
    _new("time_limit", None, values.seconds, "how long the work on one message may take before that try has failed",
         attribute="time_limit_s", unit="s", default_doc="the handler's, none"),
    _new("max_redeliveries", None, values.whole(0, 1000),
         "how often a message that fails is tried again before it is a dead letter",
         default_doc="the handler's, `5`"),
    _new("retry_first_delay", None, values.seconds, "the first pause between two tries of a message that fails",
         attribute="retry_first_delay_s", unit="s", default_doc="the handler's, `0.1` s"),
    _new("retry_max_delay", None, values.seconds, "the longest of these pauses, each twice the one before",
         attribute="retry_max_delay_s", unit="s", default_doc="the handler's, `10` s"),
    _new("retry_time", None, values.seconds_up_to(1500),
         "after this no further try is made; brokers close a channel that holds a message for 30 minutes",
         attribute="retry_time_s", unit="s", default_doc="the handler's, `300` s"),
    _old("batch_send_perf", "1", values.batch_size, "performance messages in one; 0 and 1: each alone",
         unit="messages"),
    _new("batch_linger_ms", "1000", values.whole(0, 600_000), "how long an incomplete batch waits for more", unit="ms"),
    _new("window", "2000", values.whole(1, 100_000), "messages under way that the broker has not confirmed yet",
         unit="messages"),
    _new("heartbeat", "30", values.whole(1, 65535), "the connection is given up when it is silent for two of these",
         attribute="heartbeat_s", unit="s"),
    _time("connect_timeout", "10", "how long connecting and logging in may take"),
    _time("confirm_timeout", "30",
          "how long a broker may owe confirms and give none before another one, where there is one, is tried"),
    _time("blocked_timeout", "60", "how long a broker may refuse messages (an alarm) before another one is tried"),
    _time("max_reconnect_delay", "60", "longest pause between two tries to connect", since="twisted"),
    _time("failback_delay", "300", "after how long on another broker a preferred one is tried again"),
    _old("log_traffic", "False", values.flag, "log every message, at debug level"),
)

CONNECTOR = (
    _old("backup_file", None, values.text_value("a path or :memory:"),
         "the journal; `:memory:` keeps nothing over a restart",
         default_doc="`/var/lib/vigilo/NAME/backup.sqlite`"),
    _old("backup_table", "tobus", values.table_name, "its table", aliases=("backup_table_to_bus",)),
    _new("durability", "journal", values.choice("journal", "overflow"),
         "`journal`: every message is committed to disk before it is sent; `overflow`: only what can't be sent now"),
    _new("synchronous", "full", values.choice("full", "normal"),
         "`full`: a commit is on the disk; `normal`: it outlives the process, not a power cut"),
    _new("commit_delay_ms", "5", values.whole(0, 1000),
         "while messages keep coming, how far one commit is behind the other, so that lines share it; nothing waits "
         "after a pause, where a writer asks for acceptance (`sync`), or where hundreds wait; 0: never", unit="ms"),
    _new("journal_max_messages", "10000000", values.whole(1), "bound of the journal", unit="messages"),
    _new("journal_max_bytes", "4 GiB", values.byte_count,
         "bound of the journal; suffix K, M, G (KiB, MiB, GiB)", unit="bytes"),
    _new("journal_min_free", "8 MiB", values.byte_count,
         "what new messages leave free on the journal's disk, an eighth of the disk at most, so that what was accepted "
         "can be sent and deleted whatever else fills it", attribute="journal_min_free_bytes", unit="bytes"),
    _new("when_full", "block, perf:drop-newest", values.policies(("block", "drop-newest"), WHEN_FULL),
         "at the journal's bounds: `block` lets the writers wait, `drop-newest` refuses and counts; "
         "a policy for all types, `TYPE:POLICY` for one"),
    _new("when_unroutable", "park", values.policies(("park", "drop"), WHEN_UNROUTABLE),
         "a message that no queue wants: `park` keeps it for a retry, `drop` counts it; per type as above"),
    _old("max_queue_size", "0", values.whole(0), "bound of the queue in memory; 0: the built-in one", unit="messages"),
    _time("stop_timeout", "5", "how long an orderly stop may take"),
    _old("hostname", None, values.optional_text, "host in self-monitoring",
         default_doc="the machine's, fully qualified"),
    _old("status_service", None, values.optional_text, "service in self-monitoring",
         default_doc="`vigilo-connector-nagios-1`; the number is that of `--id`"),
    _time("status_period", "60", "how often state and figures are sent"),
    _old("self_monitoring_nagios_exchange", None, values.optional_publication,
         "`exchange[:ttl]` for the state; without a TTL it has none",
         default_doc="that of `nagios`"),
    _old("self_monitoring_perf_exchange", None, values.optional_publication,
         "`exchange[:ttl]` for the figures; without a TTL they have none",
         default_doc="that of `perf`"),
    _new("socket_group", None, values.optional_text, "group that may write to the socket",
         default_doc="the process's"),
    _new("control", None, values.control_path,
         "socket on which the connector tells of itself and takes requests; empty: none",
         default_doc="`control.sock` beside the journal"),
    _new("http", None, values.optional_endpoint,
         "`host:port` where everybody may read what the control socket tells, and change nothing",
         default_doc="none"),
    _old("lock_file", None, values.optional_text, "one-shot clients: lock, so that one runs at a time"),
    _old("timeout", "30", values.seconds, "one-shot clients: time limit", attribute="timeout_s", unit="s"),
)

NAGIOS = (
    _old("listen_unix", None, values.socket_path, "socket that Nagios writes to; empty: none",
         default_doc="`/var/lib/vigilo/NAME/send.sock`"),
    _new("follow", ",", values.file_paths,
         "list of files that somebody appends lines to, such as those of Nagios' performance data templates; each line "
         "is taken once", default_doc="none"),
    _new("follow_reclaim", "keep", values.choice("keep", "remove", "punch"),
         "what becomes of lines that were taken and are safe: `keep` leaves them, `remove` deletes renamed files that "
         "are done, `punch` gives blocks back to the disk in place"),
    _new("follow_with_service", "False", values.flag,
         "datasources of a service's record are `SERVICE-LABEL`, where services of a host share labels"),
    _old("nagios_pipe", None, values.optional_text, "command pipe of Nagios"),
    _old("nagios_config", None, values.optional_text,
         "file with the `host_name` lines of the hosts that this Nagios knows, or a plain list of them",
         default_doc="none: no filter"),
    _old("accepted_commands", ",", values.parse_list, "list of the external commands that may pass to Nagios",
         default_doc="none"),
    _old("group_nagios_commands", "False", values.flag, "gather commands for up to a second, write them as one file"),
)

SECTIONS: dict[str, tuple[Entry, ...]] = {"bus": BUS, "connector": CONNECTOR, "connector-nagios": NAGIOS}


def spellings(section: str) -> dict[str, Entry]:
    """Return every accepted key of `section` -> its entry."""
    return {key: entry for entry in SECTIONS[section] for key in (entry.key, *entry.aliases)}


def settings_table() -> str:
    """Return the Markdown tables of all settings."""
    parts = [_section_table(section) for section in SECTIONS]
    parts.append(
        "## `[publications]`\n\n| key | meaning | default | since |\n| --- | --- | --- | --- |\n"
        "| `TYPE` | `exchange[:ttl]`: where messages of this type go, and how long they are of use "
        f"(1 to {MAX_TTL_S} s) | the type's name, no limit | twisted |\n"
    )
    return "\n".join(parts)


def own_table(section: str, entries: Sequence[Entry]) -> str:
    """Return the Markdown table of what a connector declares for its own section."""
    lines = [f"## `[{section}]`\n\n| key | meaning | default |\n| --- | --- | --- |\n"]
    for entry in entries:
        lines.append("| " + " | ".join(list(_cells(entry))[:-1]) + " |\n")
    return "".join(lines)


def _section_table(section: str) -> str:
    lines = [f"## `[{section}]`\n\n| key | meaning | default | since |\n| --- | --- | --- | --- |\n"]
    for entry in SECTIONS[section]:
        lines.append("| " + " | ".join(_cells(entry)) + " |\n")
    return "".join(lines)


def _cells(entry: Entry) -> Iterator[str]:
    yield ", also ".join(f"`{key}`" for key in (entry.key, *entry.aliases))
    yield entry.doc
    if entry.default_doc:
        yield entry.default_doc
    elif entry.default is None:
        yield "unset"
    else:
        yield f"`{entry.default}`" + (f" {entry.unit}" if entry.unit and entry.default[-1].isdigit() else "")
    yield entry.since


def with_tables(page: str) -> str:
    """Return the documentation page with the tables of today between its two marks. Raises `ValueError`."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"expected the lines {_BEGIN.strip()!r} and {_END.strip()!r}")
    return f"{before}{begin}\n{settings_table()}\n{end}{after}"


def main(arguments: list[str]) -> None:
    """Print the tables or, with the name of a document, put them into it."""
    if arguments:
        path = Path(arguments[0])
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(settings_table(), end="")
