"""How the messages of one exchange travel: the frames of each route.

Knows publications and frames, not what becomes of a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BadMessage
from vigiloconn.interfaces import UNREADABLE, RouteKey
from vigiloconn.options import Publication

#: Routing keys come from outside: a flood of different ones must not fill the memory.
_MAX_ROUTES = 1000


class Route(NamedTuple):
    """What the messages of one key have in common."""

    frames: PublishFrames
    ttl_s: int | None
    is_batched: bool


class Routes:
    """The routes of one exchange on one channel; `batches_perf`: performance messages go in batches."""

    def __init__(self, exchange: str, publication: Callable[[str], Publication], batches_perf: bool) -> None:
        self._exchange = exchange
        self._publication = publication
        self._batches = batches_perf
        self._known: dict[RouteKey, Route] = {}

    def forget(self) -> None:
        """Forget all: another channel has other frames."""
        self._known.clear()

    def get(self, key: RouteKey, channel_id: int, frame_max: int) -> Route:
        """Return the route of a key. Raises `BadMessage` when no message with this key can be sent."""
        route = self._known.get(key)
        if route is not None:
            return route
        if key == UNREADABLE:
            raise BadMessage("no JSON object with a type")
        ttl_s = self._publication(key.type).ttl_s
        is_batched = self._batches and key.is_batchable
        frames = PublishFrames(
            channel_id,
            self._exchange,
            "perf" if is_batched else key.routing_key or key.type,
            frame_max=frame_max,
            persistent=key.persistent or is_batched,
            expiration_ms=ttl_s * 1000 if ttl_s else None,
        )
        if len(self._known) >= _MAX_ROUTES:
            self._known.clear()
        route = self._known[key] = Route(frames, ttl_s, is_batched)
        return route
