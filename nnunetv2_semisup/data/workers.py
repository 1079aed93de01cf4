"""Work spread over processes, where a process that dies costs the task it was at and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from nnunetv2.configuration import default_num_processes

from nnunetv2_semisup.termination import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Spawned processes that outlive one `run`. A context manager: leaving it, by an exception too, ends them.

    They start as they are needed. If this process is killed they end by themselves, whatever they are at. Only for
    the main thread.
    """

    def __init__(self, num_processes: int) -> None:
        """Args: `num_processes`, at least 1."""
        self._num_processes = num_processes
        self._busy: dict[Connection, tuple[SpawnProcess, Any]] = {}
        self._idle: list[tuple[SpawnProcess, Connection]] = []

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the processes, whatever they are at."""
        processes = [(process, connection) for connection, (process, _) in self._busy.items()] + self._idle
        for process, connection in processes:
            process.terminate()
            connection.close()
        for process, _ in processes:
            process.join()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | None]]:
        """Call `function` on every task; yields (task, result) as they finish.

        The result is None where the process died at the task (killed, out of memory); another takes its place. Tasks
        are taken one by one, so memory does not grow with their number. Not to be left before the last one.

        Args:
            function: picklable, sent with every task; it must not raise.
            tasks: picklable.
        """
        waiting = iter(tasks)
        while True:
            while len(self._busy) < self._num_processes:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                process, connection = self._idle.pop() if self._idle else _start()
                self._busy[connection] = (process, task)
                _send(connection, (function, task))
            if not self._busy:
                return
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                process, task = self._busy.pop(ready)
                result = None
                try:
                    result = ready.recv()
                    self._idle.append((process, ready))
                except (EOFError, ConnectionError):
                    ready.close()
                    process.join()
                yield task, result


def processes() -> int:
    """As many as there are cores, and at most nnU-Net's own number (nnUNet_def_n_proc)."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, int(default_num_processes)))


def _start() -> tuple[SpawnProcess, Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    # Ctrl-C reaches the whole process group. This process ends the others; they inherit that they ignore it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    theirs.close()
    return process, ours


def _send(connection: Connection, message: object) -> None:
    try:
        connection.send(message)
    except ConnectionError:
        pass  # The process died at its start; reading from it says so.


def _serve(connection: Connection) -> None:
    end_with_parent()
    try:
        while True:
            function, task = connection.recv()
            connection.send(function(task))
    except (EOFError, ConnectionError):
        return
