"""A connector that the page can show without one: an outage after a busy hour, made up but for its shape."""

from __future__ import annotations

import functools
import http.server
import json
import math
import threading
import time
from typing import Any

from vigiloconn.control.page import PAGE

#: What nobody may take for more than text.
NASTY = '<img src=x onerror="document.title=\'owned\'">'


def status(reason: str = "NO_ROUTE") -> dict[str, Any]:
    """Return what `/status` tells in the middle of an outage."""
    problems = [
        _problem("writers-blocked", 2, "4 writers have to wait, one of them for 75 s: the journal is full",
                 "see the problem beside it: a full disk, a full or locked journal", 75.0),
        _problem("bus-away", 1, "no connection to the bus: broker1.example.net:5672: connection refused",
                 "start the broker or mend the network; after a refused login check [bus] user and password", 847.0),
        _problem("messages-parked", 1, "5 messages are parked", "bind a queue to their exchange and send them again",
                 11_000.0),
    ]  # fmt: skip
    return {
        "connector": "vigilo-connector-nagios-1", "version": "0.2.0", "pid": 4711, "time": time.time(),
        "uptime_s": 187_000.0,
        "state": {"level": 2, "word": "CRITICAL", "text": "", "since": time.time() - 75, "for_s": 75.0,
                  "problems": problems},
        "flow": {
            "in_per_s": {"10s": 312.4, "5min": 298.1}, "out_per_s": {"10s": 0.0, "5min": 0.0},
            "consumed_per_s": {"10s": 0.0, "5min": 0.2}, "acknowledged_per_s": {"10s": 0.0, "5min": 0.2},
            "waiting": 254_118.0, "waiting_bytes": 48_611_002.0, "oldest_s": 847.0, "in_flight": 0.0, "parked": 5.0,
            "drained_in_s": None,
        },
        "latency": {},
        "brokers": {
            "client (publish)": _broker(None, "broker2.example.net:5672"),
            "client (consume)": _broker("broker2.example.net:5672", None),
        },
        "exchanges": [],
        "held": [{"exchange": "perf", "messages": 1200, "state": "held", "next_try_s": 12.0,
                  "reason": "NOT_FOUND - no exchange 'perf' in vhost '/'"}],
        "parked": [{"exchange": "event", "reason": reason, "messages": 5, "oldest_s": 11_000.0}],
        "dead_lettered": 2.0,
        "files": [{"part": "follow /var/spool/perfdata", "position": 1e6, "lag_bytes": 73_000.0, "lag_s": 4.2}],
        "parts": [
            _part("socket", connections=4, connections_total=9, received=1_512_003, malformed=3),
            _part("follow /var/spool/perfdata", follow_position=1e6, follow_lag_bytes=73_000, follow_lag_s=4.2),
            _part("journal", backup=254_118, accepted=1_512_000, writers_waiting=4, parked=5),
            _part("publisher", published=1_257_900, held_exchanges=1, in_flight=0),
            _part("client (publish)", connected=0, connections=3),
            _part("nagios commands", acknowledged=812, ready=0, dead_lettered=2),
        ],
        "process": {},
    }  # fmt: skip


def history() -> dict[str, list[float | None]]:
    """Return what `/history` tells: an hour with a rush, a pause of the connector and an outage at its end."""
    now = time.time()
    times = [now - 3600 + at * 10 for at in range(360) if not 90 <= at < 97]
    rates = [290 + 90 * math.sin(at / 17) + (700 if 140 < at < 160 else 0) for at in range(len(times))]
    is_away = [time > now - 847 for time in times]
    rows: dict[str, list[float | None]] = {"time": [*times], "in_per_s": [*rates]}
    rows["out_per_s"] = [0.0 if away else rate for away, rate in zip(is_away, rates, strict=True)]
    rows["waiting"] = [max(0.0, (time - now + 847) * 300) for time in times]
    rows["oldest_s"] = [max(0.0, time - now + 847) for time in times]
    rows["acceptance_s"] = [0.004 + 0.002 * math.sin(at / 9) for at in range(len(times))]
    rows["confirm_s"] = [None if away else 0.013 + 0.006 * math.sin(at / 13) for at, away in enumerate(is_away)]
    return rows


class Scene:
    """Serves the page and what it asks for. A context manager; `url` is where. `reason` is what a broker has said."""

    def __init__(self, reason: str = "NO_ROUTE: no queue is bound") -> None:
        self._reason = reason

    def __enter__(self) -> Scene:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Answers, self._reason))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Answers(http.server.BaseHTTPRequestHandler):
    def __init__(self, reason: str, *args: Any) -> None:
        self._reason = reason
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        bodies = {"/": lambda: PAGE, "/status": lambda: json.dumps(status(self._reason)).encode(),
                  "/history": lambda: json.dumps(history()).encode()}  # fmt: skip
        body = bodies.get(path, lambda: b"")()
        self.send_response(200 if path in bodies else 404)
        self.send_header("Content-Type", "text/html" if path == "/" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _problem(name: str, level: int, text: str, what_to_do: str, for_s: float) -> dict[str, Any]:
    return {"name": name, "level": level, "part": "", "about": "", "text": text, "since": time.time() - for_s,
            "for_s": for_s, "what_to_do": what_to_do}  # fmt: skip


def _broker(broker: str | None, next_broker: str | None) -> dict[str, Any]:
    return {
        "broker": broker, "connected_for_s": 12_000.0 if broker else None, "blocked": False, "next_broker": next_broker,
        "next_try_s": 12.0 if next_broker else None, "last_error": "connection refused" if next_broker else None,
    }  # fmt: skip


def _part(name: str, **figures: float) -> dict[str, Any]:
    return {"name": name, "state": "running", "for_s": 187_000.0, "crashes": 0, "figures": figures, "details": {}}
