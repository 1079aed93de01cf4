"""What a training has cost so far, in a file of the fold's folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

COST_FILE = "semisup_cost.json"


@dataclass
class Cost:
    """Sums over all sessions of a training.

    Attributes:
        samples: patches through a network in training steps, each pass counted, a teacher's too; of this process.
        gradient_samples: those of them that carried a gradient.
        seconds: wall time of the epochs, validation included.
        epochs: finished.
        peak_memory_bytes: the largest of all sessions: on a GPU what torch allocated, else the resident size
            (0 on Windows, which does not tell).
    """

    samples: float = 0
    gradient_samples: float = 0
    seconds: float = 0.0
    epochs: int = 0
    peak_memory_bytes: int = 0

    def count(self, samples: float, gradient: bool) -> None:
        """One pass of so many patches, or parts of patches."""
        self.samples += samples
        self.gradient_samples += samples * gradient

    def end_epoch(self, seconds: float, device: torch.device) -> None:
        """One more epoch is over."""
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
