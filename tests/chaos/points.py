"""Named points in the connector's code at which it can be made to die. Knows names of functions, not what they do.

The names are looked up when the connector starts, and by a test: a function that was renamed or moved has to be
followed here, and is never passed over.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from tests.chaos.controls import Controls


class Point(NamedTuple):
    """A method, and on which side of its work the point lies."""

    name: str
    side: Literal["before", "after"]
    target: str
    """`module:Class.method`; a method, because a function that another module has imported can't be replaced."""


_STORE = "vigiloconn.journal.store:DbRetry"
_SPACE = "vigiloconn.journal.space:Space"
_ROWS = "vigiloconn.journal.rows:JournalRows"
_PROVIDER = "vigiloconn.handlers.backup:BackupProvider"
_CHANNEL = "vigiloconn.bus.confirms:ConfirmChannel"

#: While lines go to the bus.
PUBLISHING = (
    Point("before a transaction", "before", f"{_STORE}.apply"),
    Point("appended, not committed", "after", f"{_ROWS}.append"),
    Point("in the middle of a discard", "after", f"{_ROWS}.discard"),
    Point("before a commit", "after", f"{_ROWS}.save"),
    Point("committed, not settled", "after", f"{_STORE}.apply"),
    Point("settled, not answered", "before", f"{_PROVIDER}._accept"),
    Point("answered", "after", f"{_PROVIDER}._accept"),
    Point("before a send", "before", f"{_CHANNEL}.send"),
    Point("sent, not confirmed", "after", f"{_CHANNEL}.send"),
    Point("confirmed, not finished", "before", f"{_CHANNEL}._confirmed"),
    Point("finished, not discarded", "after", f"{_PROVIDER}.discard"),
)
#: Only where an exchange is in trouble.
IN_TROUBLE = (
    Point("held, not moved", "after", f"{_PROVIDER}.hold"),
    Point("moved to the held, not committed", "after", f"{_ROWS}.hold"),
    Point("parked, not moved", "after", f"{_PROVIDER}.park"),
    Point("moved to the parked, not committed", "after", f"{_ROWS}.park"),
    Point("in the middle of a discard of held ones", "after", f"{_ROWS}.discard_held"),
)
#: At each start.
STARTING = (
    Point("tables made, not committed", "after", f"{_ROWS}.create"),
    Point("journal opened", "after", f"{_STORE}.open"),
)
#: At the stop, and when the log is folded.
STOPPING = (
    Point("before the journal is closed", "before", f"{_STORE}.close"),
    Point("before the log is folded", "before", f"{_SPACE}.checkpoint"),
    Point("the log is folded", "after", f"{_SPACE}.checkpoint"),
)
#: While messages come from the bus.
CONSUMING = (
    Point("done, not acknowledged", "before", "vigiloconn.consuming.channel:Consumer.flush_acks"),
    Point("acknowledged", "after", "vigiloconn.consuming.channel:Consumer.flush_acks"),
    Point("before messages are opened", "before", "vigiloconn.handlers.message:MessageHandler._open"),
)
#: While commands go to the pipe.
PIPING = (
    Point("before the pipe", "before", "vigiloconn.nagios.pipe:CommandPipe.write"),
    Point("written to the pipe", "after", "vigiloconn.nagios.pipe:CommandPipe.write"),
)
#: While a file is followed.
FOLLOWING = (
    Point("texts written, not committed", "after", f"{_ROWS}.write_kept"),
    Point("read, not put", "after", "vigiloconn.sources.pieces:FileReader.read"),
    Point("put, not advanced", "before", "vigiloconn.sources.pieces:FileReader.advance"),
    Point("accepted, not noted", "before", "vigiloconn.handlers.follow:FileFollower._take_note"),
    Point("file opened, not begun", "after", "vigiloconn.sources.trail:Trail.begin"),
    Point("file left, successor not begun", "after", "vigiloconn.sources.trail:Trail._leave"),
    Point("before a hole", "before", "vigiloconn.sources.reclaim:Puncher.punch"),
    Point("after a hole", "after", "vigiloconn.sources.reclaim:Puncher.punch"),
)

POINTS: tuple[Point, ...] = PUBLISHING + IN_TROUBLE + STARTING + STOPPING + CONSUMING + PIPING + FOLLOWING
#: Where a slow disk holds a transaction up: in it, so that others who want the file wait too.
SLOW_COMMIT = Point("slow disk", "after", f"{_ROWS}.save")


def number(name: str) -> int:
    """Return a point's number. Raises `StopIteration` when no point has that name."""
    return next(place for place, point in enumerate(POINTS) if point.name == name)


def find(point: Point) -> tuple[type, str]:
    """Return the class and the method's name. Raises `LookupError` that names the point."""
    module, _, dotted = point.target.partition(":")
    owner, _, method = dotted.partition(".")
    try:
        found = getattr(importlib.import_module(module), owner)
        getattr(found, method)
    except (ImportError, AttributeError) as exc:
        raise LookupError(
            f"point {point.name!r}: {point.target} is not there ({exc}): mend its name in {__file__}"
        ) from exc
    return found, method


def install(controls: Controls, sleep: Callable[[float], None] = time.sleep) -> None:
    """In the connector: let every point heed `controls`. Raises `LookupError`. `sleep` must block the thread."""
    for place, point in enumerate(POINTS):
        _wrap(point, functools.partial(_die_if_due, controls, place))
    _wrap(SLOW_COMMIT, lambda: sleep(controls.commit_stall_s) if controls.commit_stall_s else None)


def _die_if_due(controls: Controls, place: int) -> None:
    if controls.is_last_passage(place):
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(point: Point, passed: Callable[[], None]) -> None:
    owner, method = find(point)
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def before(*args: Any, **kwargs: Any) -> Any:
        passed()
        return inner(*args, **kwargs)

    @functools.wraps(inner)
    def after(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        passed()
        return result

    setattr(owner, method, before if point.side == "before" else after)
