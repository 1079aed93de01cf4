"""`nnUNetv2_semisup trainers`: the folder for `nnUNet_extTrainer`."""

from __future__ import annotations

import argparse
from pathlib import Path

import nnunetv2_semisup.extension

HELP = "print the folder that nnUNet_extTrainer must name"
EXAMPLE = 'export nnUNet_extTrainer="$(nnUNetv2_semisup trainers)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes none."""


def run(args: argparse.Namespace) -> None:
    """Print the absolute path, and nothing else."""
    print(extension_folder())


def extension_folder() -> Path:
    """Absolute folder of the module through which nnU-Net finds our trainers."""
    return Path(nnunetv2_semisup.extension.__path__[0]).resolve()
