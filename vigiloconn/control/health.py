"""Whether a connector is alive, and whether it accepts. Knows two questions; who answers them is handed in."""

from __future__ import annotations

from collections.abc import Callable

from vigiloconn.control.exchange import Reply, Request, as_text

#: How long the journal's thread may take for its turn before it counts as hanging: a commit to a slow disk is none.
ALIVE_S = 10.0


class Health:
    """`is_alive(timeout_s)` asks the journal's thread; `refusal` tells why nothing is accepted, "" where it is.

    Whoever gets an answer knows that the loop turns.
    """

    def __init__(self, is_alive: Callable[[float], bool], refusal: Callable[[], str]) -> None:
        self._is_alive = is_alive
        self._refusal = refusal

    def is_alive(self) -> bool:
        """Answer whether the connector does its work. One that has no room, or no bus, does."""
        return self._is_alive(ALIVE_S)

    def healthz(self, request: Request) -> Reply:
        """Answer 200 while alive, else 503."""
        if self.is_alive():
            return as_text("alive")
        return as_text(f"the journal's thread does not answer within {ALIVE_S:g} s: does its disk?", 503)

    def readyz(self, request: Request) -> Reply:
        """Answer 200 while messages are accepted, else 503 and why not."""
        refusal = self._refusal()
        return as_text(f"nothing is accepted: {refusal}", 503) if refusal else as_text("accepting")
