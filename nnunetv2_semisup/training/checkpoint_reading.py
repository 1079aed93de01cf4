"""Reading checkpoints without running what is in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_semisup.errors import SemiSupervisedError

STOCK_KEYS = ("network_weights", "init_args", "trainer_name")
"""What makes a file an nnU-Net checkpoint: nothing can be predicted without these."""

_scalar = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
]
"""Beyond torch's own: nnU-Net's log holds NumPy scalars, under either of two names of one NumPy function."""


def read_checkpoint(path: Path, keys: Sequence[str] = STOCK_KEYS) -> dict[str, Any]:
    """An nnU-Net checkpoint on the CPU, with `weights_only=True` and a short allow-list.

    Ours holds the key "semisup" beside stock's; a stock one does not. `keys`: what must be in it. Raises
    SemiSupervisedError for a file that is missing, truncated, no nnU-Net checkpoint, or holds anything but tensors and
    plain values.
    """
    if not path.is_file():
        raise SemiSupervisedError(f"there is no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise SemiSupervisedError(f"{path} is truncated or no checkpoint; restore it, or continue from another one")
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SemiSupervisedError(
            f"{path} holds more than tensors and plain values, so it is not read: {_culprit(error)}"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise SemiSupervisedError(f"{path} is damaged: {_first_sentence(error)}") from None
    if not isinstance(checkpoint, dict) or not all(key in checkpoint for key in keys):
        raise SemiSupervisedError(f"{path} is no nnU-Net checkpoint: it lacks one of {', '.join(keys)}")
    return checkpoint


def _culprit(error: pickle.UnpicklingError) -> str:
    """What was refused, out of torch's page of advice."""
    found = re.search(r"GLOBAL (\S+)|<class '(.+?)'>", str(error))
    return next(filter(None, found.groups())) if found else _first_sentence(error)


def _first_sentence(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0]
