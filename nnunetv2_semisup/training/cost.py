"""What a training has cost so far, in a file of the fold's folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nnunetv2_semisup.training.distributed import is_distributed, summed

COST_FILE = "semisup_cost.json"


@dataclass
class Cost:
    """Sums over all sessions of a training, and at the end of each epoch over its processes.

    Attributes:
        samples: patches through a network in training steps, each pass counted, a teacher's too.
        gradient_samples: those of them that carried a gradient.
        seconds: wall time of the epochs, validation included.
        epochs: finished.
        peak_memory_bytes: the largest of all sessions, of the first process: on a GPU what torch allocated, else the
            resident size (0 on Windows, which does not tell).
    """

    samples: float = 0
    gradient_samples: float = 0
    seconds: float = 0.0
    epochs: int = 0
    peak_memory_bytes: int = 0

    def __post_init__(self) -> None:
        """What is there already is every process's."""
        self._shared = (self.samples, self.gradient_samples)

    def go_on_from(self, stored: Mapping[str, float]) -> None:
        """Take over the sums of the sessions before this one, which all processes read from one checkpoint."""
        vars(self).update(stored)
        self._shared = (self.samples, self.gradient_samples)

    def count(self, samples: float, gradient: bool) -> None:
        """One pass of so many patches, or parts of patches."""
        self.samples += samples
        self.gradient_samples += samples * gradient

    def end_epoch(self, seconds: float, device: torch.device) -> None:
        """One more epoch is over. Each process has counted its own part of it; they must all call this."""
        if is_distributed():
            parts = torch.tensor([self.samples, self.gradient_samples], dtype=torch.float64, device=device)
            shared = torch.tensor(self._shared, dtype=torch.float64, device=device)
            self.samples, self.gradient_samples = (shared + summed(parts - shared)).tolist()
        self._shared = (self.samples, self.gradient_samples)
        self.epochs += 1
        self.seconds += seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, _peak_memory(device))

    def write(self, folder: Path) -> None:
        """The whole file or none."""
        file = folder / COST_FILE
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self), indent=4))
        os.replace(partial, file)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
