"""How processes end: SIGTERM unwinds the stack, so that `finally` blocks run, and no worker outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit(143) in this process; forked children die of it, and with it.

    Does nothing outside the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def end_with_parent() -> None:
    """Let this process, a worker, end when its parent is gone, also when that was killed.

    A killed parent cannot end its daemons, and a full queue would hold them for ever.
    """
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent_id: int) -> None:
    # Under fork the parent's sentinel stays open in later siblings, so the parent's id is watched as well.
    parent = multiprocessing.parent_process()
    while os.getppid() == parent_id and (parent is None or parent.is_alive()):
        if parent is None:
            time.sleep(1)
        else:
            parent.join(timeout=1)
    os._exit(1)


def _live_as_worker() -> None:
    if signal.getsignal(signal.SIGTERM) is _unwind:
        # A Python handler runs between bytecodes: a forked pool worker that is about to wait on a semaphore would
        # note the signal and wait on, and whoever terminates the pool would wait for the worker.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_live_as_worker)
