"""What is said of a connection that fails, and how often."""

from __future__ import annotations

import pytest

from tests.support.cycle import Hand
from vigiloconn.bus.words import Outage, hint
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.ipv6 import Endpoint

PLACE = Endpoint("mq", 5672)
REFUSED = BusDown("mq:5672: can't connect: Connection refused")


def test_what_was_never_reached_is_told_from_what_was_lost() -> None:
    outage = Outage("publish", False, Hand())
    assert outage.failed(REFUSED, PLACE, was_connected=False) == "publish: can't connect to mq:5672: Connection refused"
    lost = outage.failed(BusDown("mq:5672: reset"), PLACE, was_connected=True)
    assert lost == "publish: bus lost: mq:5672: reset"


def test_the_same_failure_is_told_after_growing_pauses_and_what_was_kept_back_is_counted() -> None:
    clock = Hand(0.0)
    outage = Outage("consume", False, clock)
    told: list[float] = []
    for second in range(1000):
        clock.now_s = second
        if outage.failed(REFUSED, PLACE, was_connected=False):
            told.append(second)
    assert told == [0, 1, 2, 12, 32, 72, 152, 312, 612, 912]
    clock.now_s = 1212
    assert "(87 more tries before)" in str(outage.failed(REFUSED, PLACE, was_connected=False))


def test_another_failure_is_news_and_so_is_the_first_after_a_connection() -> None:
    outage = Outage("publish", False, Hand())
    for _ in range(10):
        outage.failed(REFUSED, PLACE, was_connected=False)
    assert outage.failed(REFUSED, PLACE, was_connected=False) is None
    assert outage.failed(BusRefused("mq:5672: ACCESS_REFUSED", 403), PLACE, was_connected=False)
    outage.made()
    assert outage.failed(BusRefused("mq:5672: ACCESS_REFUSED", 403), PLACE, was_connected=False)


@pytest.mark.parametrize(
    ("text", "port", "use_ssl", "is_hinted"),
    [
        ("TLS handshake refused: [SSL: WRONG_VERSION_NUMBER] wrong version number", 1234, True, True),
        ("the peer hung up", 5671, False, True),
        ("Connection refused", 5672, False, False),
        ("Connection refused", 5671, False, False),
    ],
)
def test_a_port_of_the_other_kind_hints_at_use_ssl(text: str, port: int, use_ssl: bool, is_hinted: bool) -> None:
    assert ("use_ssl" in hint(BusDown(text), Endpoint("mq", port), use_ssl)) is is_hinted


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mq:5671: TLS handshake refused: certificate verify failed: certificate has expired", "new certificate"),
        ("mq:5671: TLS handshake refused: certificate verify failed: Hostname mismatch", "server_name"),
        ("mq:5671: TLS handshake refused: certificate verify failed: self-signed certificate in certificate chain",
         "ca_file"),
        ("mq:5672: ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "user and password"),
        ("mq:5672: NOT_ALLOWED - vhost nope not found", "vhost"),
    ],
)  # fmt: skip
def test_a_refusal_ends_with_the_settings_to_look_at(text: str, place: str) -> None:
    assert place in hint(BusRefused(text), PLACE, "TLS" in text)
