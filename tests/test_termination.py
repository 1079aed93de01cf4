"""SIGTERM unwinds this process and ends its forked children at once."""

import multiprocessing
import os
import signal
import time

import psutil
import pytest

from nnunetv2_semisup.termination import sigterm_unwinds

pytestmark = pytest.mark.fast


def test_sigterm_unwinds_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def be_terminated() -> None:
        with sigterm_unwinds():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                cleaned.append(True)

    with pytest.raises(SystemExit) as left:
        be_terminated()
    assert left.value.code == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


def _wait_without_bytecodes() -> None:
    multiprocessing.Event().wait()


def test_forked_children_have_the_default_action():
    with sigterm_unwinds():
        child = multiprocessing.get_context("fork").Process(target=_wait_without_bytecodes)
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(10)
    assert child.exitcode == -signal.SIGTERM


def _parent_of_a_worker(pipe) -> None:
    with sigterm_unwinds():
        worker = multiprocessing.get_context("fork").Process(target=_wait_without_bytecodes)
        worker.start()
        pipe.send(worker.pid)
        _wait_without_bytecodes()


def test_forked_children_of_a_killed_process_end():
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context("fork").Process(target=_parent_of_a_worker, args=(theirs,))
    parent.start()
    worker = psutil.Process(ours.recv())
    parent.kill()
    parent.join()
    worker.wait(timeout=10)
