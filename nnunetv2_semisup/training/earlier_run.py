"""What an earlier training has left in the fold's folder, so that a later --c does not go back to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from nnunetv2_semisup.training.fold_files import BEST, FINAL, LATEST, VALIDATION_RECORD
from nnunetv2_semisup.training.rounds import FOLDER

CHECKPOINTS = (FINAL, LATEST, BEST)
"""What --c goes on from: the first that is there."""
PREFIX = "earlier_"


def make_way(trainer: Any, begins: bool) -> None:
    """Let the checkpoints of a training that starts now be those that a later --c finds.

    To be called when every process has loaded its checkpoint; the first process acts.

    Args:
        trainer: the engine, before its first epoch.
        begins: whether the training has loaded no checkpoint.
    """
    if trainer.local_rank != 0:
        return
    folder = Path(trainer.output_folder)
    if begins:
        _set_aside(trainer, folder)
    elif trainer.continues and trainer.current_epoch < trainer.num_epochs and (folder / FINAL).exists():
        # --c prefers it to what the longer training saves from now on, and every kill would go back to the old end.
        os.replace(folder / FINAL, folder / LATEST)


def _set_aside(trainer: Any, folder: Path) -> None:
    """Rename the checkpoints of an earlier training, remove its pseudo-labels, and disown its segmentations."""
    # Until it saves for the first time, --c would go on from the earlier training.
    found = [name for name in CHECKPOINTS if (folder / name).exists()]
    for name in found:
        os.replace(folder / name, folder / (PREFIX + name))
    if found:
        trainer.print_to_log_file(
            f"An earlier training was here, and this one begins anew: {', '.join(found)} renamed to {PREFIX}*"
        )
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / VALIDATION_RECORD).unlink(missing_ok=True)
