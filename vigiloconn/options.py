"""`settings.ini` to frozen, checked settings. Knows files and sections; what a key means stands in the schema."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vigiloconn.errors import SettingsError, raise_all
from vigiloconn.kit.endpoint import Endpoint
from vigiloconn.kit.near import nearest
from vigiloconn.settings import logsetup, paths, schema
from vigiloconn.settings.files import exposure, read_secret, read_text
from vigiloconn.settings.ini import comment_hint, first_word, parse_ini
from vigiloconn.settings.values import (
    Publication,
    Secret,
    Subscription,
    parse_list,
    parse_publication,
    parse_publications,
    parse_subscriptions,
)

__all__ = [
    "BusSettings", "ConnectorSettings", "NagiosSettings", "Publication", "Secret", "Settings", "Subscription",
    "load_settings", "parse_list", "parse_publications", "parse_settings", "parse_subscriptions",
]

#: Name of the password in systemd's credentials directory (`LoadCredential=bus-password:...`).
CREDENTIAL = "bus-password"
_BUS_PREFIX = "bus:"
#: Keys that every connector's own section may have: `add_followers` reads them.
_SHARED_KEYS = ("follow", "follow_reclaim", "follow_with_service")


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """`[bus]`: brokers, account, and how messages travel."""

    hosts: tuple[str, ...]
    user: str
    password: Secret
    vhost: str
    auth: str
    use_ssl: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    server_name: str | None
    queue: str | None
    queue_type: str
    queue_messages_ttl_s: int
    subscriptions: tuple[Subscription, ...]
    prefetch_count: int
    prefetch_bytes: int
    max_body_bytes: int
    max_message_bytes: int
    dead_letter: bool
    workers: int | None
    """None, as for those below: the handler's own."""
    time_limit_s: float | None
    max_redeliveries: int | None
    retry_first_delay_s: float | None
    retry_max_delay_s: float | None
    retry_time_s: float | None
    batch_send_perf: int
    batch_linger_ms: int
    window: int
    heartbeat_s: int
    connect_timeout_s: float
    confirm_timeout_s: float
    blocked_timeout_s: float
    max_reconnect_delay_s: float
    failback_delay_s: float
    log_traffic: bool

    @property
    def default_port(self) -> int:
        """The port of hosts that name none."""
        return 5671 if self.use_ssl else 5672


@dataclass(frozen=True, kw_only=True)
class ConnectorSettings:
    """`[connector]`: journal, policies, self-monitoring."""

    backup_file: str
    backup_table: str
    durability: str
    synchronous: str
    commit_delay_ms: int
    journal_max_messages: int
    journal_max_bytes: int
    journal_min_free_bytes: int
    when_full: Mapping[str, str]
    when_unroutable: Mapping[str, str]
    max_queue_size: int
    stop_timeout_s: float
    hostname: str | None
    status_service: str | None
    status_period_s: float
    self_monitoring_nagios_exchange: Publication | None
    self_monitoring_perf_exchange: Publication | None
    socket_group: str | None
    control: str | None
    """None: beside the journal; "": none."""
    http: Endpoint | None
    lock_file: str | None
    timeout_s: float

    def when_full_for(self, kind: str) -> str:
        """Return `block` or `drop-newest` for messages of type `kind`."""
        return self.when_full.get(kind, self.when_full["*"])

    def when_unroutable_for(self, kind: str) -> str:
        """Return `park` or `drop` for messages of type `kind`."""
        return self.when_unroutable.get(kind, self.when_unroutable["*"])


@dataclass(frozen=True, kw_only=True)
class NagiosSettings:
    """`[connector-nagios]`: socket, followed files and command pipe."""

    listen_unix: str | None
    follow: tuple[str, ...]
    follow_reclaim: str
    follow_with_service: bool
    nagios_pipe: str | None
    nagios_config: str | None
    accepted_commands: tuple[str, ...]
    group_nagios_commands: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one connector. Its `repr` holds no password."""

    path: Path | None
    """The file that they were read from; None where there is none."""
    connector: str
    instance: int | None
    bus: BusSettings
    runtime: ConnectorSettings
    nagios: NagiosSettings
    publications: Mapping[str, Publication]
    logging: Mapping[str, Mapping[str, str]] = field(repr=False)
    """The sections for `logging.config`, checked; empty where there are none."""
    own: Mapping[str, Any] = field(repr=False)
    """`[connector-NAME]`, for connectors other than nagios: key -> value of what they declare, checked; the text as it
    is written where they declare nothing."""
    buses: Mapping[str, BusSettings] = field(default_factory=dict, repr=False)
    """NAME -> `[bus:NAME]`, for a connector of several buses."""
    bus_name: str = ""
    """Which of them `bus` is; empty for `[bus]`."""
    warnings: tuple[str, ...] = ()
    """What an operator should know of the files although it is no error, a line each."""

    @property
    def name(self) -> str:
        """`connector-nagios`, with instance 2 `connector-nagios-2`."""
        return paths.connector_name(self.connector, self.instance)

    @property
    def service_name(self) -> str:
        """`vigilo-connector-nagios-1`, with instance 2 `vigilo-connector-nagios-2`: the service in self-monitoring."""
        return paths.service_name(self.connector, self.instance)

    def on_bus(self, name: str) -> Settings:
        """Return these settings with `[bus:NAME]` for `bus`. Raises `SettingsError` where there is no such section."""
        if name not in self.buses:
            raise SettingsError(f"{self.path or 'defaults'}: [{_BUS_PREFIX}{name}]: expected this section, got none")
        return replace(self, bus=self.buses[name], bus_name=name)

    def publication(self, kind: str) -> Publication:
        """Return where messages of type `kind` go: the exchange of the type's own name where nothing is said."""
        return self.publications.get(kind) or Publication(kind, None)


