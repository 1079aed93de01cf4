"""Our section of a checkpoint: what is in it, how it reaches the disk whole, and how a training goes on from it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nnunetv2_semisup.configuration.settings import Settings
from nnunetv2_semisup.data.random_streams import global_state, restore_global_state, seed_global
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import unwrapped
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint

SECTION = "semisup"
FORMAT = 1
MEND = "make room or mend the permissions, then run the same command with --c"
"""What to do where something of a run cannot be written."""


def section_of(trainer: Any) -> dict[str, Any]:
    """Everything of ours in a training between two epochs, as plain tensors, numbers, texts, lists and dicts."""
    modules = {name: getattr(trainer, name) for name in ("heads", "teacher", "second_decoder", "peer")}
    return {
        "format": FORMAT,
        "method": trainer.method(),
        "settings": trainer.settings.model_dump(),
        "requested": trainer.requested.model_dump(),
        "cases": trainer.case_lists(),
        "initial_weights": trainer.initial_weights,
        "optimizer_steps": trainer.optimizer_steps,
        "cost": asdict(trainer.cost),
        "modules": {name: dict(module.state_dict()) for name, module in modules.items() if module is not None},
        "optimizers": {} if trainer.head_optimizer is None else {"heads": trainer.head_optimizer.state_dict()},
        "rng": {
            "process": global_state(),
            "unlabeled": trainer.streams.state_dict(),
            "regularizers": trainer.generator.get_state(),
        },
    }


def read_ours(file: Path) -> dict[str, Any]:
    """A checkpoint with our section; raises SemiSupervisedError for one without, and as `read_checkpoint`."""
    stored = read_checkpoint(file)
    if SECTION not in stored:
        raise SemiSupervisedError(
            f"{file} was not written by a trainer of nnunetv2_semisup; to start from its weights use "
            "-pretrained_weights instead of --c"
        )
    return stored


def restore(trainer: Any, section: Mapping[str, Any]) -> None:
    """Put a section's weights, optimiser states and counters into an initialised trainer."""
    modules = section["modules"]
    trainer.heads.load_state_dict(modules["heads"])
    if trainer.head_optimizer is not None and "heads" in section["optimizers"]:
        trainer.head_optimizer.load_state_dict(section["optimizers"]["heads"])
    if trainer.peer is not None:
        trainer.peer.load_state_dict(modules["peer"])
    if trainer.second_decoder is not None:
        if "second_decoder" not in modules:
            raise SemiSupervisedError(
                "the checkpoint holds no weights of the teacher's decoder, so this training cannot go on from it; "
                "continue from another one, or start anew from its weights with -pretrained_weights"
            )
        trainer.second_decoder.load_state_dict(modules["second_decoder"])
    if "teacher" in modules:
        if trainer.teacher is None:
            trainer.teacher = make_teacher(unwrapped(trainer.network))
        trainer.teacher.load_state_dict(modules["teacher"])
    trainer.initial_weights = section.get("initial_weights")
    trainer.optimizer_steps = section["optimizer_steps"]
    trainer.cost.go_on_from(section["cost"])


def restore_random_states(trainer: Any, section: Mapping[str, Any]) -> None:
    """Let every random stream go on where it stood, this process's global ones included.

    A checkpoint has those of the first process. The others' begin anew, derived from these: as equal ones, all
    processes would draw the same patches.
    """
    rng = section["rng"]
    trainer.streams.load_state_dict(rng["unlabeled"])
    if trainer.local_rank == 0:
        trainer.generator.set_state(rng["regularizers"])
        restore_global_state(rng["process"])
        return
    trainer.streams.load_state_dict(trainer.streams.spawn(trainer.local_rank).state_dict())
    with trainer.streams.active():
        trainer.generator.manual_seed(int(torch.randint(2**62, ())))
        seed = int(torch.randint(2**31, ()))
    seed_global(seed)


def is_finished(stored: Mapping[str, Any], requested: Settings) -> bool:
    """Whether the training of a checkpoint has had all its epochs, those that are requested now included."""
    wanted = requested.training.num_epochs
    if wanted == "auto":
        wanted = stored[SECTION]["settings"]["training"]["num_epochs"]
    return bool(stored["current_epoch"] >= wanted)


def continued_settings(section: Mapping[str, Any], model: type[Settings], requested: Settings) -> Settings:
    """The stored, resolved settings; only a larger number of epochs is taken from the request."""
    settings = model.parse(section["settings"], origin="the checkpoint")
    wanted = requested.training.num_epochs
    if wanted == "auto":
        return settings
    return settings.model_copy(update={"training": settings.training.model_copy(update={"num_epochs": wanted})})


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
    del buffer
    checkpoint[SECTION] = dict(section)
    # In memory first: where the disk is full, torch's own writer says something of an unexpected position.
    whole = io.BytesIO()
    torch.save(checkpoint, whole)
    temporary = file.with_name(file.name + ".tmp")
    try:
        temporary.write_bytes(whole.getbuffer())
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(file, error) from None


def cannot_write(file: Path, error: OSError) -> SemiSupervisedError:
    """What to say where a file of a run cannot be written."""
    return SemiSupervisedError(f"cannot write {file} ({error.strerror}); {MEND}")


def refuse_changes(
    section: Mapping[str, Any], settings: Mapping[str, Any], cases: Mapping[str, list[str]], finished: bool
) -> None:
    """Refuse to continue a run with other cases or settings than it was started with.

    A larger training.num_epochs is allowed; where the run is finished, so are other cases than those of the validation.
    Raises SemiSupervisedError that names the key.
    """
    stored, given = _flat(section["requested"]), _flat(settings)
    # A setting that the run does not know came with a later version, and nobody can set it back.
    for key in sorted(stored):
        before, now = stored[key], given.get(key)
        if before == now:
            continue
        if key == "training.num_epochs" and isinstance(before, int) and isinstance(now, int) and now > before:
            continue
        raise SemiSupervisedError(
            f"this training was started with {key} = {before!r}, the plans now say {now!r}; set it back, or start a "
            "new training with plans of another name (nnUNetv2_semisup plan -o NAME)"
        )
    # A pre-training validates nothing, and its finished one knows of no case.
    validated = [kind for kind in ("labeled", "val") if cases[kind]]
    for kind in validated if finished else section["cases"]:
        before = section["cases"][kind]
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
