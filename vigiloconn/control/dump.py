"""All that can be told of a process at this moment, into the log: what each greenlet does, and the figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from gevent.util import format_run_info

log = logging.getLogger(__name__)


#: Typed as if it returned nothing.
_stacks = cast("Callable[[], list[str]]", format_run_info)


def dump(document: Callable[[], Mapping[str, Any]]) -> None:
    """Log the stacks of all greenlets and threads, then what `/status` tells."""
    log.warning("asked for stacks and figures:\n%s", "\n".join(_stacks()))
    log.warning("figures: %s", json.dumps(document()))
