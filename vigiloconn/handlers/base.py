"""The one base class: a plain object whose `run()` is one life of a supervised greenlet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vigiloconn.client import VigiloClient
    from vigiloconn.supervisor import Supervisor


class Handler:
    """A part of a connector that lives in a greenlet of its own.

    The supervisor calls `start_service` of all once, then spawns `run()`; a life that ends with an exception
    is followed by another one after a back-off. A client tells its handlers when the connection comes
    and goes. All methods but `run` are called on other greenlets: they must be short and must not
    block (set an event, and let `run()` do the work).
    """

    name: str = "handler"
    client: VigiloClient
    """Set by `VigiloClient.add_handler`."""
    supervisor: Supervisor
    """Set by `Supervisor.add`."""

    def start_service(self) -> None:
        """Prepare. May raise `StartError`: then the process does not start."""

    def run(self) -> None:
        """Work until told to stop. Returning in order ends this part; raising makes the supervisor restart it."""
        raise NotImplementedError

    def stop_service(self) -> None:
        """Ask `run()` to end. Returns at once; must be harmless when called twice."""

    def close(self) -> None:
        """Release what is held. Called once, after `run()` has ended, at the stop of the process."""

    def connection_initialized(self) -> None:
        """The bus is there. Called before anything is read from it: wake your own greenlet, call nothing
        that waits for the broker's answer."""

    def connection_lost(self) -> None:
        """The bus is gone. What was sent and is unconfirmed must be taken for not sent."""

    def connection_blocked(self, blocked: bool) -> None:
        """The broker says that it takes no publishes for now (True), or that it does again (False)."""

    def stats(self) -> dict[str, float]:
        """Return the figures that this part counts, name -> number."""
        return {}

    def problems(self) -> list[tuple[int, str]]:
        """Return what an operator should know now: (1 for WARNING or 2 for CRITICAL, text)."""
        return []

    def tick(self) -> None:
        """Check that things move. Called about once a second while connected; must not block."""

    def drain(self, timeout_s: float) -> None:
        """Send nothing more on this connection and wait until nothing is unanswered, at most `timeout_s`.
        The connection ends right after."""

    def reload(self) -> None:
        """Read again what is distributed in files (SIGHUP). Settings are not: they need a restart."""