def load_settings(
    path: str | os.PathLike[str] | None, *, connector: str = "nagios", instance: int | None = None,
    own: Sequence[schema.Entry] | None = None,
) -> Settings:
    """Return the settings of a file; without `path`, of the default file, or the defaults where that is missing.

    A missing password is looked for in systemd's credentials directory. Raises `SettingsError`, one line.
    """
    chosen = Path(paths.default_settings(connector, instance) if path is None else path)
    text: str | None
    try:
        text = read_text(chosen)
    except SettingsError as exc:
        if path is not None or not isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
            raise
        text = None
    return parse_settings(
        text or "", None if text is None else chosen, connector=connector, instance=instance, own=own,
        credentials_dir=os.environ.get("CREDENTIALS_DIRECTORY"),
    )


def parse_settings(
    text: str, path: Path | None = None, *, connector: str = "nagios", instance: int | None = None,
    credentials_dir: str | None = None, own: Sequence[schema.Entry] | None = None,
) -> Settings:
    """Return the settings that `text` holds. Opens nothing but the files of passwords and certificates it names.

    `path` is what errors call it, `own` what the connector declares for its section. Raises `SettingsError`, one line.
    """
    reader = _Reader(path, parse_ini(text, str(path or "defaults")))
    reader.check_sections()
    bus, warnings = reader.bus(credentials_dir)
    runtime = reader.values("connector", backup_file=paths.default_journal(connector, instance))
    listen_unix = paths.default_socket(connector, instance)
    is_nagios = connector == "nagios"
    nagios = reader.values("connector-nagios" if is_nagios else None, listen_unix=listen_unix)
    if not is_nagios:
        nagios.update(reader.some_values(f"connector-{connector}", _SHARED_KEYS))
    settings = Settings(
        path=path,
        connector=connector,
        instance=instance,
        bus=bus,
        runtime=ConnectorSettings(**runtime),
        nagios=NagiosSettings(**nagios),
        publications=reader.publications(),
        logging=reader.logging(),
        own=MappingProxyType({} if is_nagios else reader.own(f"connector-{connector}", own)),
        buses=MappingProxyType(reader.buses(credentials_dir)),
        warnings=warnings,
    )
    reader.check_bus(settings.bus)
    for name, each in settings.buses.items():
        reader.check_bus(each, f"{_BUS_PREFIX}{name}")
    reader.raise_errors()
    return settings


def parse_bus(text: str, path: Path) -> tuple[BusSettings, tuple[str, ...]]:
    """Return what the `[bus]` of a file says, which may have any other sections, and what to warn of.

    What its keys mean together is not checked: a command line may have the last word. Raises `SettingsError`.
    """
    reader = _Reader(path, parse_ini(text, str(path)))
    found = reader.bus(None)
    reader.raise_errors()
    return found


