"""The page, looked at in a real browser: on a phone and on a desk, in the dark, without colour, without a connector."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page import scene
from tests.page.browser import Browser
from tests.page.scene import NASTY, Scene
from tests.support.connector import ConnectorProcess
from tests.support.wait import wait_until
from vigiloconn.control.asking import ask

READY = "document.body && document.body.dataset.ready && document.querySelectorAll('.chart').length == 3"
SIZES = [(360, True), (1400, False)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Scene(NASTY) as found:
        yield found.url


@pytest.mark.parametrize(("width", "is_phone"), SIZES)
def test_all_of_it_can_be_read_without_scrolling_sideways(
    browser: Browser, url: str, width: int, is_phone: bool
) -> None:
    browser.emulate(width, is_phone=is_phone)
    browser.open(url, READY)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    wide = browser.evaluate(
        "[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    smallest = browser.evaluate(
        "Math.min(...[...document.body.querySelectorAll('*')].filter(e => e.innerText)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12


def test_it_tells_what_is_wrong_what_waits_where_and_what_to_do(browser: Browser, url: str) -> None:
    browser.emulate(360, is_phone=True)
    browser.open(url, READY)
    text = browser.text()
    for words in (
        "CRITICAL", "for 1 min 15 s", "bus-away for 14 min 7 s", "What to do: start the broker",
        "254,118 messages wait", "oldest 14 min 7 s", "tries broker2.example.net:5672 in 12 s",
        "Exchange perf is held: 1,200 messages wait",
        "5 messages of exchange event are parked", "4 writers wait", "2 dead letters", "71.3 KiB unread",
    ):  # fmt: skip
        assert words in text, text


def test_nothing_is_asked_of_anybody_else_and_nothing_goes_wrong(browser: Browser, url: str) -> None:
    browser.open(url, READY)
    assert {address.partition("?")[0] for address in browser.asked_for()} - {f"{url}favicon.ico"} == {
        url, f"{url}status", f"{url}history",
    }  # fmt: skip
    assert [text for text in browser.complaints() if "favicon" not in text] == []


def test_what_a_broker_says_is_text_whatever_it_says(browser: Browser, url: str) -> None:
    browser.open(url, READY)
    assert NASTY in browser.text()
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.title") == "vigilo-connector-nagios-1"


@pytest.mark.parametrize("is_dark", [False, True])
def test_words_stand_out_from_the_paper_by_day_and_in_the_dark(browser: Browser, url: str, is_dark: bool) -> None:
    browser.emulate(360, is_phone=True, is_dark=is_dark)
    browser.open(url, READY)
    paper = brightness(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.1) == is_dark
    for selector in ("body", "#state", ".problem.warning", ".problem.critical", "#since", ".stage div"):
        ink = brightness(browser.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
        light, dark = max(ink, paper), min(ink, paper)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def test_without_colour_the_level_is_a_word_and_a_sign_and_lines_differ_by_their_dashes(
    browser: Browser, url: str
) -> None:
    browser.open(url, READY)
    assert browser.evaluate("document.querySelector('#state').innerText") == "\u25a0 CRITICAL"
    signs = browser.evaluate("[...document.querySelectorAll('.problem b')].map(e => e.innerText[0])")
    assert signs == ["\u25a0", "\u25b2", "\u25b2"]
    dashes = browser.evaluate(
        "['s0', 's1'].map(name => getComputedStyle(document.querySelector('.plot.' + name)).strokeDasharray)"
    )
    assert dashes[0] != dashes[1]


def test_no_line_is_drawn_over_a_time_without_a_connector(browser: Browser, url: str) -> None:
    browser.open(url, READY)
    path = browser.evaluate("document.querySelector('.plot.s0').getAttribute('d')")
    assert path.count("M") == 2


def test_a_connector_is_shown_as_it_runs_and_its_silence_is_said(browser: Browser, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bus = {"hosts": "127.0.0.1:1", "user": "guest", "password": "guest"}
    with ConnectorProcess(tmp_path / "c", bus=bus, connector={"http": f"127.0.0.1:{port}"}) as connector:
        connector.send(f"event|1|host|Load|OK|{number}" for number in range(1234))
        connector.sync()
        control = connector.directory / "control.sock"
        wait_until(control.exists, 10.0, "the control socket")
        told = json.loads(ask(control, "/status").body)
        assert shape(scene.status(), told) == []
        browser.emulate(360, is_phone=True)
        browser.open(f"http://127.0.0.1:{port}/", READY)
        text = browser.text()
        assert "1,234 messages wait" in text
        assert "WARNING" in text
        assert [text for text in browser.complaints() if "favicon" not in text] == []
        connector.kill()
        browser.wait("!document.querySelector('#silent').hidden")
        assert "has not answered for" in browser.text()


def shape(expected: dict[str, Any], found: dict[str, Any], at: str = "") -> list[str]:
    """Return which keys the scene has and the connector's document lacks, in its single values."""
    missing = []
    for key, value in expected.items():
        if key not in found:
            missing.append(f"{at}{key}")
        elif isinstance(value, dict) and isinstance(found[key], dict) and key != "brokers":
            missing += shape(value, found[key], f"{at}{key}.")
    return missing


def brightness(color: str) -> float:
    """Return the relative luminance of a computed colour, 0 to 1 (WCAG 2)."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
