"""Our section of a checkpoint, and how checkpoints reach the disk whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnunetv2_semisup.errors import SemiSupervisedError

SECTION = "semisup"
FORMAT = 1


def save_with_section(save_stock: Callable[[io.BytesIO], None], file: Path, section: Mapping[str, Any]) -> None:
    """Let nnU-Net write its checkpoint to memory, add our section, and put the whole in place of `file`.

    A kill leaves the file as it was before. Raises SemiSupervisedError where the disk is full or read-only; no half
    file stays.
    """
    buffer = io.BytesIO()
    save_stock(buffer)
    if buffer.tell() == 0:
        return
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
    checkpoint[SECTION] = dict(section)
    temporary = file.with_name(file.name + ".tmp")
    try:
        torch.save(checkpoint, temporary)
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise SemiSupervisedError(
            f"cannot write {file} ({error}); make room or mend the permissions, then run the same command with --c"
        ) from None


def refuse_changes(section: Mapping[str, Any], settings: Mapping[str, Any], cases: Mapping[str, list[str]]) -> None:
    """Refuse to continue a run with other cases or settings than it was started with.

    A larger training.num_epochs is allowed. Raises SemiSupervisedError that names the key.
    """
    stored, given = _flat(section["requested"]), _flat(settings)
    for key in sorted(stored.keys() | given.keys()):
        before, now = stored.get(key), given.get(key)
        if before == now:
            continue
        if key == "training.num_epochs" and isinstance(before, int) and isinstance(now, int) and now > before:
            continue
        raise SemiSupervisedError(
            f"this training was started with {key} = {before!r}, the plans now say {now!r}; set it back, or start a "
            "new training with plans of another name (nnUNetv2_semisup plan -o NAME)"
        )
    for kind, before in section["cases"].items():
        if sorted(before) != sorted(cases[kind]):
            changed = sorted(set(before) ^ set(cases[kind]))
            raise SemiSupervisedError(
                f"this training was started with other {kind} cases ({len(before)}, now {len(cases[kind])}; first "
                f"difference: {changed[0] if changed else 'a repeated id'}); restore them, or start anew without --c"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
