"""How many files this process may have open. Knows `setrlimit`, not who opens what."""

from __future__ import annotations

import resource

#: Kept free for what must always work: connections to brokers, the journal and its companions, state and log files, and
#: those that ask how it goes (twice 16).
RESERVE = 64


def limit() -> int:
    """Return how many descriptors there may be; their numbers are below this."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def raise_limit() -> int:
    """Raise the soft limit to the hard one, which needs no privilege, and return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()
