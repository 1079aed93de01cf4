"""Functions that run in the workers are at the top of this module: spawned processes import them from here."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children, parent_process

import psutil
import pytest

from nnunetv2_semisup.data.workers import Workers

pytestmark = pytest.mark.fast


def square(number):
    return number * number, os.getpid(), parent_process() is not None


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_long(number):
    time.sleep(600)


def say_and_sleep(number):
    print("one", flush=True)
    time.sleep(600)


def test_every_task_is_done_once_in_other_processes():
    with Workers(2) as workers:
        results = dict(workers.run(square, range(20)))
        again = dict(workers.run(square, range(4)))
    assert {task: result[0] for task, result in results.items()} == {n: n * n for n in range(20)}
    assert all(result[2] for result in results.values())
    processes = {result[1] for result in results.values()}
    assert len(processes) <= 2
    assert {result[1] for result in again.values()} <= processes
    assert active_children() == []


def test_a_process_that_dies_costs_its_task_only():
    with Workers(1) as workers:
        results = dict(workers.run(die_at_three, range(6)))
    assert results == {0: 0, 1: 1, 2: 2, 3: None, 4: 4, 5: 5}


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    with Workers(2) as workers:
        next(workers.run(square, tasks()))
    assert len(taken) <= 3
    assert active_children() == []


def test_no_task_starts_no_process():
    with Workers(2) as workers:
        assert list(workers.run(square, [])) == []
        assert active_children() == []


def test_leaving_on_an_exception_ends_the_processes():
    def alarm(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
            list(workers.run(sleep_long, range(2)))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert active_children() == []


SCRIPT = """
from nnunetv2_semisup.data.workers import Workers
from tests.data import test_workers

if __name__ == "__main__":
    with Workers(2) as workers:
        for _ in workers.run(test_workers.{}, iter(int, 1)):
            print("one", flush=True)
"""


@pytest.mark.parametrize("function", ["square", "say_and_sleep"])
def test_processes_end_when_their_parent_is_killed(tmp_path, function):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(function))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"one\n"
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