class _Reader:
    """One parsed file, read section by section; knows its name for the errors.

    An error is kept, and the rest is read as if nothing had been said there, so that all can be told at once: what is
    read is worth something only when `raise_errors` has passed.
    """

    def __init__(self, path: Path | None, ini: configparser.RawConfigParser) -> None:
        self._path = path
        self._source = str(path or "defaults")
        self._ini = ini
        self._errors: list[SettingsError] = []
        self._wrong_sections: set[str] = set()

    def raise_errors(self) -> None:
        """Raise the first error, with the others beside it, if there is one."""
        raise_all(self._errors)

    def _keep(self, section: str, error: SettingsError) -> None:
        self._errors.append(error)
        self._wrong_sections.add(section)

    def section(self, name: str) -> dict[str, str]:
        """Return key -> text, empty where the section is missing."""
        return dict(self._ini.items(name)) if self._ini.has_section(name) else {}

    def check_sections(self) -> None:
        """Refuse a section whose name is nearly one of ours: nothing that it says would be in force."""
        ours = (*schema.SECTIONS, "publications")
        for name in self._ini.sections():
            if name in ours or name.startswith(_BUS_PREFIX) or logsetup.is_logging_section(name):
                continue
            # Those of other connectors resemble ours and are theirs.
            alike = 1.0 if name.startswith("connector-") else 0.8
            near = nearest(name.strip(), ours, alike)
            if near:
                text = f"{self._source}: [{name}]: unknown section, the nearest known one is [{near}]"
                self._keep(name, SettingsError(text))

    def error(self, section: str, key: str, text: object) -> SettingsError:
        """Build the error that names the place."""
        return SettingsError(f"{self._source}: [{section}] {key}: {text}")

    def values(self, section: str | None, **computed: Any) -> dict[str, Any]:
        """Return attribute -> value of a section of the schema; with None, of `[connector-nagios]` as if empty.

        `computed` gives defaults that depend on the connector.
        """
        given = self._given(section) if section else {}
        result: dict[str, Any] = {}
        for entry in schema.SECTIONS[_base(section or "connector-nagios")]:
            key, text = given.get(entry.key, (entry.key, entry.default))
            if text is None:
                result[entry.attribute] = computed.get(entry.attribute)
                continue
            try:
                result[entry.attribute] = entry.convert(text)
            except ValueError as exc:
                self._keep(section or "", self.error(section or "", key, f"{exc}{comment_hint(text)}"))
                default = entry.default
                result[entry.attribute] = computed.get(entry.attribute) if default is None else entry.convert(default)
        return result

    def some_values(self, section: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """Return attribute -> value of those keys of `[connector-nagios]` that another connector's section has too."""
        known, given = schema.spellings("connector-nagios"), self.section(section)
        result: dict[str, Any] = {}
        for key in (key for key in keys if key in given):
            try:
                result[known[key].attribute] = known[key].convert(given[key])
            except ValueError as exc:
                self._keep(section, self.error(section, key, f"{exc}{comment_hint(given[key])}"))
        return result

    def own(self, section: str, entries: Sequence[schema.Entry] | None) -> dict[str, Any]:
        """Return key -> value of a connector's section, or key -> text where it declares no keys."""
        given = self.section(section)
        if entries is None:
            return given
        known = {entry.key for entry in entries}
        whole = set(known)
        for key, text in given.items():
            if key not in known and key not in _SHARED_KEYS:
                self._keep(section, self.error(section, first_word(key), f"unknown key, {_nearest(key, known)}"))
            if not self._is_whole(section, key, text):
                whole.discard(key)
        return {
            entry.key: self._own_value(section, entry, given.get(entry.key, entry.default))
            for entry in entries if entry.key in whole
        }  # fmt: skip

    def _own_value(self, section: str, entry: schema.Entry, text: str | None) -> Any:
        if text is None:
            if entry.is_required:
                self._keep(section, self.error(section, entry.key, f"expected it ({entry.doc}), got none"))
            return None
        try:
            return entry.convert(text)
        except ValueError as exc:
            self._keep(section, self.error(section, entry.key, f"{exc}{comment_hint(text)}"))
            return None

    def buses(self, credentials_dir: str | None) -> dict[str, BusSettings]:
        """Return NAME -> what `[bus:NAME]` says, with the keys and the defaults of `[bus]`."""
        found = {}
        for section in self._ini.sections():
            name = section.removeprefix(_BUS_PREFIX)
            if name != section:
                if not name:
                    self._keep(section, SettingsError(f"{self._source}: [{section}]: expected a name behind the ':'"))
                found[name] = self.bus(None, section)[0]
        return found

    def _given(self, section: str) -> dict[str, tuple[str, str]]:
        """Return the entry's key -> (key as spelled, text) of what the file says, all keys checked."""
        known = schema.spellings(_base(section))
        given: dict[str, tuple[str, str]] = {}
        for key, text in self.section(section).items():
            entry = known.get(key)
            if entry is None:
                self._keep(section, self._unknown(section, key))
                continue
            if entry.key in given:
                text = f"says the same as {given[entry.key][0]}: keep one of them"
                self._keep(section, self.error(section, key, text))
                continue
            if self._is_whole(section, key, text):
                given[entry.key] = (key, text)
        return given

    def _unknown(self, section: str, key: str) -> SettingsError:
        word = first_word(key)
        for other in schema.SECTIONS:
            if other != _base(section) and key in schema.spellings(other):
                return self.error(section, word, f"belongs in [{other}]")
        return self.error(section, word, f"unknown key, {_nearest(word, schema.spellings(_base(section)))}")

    def _is_whole(self, section: str, key: str, text: str) -> bool:
        """Refuse a setting that was swallowed by the one above it, before an error can quote it as a value."""
        known = {key for name in schema.SECTIONS for key in schema.spellings(name)}
        for line in text.split("\n")[1:]:
            # A colon alone is no sign: host:port and exchange:key have one too.
            match = re.match(r"([\w-]+)\s*([=:])", line)
            if match and (match[2] == "=" or match[1] in known):
                text = f"continued by the indented line {match[1]}: expected it to start where its line starts"
                self._keep(section, self.error(section, key, text))
                return False
        return True

    def bus(self, credentials_dir: str | None, section: str = "bus") -> tuple[BusSettings, tuple[str, ...]]:
        """Return `[bus]`, and a warning for each file with a password that all users can read."""
        found = self.values(section)
        found["password"] = self._password(found, credentials_dir, section)
        warnings = self._exposures(found.pop("password_file"), section)
        return BusSettings(**found), warnings

    def _password(self, bus: Mapping[str, Any], credentials_dir: str | None, section: str) -> Secret:
        """Return the password from where it stands: the settings, a file, systemd's credentials."""
        given = self.section(section)
        password: Secret = bus["password"]
        if bus["password_file"]:
            if "password" in given:
                self._keep(section, self.error(section, "password_file", "expected it or password, got both"))
                return password
            return self._read_secret(section, "password_file", Path(bus["password_file"]))
        if "password" not in given and credentials_dir:
            credential = Path(credentials_dir, CREDENTIAL)
            if credential.exists():
                return self._read_secret(section, "password", credential)
        return password

    def _exposures(self, password_file: str | None, section: str) -> tuple[str, ...]:
        holds_password = self._path is not None and self.section(section).get("password")
        files = [self._path if holds_password else None, Path(password_file) if password_file else None]
        return tuple(warning for file in files if file and (warning := exposure(file)))

    def _read_secret(self, section: str, key: str, path: Path) -> Secret:
        try:
            return Secret(read_secret(path))
        except ValueError as exc:
            self._keep(section, self.error(section, key, exc))
            return Secret("")

    def publications(self) -> Mapping[str, Publication]:
        """Return type -> where its messages go."""
        result = {}
        for kind, text in self.section("publications").items():
            try:
                result[kind] = parse_publication(text)
            except ValueError as exc:
                self._keep("publications", self.error("publications", kind, f"{exc}{comment_hint(text)}"))
        return MappingProxyType(result)

    def logging(self) -> Mapping[str, Mapping[str, str]]:
        """Return the sections that `logging.config` is to read."""
        # The stdlib's parser takes these keys in any case.
        sections = {
            name: {key.lower(): text for key, text in self.section(name).items()}
            for name in self._ini.sections() if logsetup.is_logging_section(name)
        }
        try:
            logsetup.check_sections(sections, self._source)
        except SettingsError as exc:
            self._keep("loggers", exc)
        return MappingProxyType({name: MappingProxyType(section) for name, section in sections.items()})

    def check_bus(self, bus: BusSettings, section: str = "bus") -> None:
        """Check what keys of `[bus]` mean together, and that the certificates can be read."""
        # Beside a key that is wrong by itself this would only tell what follows from that.
        if section not in self._wrong_sections:
            for key, text in (*_contradictions(bus), *_unreadable_files(bus)):
                self._keep(section, self.error(section, key, text))


def _contradictions(bus: BusSettings) -> Iterator[tuple[str, str]]:
    """Give key and text of what can't be meant together."""
    if bus.auth == "external":
        if not bus.use_ssl:
            yield "auth", "external needs TLS: expected use_ssl = True"
        if not bus.cert_file:
            yield "auth", "external logs in with a certificate: expected cert_file"
    else:
        for key in ("user", "password"):
            if not getattr(bus, key):
                yield key, f"expected it for auth = {bus.auth}, got nothing"
    if bus.key_file and not bus.cert_file:
        yield "key_file", "is of no use without a certificate: expected cert_file"


def _unreadable_files(bus: BusSettings) -> Iterator[tuple[str, str]]:
    for key in ("ca_file", "cert_file", "key_file") if bus.use_ssl else ():
        path = getattr(bus, key)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as exc:
            yield key, f"{path} can't be read: {exc.strerror}"


def _base(section: str) -> str:
    """Return the section of the schema that a section of a file goes by."""
    return "bus" if section.startswith(_BUS_PREFIX) else section


def _nearest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    if not known:
        return "there are none"
    near = nearest(key, known)
    return f"the nearest known one is {near}" if near else "and none is near; docs/settings.md has all"
