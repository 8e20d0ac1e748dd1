"""Until when a certificate is good, from its file. Knows as much of X.509 as that takes: the standard library
tells it of a peer's certificate only."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17


def ends_at(pem: str) -> float:
    """Return until when the first certificate in `pem` is good, in UNIX seconds. Raises `ValueError`.

    The fields before that time: RFC 5280, section 4.1.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("expected a certificate in PEM, found none")
    der = ssl.PEM_cert_to_DER_cert(found[0])
    try:
        _, start, _ = _element(der, _element(der, 0)[1])
        tag, _, end = _element(der, start)
        if tag != _VERSION:
            end = start
        for _field in ("serial number", "signature", "issuer"):
            end = _element(der, end)[2]
        not_before_end = _element(der, _element(der, end)[1])[2]
        tag, start, end = _element(der, not_before_end)
    except IndexError:
        raise ValueError("expected a certificate, found something that is cut short") from None
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[start:end].decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, start: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at `start`."""
    tag, size, start = der[start], der[start + 1], start + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(der[start : start + count]), start + count
    return tag, start, start + size
