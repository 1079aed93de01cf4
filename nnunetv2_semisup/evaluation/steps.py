"""Runs nnU-Net's and our console scripts one after the other, shows how far they are, and leaves no process behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from tqdm import tqdm

from nnunetv2_semisup.errors import SemiSupervisedError

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10


@dataclass(frozen=True)
class Step:
    """One console script and its arguments."""

    title: str
    """What a reader sees; the log file is named after it."""
    command: tuple[str, ...]
    epochs: int | None = None
    """Length of a training, counted from its output."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of this step alone."""

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return " ".join([*(f"{name}={value}" for name, value in self.variables.items()), shlex.join(self.command)])


@dataclass
class Progress:
    """One bar a step on a terminal; elsewhere one line when it starts, ends, and after every few epochs."""

    n_steps: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _began: float = field(default_factory=time.monotonic)
    _number: int = 0

    def say(self, text: str) -> None:
        """Write one line that begins with the minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:2d}:{seconds:02d}  {text}", file=self.stream, flush=True)

    def skip(self, title: str) -> None:
        """Count a step that an earlier run finished."""
        self._number += 1
        self.say(f"[{self._number}/{self.n_steps}] {title}: done before")

    @contextmanager
    def step(self, title: str, epochs: int | None = None) -> Iterator[Callable[[int], None]]:
        """Count a step and show it; what it yields is called again and again with the number of finished epochs."""
        self._number += 1
        heading = f"[{self._number}/{self.n_steps}] {title}"
        interactive = self.stream.isatty()
        layout = "{desc}: epoch {n_fmt}/{total_fmt} |{bar:30}| {elapsed}<{remaining}" if epochs else "{desc} {elapsed}"
        bar = tqdm(
            total=epochs, desc=heading, bar_format=layout, file=self.stream, leave=False, disable=not interactive
        )
        began = time.monotonic()
        said = 0

        def update(epochs_done: int) -> None:
            nonlocal said
            bar.n = epochs_done
            bar.refresh()
            if not interactive and epochs and epochs_done - said >= max(1, epochs // 6):
                said = epochs_done
                self.say(f"{heading}: epoch {epochs_done} of {epochs}")

        if not interactive:
            self.say(heading)
        try:
            yield update
        finally:
            bar.close()
        self.say(f"{heading}: {time.monotonic() - began:.0f} s")


def run_step(
    step: Step,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    update: Callable[[int], None],
    inherited: Sequence[int] = (),
) -> None:
    """Run a command to its end, in `folder`; what it prints goes to `log`.

    Its processes form a group of their own, which is gone when this returns or raises, whatever the reason.
    `update` is called every half second with the number of finished epochs; what it raises ends the command.
    `inherited` are open file descriptors that the command's processes keep.

    Raises:
        SemiSupervisedError: it is not installed, or failed; then the message has its last line of output.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [console_script(step.command[0]), *step.command[1:]],
            cwd=folder,
            env={**environment, **step.variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherited,
        )
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                update(log.read_text(errors="replace").count(": Epoch time:") if step.epochs else 0)
        finally:
            _end_group(process)
    if process.returncode != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit status {process.returncode}"
        raise SemiSupervisedError(f"{step.command[0]} failed: {last}; everything it printed is in {log}")


def console_script(name: str) -> str:
    """Absolute path of a command that is installed: beside Python, or where pip puts a system's or a user's."""
    user = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts")), Path(user)]
    beside = next((str(folder / name) for folder in folders if (folder / name).exists()), None)
    if (found := beside or shutil.which(name)) is None:
        raise SemiSupervisedError(f"{name} is missing; in the clone type: {sys.executable} -m pip install -e .")
    return found


def command_path() -> str:
    """PATH with the folder of nnU-Net's commands, and so of ours, before all others."""
    return os.pathsep.join([str(Path(console_script("nnUNetv2_train")).parent), os.environ.get("PATH", "")])


@contextmanager
def hang_up_ends() -> Iterator[None]:
    """Let a closed terminal unwind the stack as SIGTERM does, so that no process stays; nohup stays in force."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process group: asked first, then by force; also when interrupted meanwhile."""
    with suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SECONDS
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
