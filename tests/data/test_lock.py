"""A lock outlives a killed process as long as its child lives."""

import os
import signal
import subprocess
import sys

import pytest

from nnunetv2_semisup.data.lock import held
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast

HOLDER = """
import subprocess, sys
from pathlib import Path
from nnunetv2_semisup.data.lock import held

with held(Path(sys.argv[1]), lambda: None) as lock:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock])
    print(child.pid, flush=True)
    child.wait()
"""


class _GivenUp(Exception):
    pass


def give_up():
    raise _GivenUp


def test_it_is_free_after_the_block(tmp_path):
    for _ in range(2):
        with held(tmp_path / "lock", give_up):
            pass


def test_two_cannot_hold_it(tmp_path):
    with held(tmp_path / "lock", give_up), pytest.raises(_GivenUp), held(tmp_path / "lock", give_up):
        pytest.fail("held twice")


def test_a_file_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(SemiSupervisedError, match=r"cannot write .*lock"), held(tmp_path / "missing" / "lock", give_up):
        pytest.fail("held")


def test_the_child_of_a_killed_process_keeps_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE) as holder:
        child = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        with pytest.raises(_GivenUp), held(tmp_path / "lock", give_up):
            pytest.fail("its child holds it")
        times_waited = 0

        def end_the_child():
            nonlocal times_waited
            times_waited += 1
            os.kill(child, signal.SIGKILL)

        with held(tmp_path / "lock", end_the_child):
            assert times_waited == 1
