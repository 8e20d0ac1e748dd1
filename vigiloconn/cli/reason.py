"""Why a connector keeps a writer waiting, as its control socket tells. Loaded only once one has to wait."""

from __future__ import annotations

import _socket
import os

_PATIENCE_S = 1.0
_CONTROL = "control.sock"


def reason_to_wait(socket_path: str) -> str:
    """Return why nothing is accepted at `socket_path`, in a few words; asked by the control socket beside it."""
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        link.settimeout(_PATIENCE_S)
        link.connect(os.path.join(os.path.dirname(socket_path), _CONTROL))
        link.send(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = b""
        while part := link.recv(65536):
            answer += part
    except OSError:
        return "the connector does not say why"
    finally:
        link.close()
    text = answer.partition(b"\r\n\r\n")[2].decode(errors="replace").strip()
    return "its answer is on the way" if text == "accepting" else text or "the connector does not say why"
