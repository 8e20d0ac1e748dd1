"""What this process holds in memory. Knows /proc, not who asks."""

from __future__ import annotations

import os


def process_memory() -> dict[str, float]:
    """Return `process_rss` and `process_uss`, in bytes: what is resident, and what of it is this process's alone."""
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            rows = dict(line.split(b":", 1) for line in file if b":" in line and line.endswith(b"kB\n"))
    except OSError:
        # A kernel without it, or one that hides it: the share that is not shared with files comes close.
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared = (int(pages) for pages in file.read().split()[:3])
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        return {"process_rss": resident * page_bytes, "process_uss": (resident - shared) * page_bytes}
    own = sum(_kib(rows, name) for name in (b"Private_Clean", b"Private_Dirty", b"Private_Hugetlb"))
    return {"process_rss": _kib(rows, b"Rss") * 1024, "process_uss": own * 1024}


def _kib(rows: dict[bytes, bytes], name: bytes) -> int:
    return int(rows[name].split()[0]) if name in rows else 0
