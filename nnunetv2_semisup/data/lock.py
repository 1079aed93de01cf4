"""One process at a time, also across machines that share the folder, and also after the one before was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_semisup.data.folders import cannot_write

_POLL_SECONDS = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(file: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the lock of `file`, which is made where it is missing; yields the descriptor that holds it.

    A child process that inherits the descriptor keeps the lock when its parent is killed. While another process holds
    it, `waiting` is called again and again; what it raises ends the waiting. Where the file system has no locks,
    nothing is waited for.

    Raises SemiSupervisedError where the file cannot be made.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(file, error) from error
    try:
        while not _taken(descriptor):
            waiting()
            time.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
