"""The native thread for calls that block: order, failures, its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent import monkey

from vigiloconn.kit.worker import Worker

_NativeEvent = monkey.get_original("threading", "Event")


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.kill()


def test_calls_are_done_in_their_order_on_one_other_thread(worker: Worker) -> None:
    done: list[int] = []
    answers = [worker.spawn(lambda number=number: done.append(number)) for number in range(1000)]  # type: ignore[misc]
    thread = worker.spawn(monkey.get_original("threading", "get_ident")).get(timeout=10)
    assert all(answer.ready() for answer in answers)
    assert done == list(range(1000))
    assert thread != threading.get_ident()


def test_others_run_while_a_call_blocks(worker: Worker) -> None:
    gate = _NativeEvent()
    answer = worker.spawn(gate.wait, 10)
    gevent.sleep(0.01)
    assert not answer.ready()
    gate.set()
    assert answer.get(timeout=10) is True


def test_what_a_call_raises_is_raised_where_its_answer_is_waited_for_and_the_next_is_done(worker: Worker) -> None:
    failed, fine = worker.spawn(int, "ten"), worker.spawn(int, "10")
    with pytest.raises(ValueError, match="ten"):
        failed.get(timeout=10)
    assert fine.get(timeout=10) == 10


def test_its_end_waits_for_what_it_was_asked_for_and_may_be_asked_for_twice() -> None:
    worker = Worker()
    done: list[int] = []
    worker.spawn(done.append, 1)
    worker.kill()
    assert done == [1]
    worker.kill()


def test_a_call_that_is_asked_for_while_another_is_done_is_not_forgotten(worker: Worker) -> None:
    for _ in range(200):
        first, second = worker.spawn(int, "1"), worker.spawn(int, "2")
        assert first.get(timeout=10) == 1
        third = worker.spawn(int, "3")
        assert (second.get(timeout=10), third.get(timeout=10)) == (2, 3)


def test_its_descriptors_are_closed_with_it() -> None:
    before = set(os.listdir("/proc/self/fd"))
    worker = Worker()
    assert set(os.listdir("/proc/self/fd")) > before
    worker.kill()
    assert set(os.listdir("/proc/self/fd")) <= before


_INTERRUPTED = """
from gevent import monkey
monkey.patch_all()
import signal, sys, time
from vigiloconn.kit.worker import Worker
worker = Worker()
print(worker.spawn(lambda: "first").get(timeout=10))
signal.signal(signal.SIGUSR2, lambda *_: None)
for thread in sys._current_frames():
    signal.pthread_kill(thread, signal.SIGUSR2)
time.sleep(0.05)
print(worker.spawn(lambda: "second").get(timeout=10))
"""


def test_work_goes_on_after_a_signal_has_interrupted_the_wait_for_it() -> None:
    told = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout == "first\nsecond\n", told.stderr
