"""What is said of a connection that can't be made, or was lost: in words, and how often. Pure: time is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.ipv6 import Endpoint

_PLAIN_PORT, _TLS_PORT = 5672, 5671
#: Tries that are told one by one; what fails on is told after growing pauses.
_TOLD_TRIES = 3
_FIRST_PAUSE_S = 10.0
_LONGEST_PAUSE_S = 300.0
#: What OpenSSL says of a peer that answers in plain text.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "wrong version number", "RECORD_LAYER_FAILURE", "record layer failure")

#: What a broker or OpenSSL says -> where that is mended.
_MENDED_AT = (
    ("Login was refused", "are user and password those of an account there?"),
    ("NOT_ALLOWED - vhost", "is vhost the name of a virtual host there?"),
    ("access to vhost", "may the user use that virtual host? (rabbitmqctl set_permissions)"),
    ("in certificate chain", "is the broker's certificate from the authority in ca_file?"),
    ("unable to get local issuer", "is the broker's certificate from the authority in ca_file?"),
    ("certificate has expired", "the broker needs a new certificate, or this host's clock is wrong"),
    ("not yet valid", "the broker needs another certificate, or this host's clock is wrong"),
    ("ostname mismatch", "name the host as the certificate does, in hosts or in server_name"),
    ("IP address mismatch", "name the host as the certificate does, in hosts or in server_name"),
    ("CERTIFICATE_REQUIRED", "the broker asks for a certificate of ours: cert_file and key_file"),
    ("ALERT_CERTIFICATE_EXPIRED", "the certificate in cert_file has expired"),
    ("ALERT_UNKNOWN_CA", "the broker does not know the authority of the certificate in cert_file"),
    ("can't be resolved", "is the name in hosts right?"),
)


class Outage:
    """Says for each failure whether a line of the log is due, and which. `role` names what the connection is for."""

    def __init__(self, role: str, use_ssl: bool, clock: Callable[[], float]) -> None:
        self._role = role
        self._use_ssl = use_ssl
        self._clock = clock
        self._pauses = _pauses()
        self._quiet_until_s = 0.0
        self._told = ""
        self._kept_back = 0

    def failed(self, error: BusDown | BusRefused, endpoint: Endpoint, *, was_connected: bool) -> str | None:
        """Return what is to be said, None for nothing: the same went wrong a moment ago.

        `was_connected`: the connection had been made; else it could not be.
        """
        text = str(error) + hint(error, endpoint, self._use_ssl)
        if was_connected:
            self.made()
            return f"{self._role}: bus lost: {text}"
        now_s = self._clock()
        if text == self._told and now_s < self._quiet_until_s:
            self._kept_back += 1
            return None
        if text != self._told:
            self._pauses = _pauses()
        self._told, self._quiet_until_s = text, now_s + next(self._pauses)
        kept_back, self._kept_back = self._kept_back, 0
        # The error may say so itself, behind its place.
        text = text.replace(": can't connect: ", ": ", 1)
        return f"{self._role}: can't connect to {text}" + (f" ({kept_back} more tries before)" if kept_back else "")

    def made(self) -> None:
        """The connection is made: what fails next is news."""
        self._told, self._quiet_until_s, self._kept_back = "", 0.0, 0


def hint(error: BusDown | BusRefused, endpoint: Endpoint, use_ssl: bool) -> str:
    """Return what the settings may have wrong, as the end of a line; empty where there is no sign of that."""
    text = str(error)
    for sign, place in _MENDED_AT:
        if sign in text:
            return f": {place}"
    if "refused" in text and "TLS" not in text:
        # Nobody listens, or a login was refused: there was no talk about TLS.
        return ""
    if use_ssl and (any(sign in text for sign in _NOT_TLS) or endpoint.port == _PLAIN_PORT):
        return ": does that port speak TLS? (use_ssl = True, usual with port 5671)"
    if not use_ssl and (endpoint.port == _TLS_PORT or r"\x15\x03" in text):
        return ": does that port want TLS? (use_ssl = False, usual with port 5672)"
    return ""


def _pauses() -> Iterator[float]:
    for _ in range(_TOLD_TRIES - 1):
        yield 0.0
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
