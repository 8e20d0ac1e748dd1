"""The scripted bus, which authors' tests have too: see `vigiloconn.testing.scripted`."""

from vigiloconn.testing.scripted import (
    Published,
    ScriptedChannel,
    ScriptedClient,
    ScriptedConnection,
    Sent,
    Settlement,
    WrongFrames,
    bodies,
)

__all__ = [
    "Published", "ScriptedChannel", "ScriptedClient", "ScriptedConnection", "Sent", "Settlement", "WrongFrames",
    "bodies",
]  # fmt: skip
