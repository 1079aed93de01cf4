"""Sliding-window predictions of unlabelled cases in the middle of a training, kept as pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn
from tqdm import tqdm

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.pseudo_labels import UNKNOWN, without_labels, write_labels
from nnunetv2_semisup.networks.features import unwrapped
from nnunetv2_semisup.training.cost import Cost


def label_cases(
    trainer: Any, network: nn.Module, dataset: UnlabeledDataset, cases: Sequence[str], folder: Path, agreement: bool
) -> None:
    """Predict the cases that have no file in the folder yet, as nnU-Net's validation does, and store the labels.

    Args:
        trainer: initialised; tells nnU-Net's predictor plans, labels and device, and counts the passes.
        network: that predicts, with or without wrappers.
        dataset: of the preprocessed cases.
        cases: their ids; in a distributed training those of this process.
        folder: of the labels.
        agreement: predict image and mirror image, one pass each, and keep the labels on which both agree. Otherwise
            all mirror images are averaged, as at inference.
    """
    missing = without_labels(folder, cases)
    if not missing:
        return
    with _predicting(network, trainer.cost) as plain:
        on_gpu = trainer.device.type == "cuda"
        predictor = nnUNetPredictor(
            use_mirroring=not agreement, perform_everything_on_device=on_gpu, device=trainer.device, allow_tqdm=False
        )
        axes = trainer.inference_allowed_mirroring_axes
        predictor.manual_initialization(
            plain, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
            type(trainer).__name__, axes,
        )  # fmt: skip
        for identifier in tqdm(missing, desc="pseudo-labels", disable=None):
            image = torch.from_numpy(dataset.load_case(identifier)[0][:])
            labels = _labels(trainer, predictor, image)
            if agreement and axes:
                # An image has channels first, and axes of a 2D configuration count within the slice.
                mirrored = [axis - len(trainer.configuration_manager.patch_size) for axis in axes]
                other = _labels(trainer, predictor, image.flip(mirrored)).flip(mirrored)
                labels = torch.where(labels == other, labels, UNKNOWN)
            write_labels(folder, identifier, labels.numpy())


def _labels(trainer: Any, predictor: nnUNetPredictor, image: Tensor) -> Tensor:
    """The label map [*S] of an image [C, *S], by nnU-Net's own rule."""
    # nnU-Net's rule takes the largest logit in NumPy, and leaves them on the GPU where there is one.
    logits = predictor.predict_sliding_window_return_logits(image).cpu().float()
    return torch.as_tensor(trainer.label_manager.convert_logits_to_segmentation(logits)).short()


@contextmanager
def _predicting(network: nn.Module, cost: Cost) -> Iterator[nn.Module]:
    """The network without wrappers, in evaluation mode and without deep supervision, its passes counted."""
    plain = unwrapped(network)
    training, supervised = plain.training, plain.decoder.deep_supervision  # type: ignore[union-attr]
    plain.eval()
    plain.decoder.deep_supervision = False  # type: ignore[union-attr]
    hook = plain.register_forward_pre_hook(lambda _, inputs: cost.count(len(inputs[0]), gradient=False))
    try:
        yield plain
    finally:
        hook.remove()
        plain.train(training)
        plain.decoder.deep_supervision = supervised  # type: ignore[union-attr]
