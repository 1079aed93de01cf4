"""Names of the files that nnU-Net and we leave in the folder of a fold."""

from __future__ import annotations

FINAL = "checkpoint_final.pth"
"""Of a finished training; its weights are in the network when the training ends."""
LATEST = "checkpoint_latest.pth"
BEST = "checkpoint_best.pth"
"""Selected by the pseudo Dice of the validation cases."""
VALIDATION_FILE = "semisup_validation.json"
"""Beside segmentations: {"checkpoint": "checkpoint_final.pth", "epoch": 1000}, the checkpoint that made them."""
VALIDATION_RECORD = f"validation/{VALIDATION_FILE}"
"""The same from the fold's folder."""
