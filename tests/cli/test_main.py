"""The command line as a whole: what it finds, and how each way out ends."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_semisup.cli import main as program
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast


class Command:
    """A sub-command that does what a test tells it."""

    HELP = "do what a test says"
    EXAMPLE = "nnUNetv2_semisup act"

    def __init__(self, action):
        self.action = action

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--flag")

    def run(self, args: argparse.Namespace) -> int | None:
        return self.action()


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch):
    """Run the command line with one command whose body is the given function."""
    before = signal.getsignal(signal.SIGTERM)

    def run(action, *flags: str) -> int:
        monkeypatch.setattr(program, "commands", lambda: {"act": Command(action)})
        return program.main(["act", *flags])

    yield run
    signal.signal(signal.SIGTERM, before)


def raises(error: BaseException):
    def action():
        raise error

    return action


def test_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]):
    commands = program.commands()
    assert {"trainers", "doctor", "preprocess", "split", "plan", "export", "demo"} <= commands.keys()
    for name, module in commands.items():
        with pytest.raises(SystemExit) as end:
            program.main([name, "--help"])
        shown = capsys.readouterr().out
        assert end.value.code == 0
        assert f"example:\n  {module.EXAMPLE}" in shown
        assert "--debug" in shown


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom nnunetv2_semisup.cli.main import build_parser\nbuild_parser()\n"
        "print(sorted({'torch', 'nnunetv2', 'pydantic', 'matplotlib'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_our_error_is_one_line(act, capsys: pytest.CaptureFixture[str]):
    assert act(raises(SemiSupervisedError("no plans;\n type: plan"))) == 1
    assert capsys.readouterr().err == "nnUNetv2_semisup: error: no plans; type: plan\n"


def test_another_error_is_one_line_that_offers_debug(act, capsys: pytest.CaptureFixture[str]):
    assert act(raises(ValueError("first\nsecond"))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "unexpected error: ValueError: first second" in lines[0]
    assert "--debug" in lines[0]


def test_debug_shows_the_traceback(act):
    with pytest.raises(SemiSupervisedError, match="no plans"):
        act(raises(SemiSupervisedError("no plans")), "--debug")


def test_wrong_usage_exits_2(act):
    with pytest.raises(SystemExit) as end:
        act(lambda: 0, "--nonsense")
    assert end.value.code == 2


def test_no_command_exits_2():
    with pytest.raises(SystemExit) as end:
        program.main([])
    assert end.value.code == 2


def test_ctrl_c_is_one_line(act, capsys: pytest.CaptureFixture[str]):
    assert act(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "nnUNetv2_semisup: interrupted\n"


def test_a_reader_that_has_read_enough_is_no_error():
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom nnunetv2_semisup.cli import main as program\n"
        "def run(args):\n    [print('x' * 9999, flush=True) for _ in range(99)]\n"
        "module = SimpleNamespace(HELP='h', EXAMPLE='e', add_arguments=lambda parser: None, run=run)\n"
        "program.commands = lambda: {'act': module}\nsys.exit(program.main(['act']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


def test_another_broken_pipe_is_an_error(act, capfd: pytest.CaptureFixture[str]):
    assert act(raises(BrokenPipeError("worker"))) == 1
    assert "unexpected error: BrokenPipeError: worker" in capfd.readouterr().err


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_status_is_the_commands(act, returned, status: int):
    assert act(lambda: returned) == status


def test_sigterm_runs_finally_blocks(tmp_path: Path):
    code = f"""
import time
from pathlib import Path
from nnunetv2_semisup.cli import main as program

class Command:
    HELP = EXAMPLE = "wait"
    add_arguments = staticmethod(lambda parser: None)

    @staticmethod
    def run(args):
        try:
            Path({str(tmp_path)!r}, "started").touch()
            time.sleep(60)
        finally:
            Path({str(tmp_path)!r}, "cleaned").touch()

program.commands = lambda: {{"wait": Command}}
raise SystemExit(program.main(["wait"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 143
    assert (tmp_path / "cleaned").exists()
    assert shown == b""
