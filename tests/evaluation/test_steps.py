import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.steps import Progress, Step, console_script, run_step

pytestmark = pytest.mark.fast


def python(code, **kwargs):
    return Step("a step", ("python", "-c", textwrap.dedent(code)), **kwargs)


def test_output_goes_to_the_log_and_variables_to_the_process(tmp_path):
    step = python("import os; print(os.environ['OURS'], os.environ['OWN'], os.getcwd())", variables={"OWN": "2"})
    run_step(step, tmp_path / "log", tmp_path, {**os.environ, "OURS": "1"}, lambda epochs: None)
    assert (tmp_path / "log").read_text().split() == ["1", "2", str(tmp_path.resolve())]


def test_line_is_what_one_would_type():
    assert Step("t", ("python", "-i", "my folder"), variables={"A": "0"}).line == "A=0 python -i 'my folder'"


def test_failure_tells_the_last_line(tmp_path):
    step = python("import sys; print('fine'); sys.exit('out of luck')")
    with pytest.raises(SemiSupervisedError, match=r"python failed: out of luck; everything it printed is in .*log"):
        run_step(step, tmp_path / "log", tmp_path, os.environ, lambda epochs: None)


def test_a_command_of_a_system_is_found_where_pip_puts_it(tmp_path, monkeypatch):
    """As on Debian: python3 in /usr/bin, its commands in /usr/local/bin."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "nnUNetv2_x").touch()
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr("sysconfig.get_path", lambda name, scheme="": str(tmp_path / ("user" if scheme else "local")))
    assert console_script("nnUNetv2_x") == str(tmp_path / "local" / "nnUNetv2_x")


def test_missing_console_script_tells_what_to_type():
    with pytest.raises(SemiSupervisedError, match="pip install"):
        console_script("nnUNetv2_there_is_no_such_command")


def test_epochs_are_counted_while_it_runs(tmp_path):
    code = """
        import time
        for epoch in range(3):
            print(f"2026-01-01 00:00:00: Epoch {epoch}", flush=True)
            print("2026-01-01 00:00:01: Epoch time: 1.0 s", flush=True)
            time.sleep(0.8)
    """
    seen = []
    run_step(python(code, epochs=3), tmp_path / "log", tmp_path, os.environ, seen.append)
    assert seen == sorted(seen)
    assert set(seen) >= {1, 2, 3}


def test_progress_without_a_terminal_is_one_line_now_and_then():
    stream = io.StringIO()
    progress = Progress(2, stream)
    progress.skip("data")
    with progress.step("train", epochs=12) as update:
        for epoch in range(13):
            update(epoch)
            update(epoch)
    lines = [line.split("  ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "[1/2] data: done before",
        "[2/2] train",
        *(f"[2/2] train: epoch {epoch} of 12" for epoch in (2, 4, 6, 8, 10, 12)),
        "[2/2] train: 0 s",
    ]


DRIVER = """
import os
from pathlib import Path
from nnunetv2_semisup.evaluation import steps

steps._GRACE_SECONDS = 1
with steps.hang_up_ends():
    steps.run_step(steps.Step("train", ("python", "training.py")), Path("log"), Path.cwd(), os.environ, lambda n: None)
"""
TRAINING = """
import os, pathlib, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "worker.py"], stdout=subprocess.PIPE)
worker.stdout.readline()
pathlib.Path("pids").write_text(f"{os.getpid()} {worker.pid}")
time.sleep(600)
"""
DEAF_WORKER = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_step_leaves_no_process(tmp_path, number):
    for name, code in (("driver", DRIVER), ("training", TRAINING), ("worker", DEAF_WORKER)):
        (tmp_path / f"{name}.py").write_text(code)
    driver = subprocess.Popen([sys.executable, "driver.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(running(pid) for pid in pids)
    driver.send_signal(number)
    assert driver.wait(30) != 0
    time.sleep(0.2)
    assert not any(running(pid) for pid in pids)
