"""Asking by the control socket, where its other end is busy with others."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vigiloconn.control.asking import CantAsk, ask

_OK = b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nhere"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[socket.socket]:
    """A listener whose queue has no place."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(listener.getsockname())
        yield listener


def test_where_no_place_gets_free_it_is_said_that_there_was_no_answer(full: socket.socket) -> None:
    with pytest.raises(CantAsk, match=r"no answer within 0\.2 s"):
        ask(full.getsockname(), "/status", timeout_s=0.2)


def test_a_place_in_the_queue_is_waited_for(full: socket.socket) -> None:
    def serve() -> None:
        full.settimeout(10.0)
        others, _ = full.accept()
        others.close()
        with full.accept()[0] as ours:
            ours.recv(1000)
            ours.sendall(_OK)

    serving = threading.Timer(0.1, serve)
    serving.start()
    assert ask(full.getsockname(), "/status").text == "here"
    serving.join()
