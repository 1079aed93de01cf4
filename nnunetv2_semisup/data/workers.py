"""Work spread over processes, where a process that dies costs the task it was at and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], num_processes: int
) -> Generator[tuple[Task, Result | None]]:
    """Call `function` on every task in spawned processes; yields (task, result) as they finish.

    The result is None where the process died at the task (killed, out of memory); another takes its place. Tasks are
    taken one by one, so memory does not grow with their number. Leaving the loop early, by an exception too, ends the
    processes; if this process is killed, they end by themselves. Only for the main thread.

    Args:
        function: picklable; it must not raise.
        tasks: picklable.
        num_processes: at least 1.
    """
    waiting = iter(tasks)
    busy: dict[Connection, tuple[SpawnProcess, Task]] = {}
    idle: list[tuple[SpawnProcess, Connection]] = []
    try:
        while True:
            while len(busy) < num_processes:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                process, connection = idle.pop() if idle else _start(function)
                busy[connection] = (process, task)
                _send(connection, task)
            if not busy:
                return
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, task = busy.pop(ready)
                result = None
                try:
                    result = ready.recv()
                    idle.append((process, ready))
                except (EOFError, ConnectionError):
                    ready.close()
                    process.join()
                yield task, result
    finally:
        remaining = [(process, connection) for connection, (process, _) in busy.items()] + idle
        for process, connection in remaining:
            process.terminate()
            connection.close()
        for process, _ in remaining:
            process.join()


def _start(function: Callable[[Task], Result]) -> tuple[SpawnProcess, Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    # Ctrl-C reaches the whole process group. This process ends the others; they inherit that they ignore it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    theirs.close()
    return process, ours


def _send(connection: Connection, task: object) -> None:
    try:
        connection.send(task)
    except ConnectionError:
        pass  # The process died at its start; reading from it says so.


def _serve(connection: Connection, function: Callable[[Task], Result]) -> None:
    try:
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, ConnectionError):
        return
