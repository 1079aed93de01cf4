"""Batches of unlabelled view pairs, in this process or in workers."""

from __future__ import annotations

import atexit
import copy
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.dataloading.data_loader import DataLoader
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunetv2_semisup.data.dataset import UnlabeledDataset, nonzero_box
from nnunetv2_semisup.data.pseudo_labels import UNKNOWN
from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.data.views import View, ViewTransforms, make_views
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.termination import end_with_parent

_BUDGET = "nnUNet_n_proc_DA"
_RUNNING: weakref.WeakSet[NonDetMultiThreadedAugmenter] = weakref.WeakSet()
_BEFORE_ALL_ELSE = 100
"""Python's own clean-up at the end of a process has priorities of 15 and less."""


class UnlabeledLoader(DataLoader):  # type: ignore[misc]  # batchgenerators has no types
    """Endless batches of random crops, each seen in several views.

    A case is drawn with replacement, a crop uniformly among the patches inside the bounding box of the nonzero
    region; images smaller than the patch are padded with 0 and masked. Draws only from `streams`. Keeps no
    images between batches, and pickles, so that workers can be spawned.

    A batch is a dict: "views", list of float32 tensors [B, C, *P] with the same voxels, one for each kind; "valid",
    bool [B, 1, *P], False on padding; "pseudo_label", int16 [B, 1, *P], -1 where unknown, or None where the dataset
    has none; "keys", list of B case ids.
    """

    def __init__(
        self,
        dataset: UnlabeledDataset,
        batch_size: int,
        patch_size: Sequence[int],
        final_patch_size: Sequence[int],
        transforms: ViewTransforms,
        kinds: Sequence[View],
        streams: RandomStreams,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            dataset: the cases.
            batch_size: B.
            patch_size: the crop before the geometry transforms, in voxels; two numbers for a 2D configuration, which
                gets a random slice along the first axis.
            final_patch_size: P, the patch behind the geometry transforms.
            transforms: from `split_transforms`.
            kinds: of the views of each crop, at least one.
            streams: where every random number comes from.
        """
        super().__init__(dataset, batch_size, infinite=True)
        self.indices = np.array(dataset.identifiers)
        self.transforms = transforms
        self.kinds = tuple(kinds)
        self.streams = streams
        self._is_2d = len(patch_size) == 2
        one_slice = (1,) if self._is_2d else ()
        self._patch_size = (*one_slice, *(int(size) for size in patch_size))
        self._final_patch_size = (*one_slice, *(int(size) for size in final_patch_size))
        self._boxes: dict[str, tuple[tuple[int, int], ...]] = {}

    def set_thread_id(self, thread_id: int) -> None:
        """Called by batchgenerators at the start of each worker: streams of its own, and an end with its parent."""
        super().set_thread_id(thread_id)
        self.streams = self.streams.spawn(thread_id)
        if multiprocessing.parent_process() is not None:
            _end_with_parent()

    def generate_train_batch(self) -> dict[str, Any]:
        """Draw one batch; see the class for its entries."""
        with torch.no_grad(), _one_thread(), self.streams.active():
            keys = [str(key) for key in self.get_indices()]
            views, valid, labels = zip(*(self._draw_views(key) for key in keys), strict=True)
            return {
                "views": [torch.stack(kind) for kind in zip(*views, strict=True)],
                "valid": torch.stack(valid),
                "pseudo_label": None if labels[0] is None else torch.stack(labels),
                "keys": keys,
            }

    def _draw_views(self, key: str) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
        image, nonzero, _ = self._data.load_case(key)
        if key not in self._boxes:
            self._boxes[key] = nonzero_box(nonzero)
        shape = image.shape[1:]
        corner = self._draw_corner(shape, self._boxes[key])
        bounds = [[low, low + size] for low, size in zip(corner, self._patch_size, strict=True)]
        image_crop = torch.from_numpy(crop_and_pad_nd(image, bounds, 0)).float()
        nonzero_crop = torch.from_numpy(crop_and_pad_nd(nonzero, bounds, -1)).to(torch.int16)
        valid_crop = torch.zeros(1, *self._patch_size, dtype=torch.bool)
        inside = (slice(max(-low, 0), size - low) for low, size in zip(corner, shape, strict=True))
        valid_crop[(slice(None), *inside)] = True
        crops = [image_crop, nonzero_crop, valid_crop]
        labels = self._data.load_pseudo_label(key)
        if labels is not None:
            crops.append(torch.from_numpy(crop_and_pad_nd(labels, bounds, UNKNOWN)).to(torch.int16))
        if self._is_2d:
            crops = [crop[:, 0] for crop in crops]
        image_crop, nonzero_crop, valid_crop, *label_crop = crops
        return make_views(image_crop, nonzero_crop, valid_crop, self.transforms, self.kinds, *label_crop)

    def _draw_corner(self, shape: Sequence[int], box: Sequence[tuple[int, int]]) -> list[int]:
        """The lowest corner of the crop, so that the final patch in its middle lies where it should."""
        corner = []
        for size, (low, high), final, initial in zip(shape, box, self._final_patch_size, self._patch_size, strict=True):
            # A patch smaller than the box lies in it, a larger one covers it; neither leaves the image.
            first = max(min(low, high - final), 0)
            last = min(max(low, high - final), size - final)
            if first > last:
                first = last = (size - final) // 2
            # SpatialTransform cuts the final patch out at initial // 2 - final // 2.
            corner.append(int(np.random.randint(first, last + 1)) - (initial // 2 - final // 2))
        return corner


@contextmanager
def _one_thread() -> Iterator[None]:
    # The tensors are small: several threads spend their time waiting for each other, many times that beside a training.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start_loader(
    loader: UnlabeledLoader, num_processes: int, pin_memory: bool
) -> SingleThreadedAugmenter | NonDetMultiThreadedAugmenter:
    """Something to call `next` on: the loader in this process (0), or `num_processes` workers that already run.

    Workers draw from streams spawned from the loader's, so starting again does not repeat a batch. The order in
    which their batches arrive is not reproducible. Pinning needs a CUDA device and is ignored without one.
    """
    if num_processes > 0:
        streams = loader.streams.spawn()
        loader = copy.copy(loader)
        loader.streams = streams
    return start_batches(loader, num_processes, pin_memory)


def start_batches(
    loader: DataLoader, num_processes: int, pin_memory: bool
) -> SingleThreadedAugmenter | NonDetMultiThreadedAugmenter:
    """As `start_loader`, of any loader of batchgenerators'; `stop_loader` ends it."""
    if num_processes == 0:
        return SingleThreadedAugmenter(loader, None)
    augmenter = NonDetMultiThreadedAugmenter(
        loader, None, num_processes, num_cached=max(3, num_processes), pin_memory=pin_memory, wait_time=0.002
    )
    _RUNNING.add(augmenter)
    augmenter.restart()
    return augmenter


def stock_loader(augmenter: Any) -> Any:
    """The nnUNetDataLoader in what nnU-Net's `get_dataloaders` returned."""
    return augmenter.data_loader if hasattr(augmenter, "data_loader") else augmenter.generator


def stop_loader(augmenter: SingleThreadedAugmenter | NonDetMultiThreadedAugmenter) -> None:
    """End the workers, if any, and wait until they are gone; happens by itself when Python ends. May be repeated."""
    if isinstance(augmenter, NonDetMultiThreadedAugmenter):
        augmenter._finish()
        _RUNNING.discard(augmenter)


@atexit.register
def _stop_running_loaders() -> None:
    # Otherwise Python ends the workers first, and batchgenerators reports that behind the training's own last words.
    for augmenter in list(_RUNNING):
        stop_loader(augmenter)


@contextmanager
def process_budget(share: float) -> Iterator[int]:
    """Divide nnU-Net's data augmentation processes between the labelled and the unlabelled loader.

    Within the block `nnUNet_n_proc_DA` is the labelled part, which stock code reads; the unlabelled part is
    yielded. Of a budget of 2 or more each side gets at least one and both together the budget; a budget of 1
    gives one to each, 0 none to either. Afterwards the variable is as it was.

    Args:
        share: the unlabelled part of the budget, between 0 and 1.

    Raises:
        SemiSupervisedError: the variable holds something else than a number of processes.
    """
    before = os.environ.get(_BUDGET)
    if before is not None and not before.isdecimal():
        raise SemiSupervisedError(f"{_BUDGET} is {before!r} and not a number; type export {_BUDGET}=N with N >= 0")
    total = int(get_allowed_n_proc_DA())
    unlabeled = min(max(round(total * share), 1), total - 1) if total >= 2 else total
    labeled = total - unlabeled if total >= 2 else total
    os.environ[_BUDGET] = str(labeled)
    try:
        yield unlabeled
    finally:
        if before is None:
            del os.environ[_BUDGET]
        else:
            os.environ[_BUDGET] = before


def _end_with_parent() -> None:
    """Leave the decision when to stop to the parent, and do not outlive it."""
    # Inherited handlers belong to the command that was started; Ctrl-C reaches the parent, which ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A tensor in the queue is fetched from its worker: one that leaves at once breaks the parent's last read.
    Finalize(None, time.sleep, args=(1.0,), exitpriority=_BEFORE_ALL_ELSE)
    end_with_parent()
