"""Greenlets that tell being ended from failing. Knows gevent, nothing of what runs in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.greenlet import Greenlet

from vigiloconn.errors import VigiloError


class Ended(gevent.GreenletExit):
    """Raised in a greenlet that is ended from outside, which is no failure of what runs there."""


class Escaped(VigiloError):
    """Raised in place of what would end a greenlet in silence, or the whole process: GreenletExit, SystemExit,
    asyncio.CancelledError and the like, let out by what runs there."""


class Job(Greenlet):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A greenlet that ends by `Ended` when anybody kills it, and fails by an `Exception` else."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(_run, function, args)

    def throw(self, *args: Any) -> Any:
        """See greenlet's. A plain GreenletExit is what `kill` throws; from here on it is known to come from outside."""
        if not args or args[0] is gevent.GreenletExit:
            args = (Ended,)
        return super().throw(*args)


def _run(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except (Exception, Ended, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise Escaped(f"{type(exc).__name__} was let out: {exc}") from exc


def failure_of(function: Callable[[], object]) -> BaseException | None:
    """Call `function` and return what it let out, whatever that is; None where it returned. Being ended passes.

    For code that an author wrote and that others must not suffer from.
    """
    try:
        function()
    except (Ended, KeyboardInterrupt):
        raise
    except BaseException as exc:  # noqa: BLE001 - that is what it is for
        return exc
    return None
