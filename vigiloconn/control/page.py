"""The page that a person looks at: one document, shipped within, read once."""

from __future__ import annotations

from importlib.resources import files

PAGE = files("vigiloconn.control").joinpath("page.html").read_bytes()
