"""Writes the pictures of the page that the documents show: `python -m tests.page DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.page.browser import Browser
from tests.page.scene import Scene
from tests.page.test_page import READY


def main(directory: Path) -> None:
    """Take the page as a desk and as a phone in the dark show it."""
    with Scene() as scene, Browser() as browser:
        for name, width, is_phone in (("page.png", 1400, False), ("page-phone.png", 360, True)):
            browser.emulate(width, is_dark=is_phone)
            browser.open(scene.url, READY)
            browser.screenshot(directory / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
