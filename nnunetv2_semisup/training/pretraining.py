"""The engine without labels: pre-trains a network whose weights stock nnU-Net starts from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunetv2_semisup.data.folders import dataset_option, resolve_configuration
from nnunetv2_semisup.data.selection import RunCases, select_images
from nnunetv2_semisup.data.structures import structures_of
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.fold_files import FINAL
from nnunetv2_semisup.training.preflight import Place
from nnunetv2_semisup.training.schedules import WarmupCosine
from nnunetv2_semisup.training.trainer import HEAD_LEARNING_RATE, SemiSupervisedTrainer
from nnunetv2_semisup.training.unlabeled_batches import augmentation_for

CHECKPOINTS = 21
"""How many times a run writes checkpoint_latest at least, but for very short ones."""
OPTIMIZERS = {"adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


class PretrainingTrainer(SemiSupervisedTrainer):
    """A training on images alone: no labelled loader, no supervised loss, nothing to validate.

    Its last checkpoint is what `nnUNetv2_train -pretrained_weights` takes, of stock nnU-Net and of every trainer of
    ours. The segmentation layers keep their initial weights; nnU-Net does not transfer them.
    """

    def find_cases(
        self, place: Place, plans: dict[str, Any], configuration: str, fold: int | str, need_unlabeled: bool
    ) -> RunCases:
        """Every image but the fold's validation cases, unless the settings want them."""
        if not need_unlabeled:
            return RunCases((), (), ())
        data = self.requested.data
        cases = select_images(
            place.dataset_folder, plans, configuration, fold, data.split, data.exclude_val  # type: ignore[attr-defined]
        )  # fmt: skip
        batch_size = data.batch_size
        if batch_size == "auto":
            batch_size = int(resolve_configuration(plans, configuration).batch_size)
        if len(cases.unlabeled) < batch_size:
            raise SemiSupervisedError(
                f"a batch has {batch_size} cases, and there are {len(cases.unlabeled)} images; add images, or type: "
                f"nnUNetv2_semisup plan -d {dataset_option(place.dataset_folder.name)} -m {self.method()} "
                f"--set data.batch_size={max(len(cases.unlabeled), 1)}"
            )
        return cases

    def initialize(self) -> None:
        """Without deep supervision, whose layers would get no gradient."""
        self.enable_deep_supervision = False
        super().initialize()
        self.num_val_iterations_per_epoch = 0
        self.save_every: int = min(self.save_every, max(self.num_epochs // CHECKPOINTS, 1))
        # nnU-Net compares the Dice of every epoch with it and would keep the first, which is no number, for ever.
        self._best_ema = float("inf")

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupCosine]:
        """The settings' optimiser of the whole network, with warm-up and cosine; the heads' will follow them too."""
        chosen = self.settings.optimizer  # type: ignore[attr-defined]  # PretrainingSettings have one
        optimizer = OPTIMIZERS[chosen.name](
            self.network.parameters(), lr=self.initial_lr, weight_decay=chosen.weight_decay
        )
        self._schedule = WarmupCosine(self.num_epochs, chosen.warmup)
        self._schedule.add(optimizer, self.initial_lr)
        return optimizer, self._schedule

    def _build_regularizers(self) -> None:
        super()._build_regularizers()
        if self.head_optimizer is not None:
            # Heads that learn on beside a network that no longer does would follow the last batches.
            self._schedule.add(self.head_optimizer, HEAD_LEARNING_RATE)

    def unlabeled_batch_size(self, gradient_views: int) -> int:
        """That of the plans: nothing else goes through the network."""
        return int(self.batch_size)

    def get_dataloaders(self) -> tuple[Any, None]:
        """The loader of images, in place of nnU-Net's training loader. There is no other."""
        self._augmentation = augmentation_for(self)
        self._unlabeled_processes = int(get_allowed_n_proc_DA())
        # There are none where a finished training is continued.
        if self.cases.unlabeled:
            self._start_unlabeled()
        return self.dataloader_unlabeled, None

    def on_train_start(self) -> None:
        """As the engine, and says which images stay unseen."""
        super().on_train_start()
        data = self.settings.data
        held_out = "stay unseen" if data.exclude_val else "are learned from"  # type: ignore[attr-defined]
        self.print_to_log_file(f"Images of the validation cases of fold {self.fold} {held_out} (data.exclude_val)")
        if self.requested.training.num_val_iterations_per_epoch != "auto":
            self.print_to_log_file("training.num_val_iterations_per_epoch has no effect: there is nothing to validate")
        if self.requested.training.save_every not in ("auto", self.save_every):
            self.print_to_log_file(
                f"checkpoint_latest is written every {self.save_every} epochs, {CHECKPOINTS} times a run at least, and "
                f"not every {self.requested.training.save_every} (training.save_every)"
            )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step on images alone."""
        self._zero_gradients()
        loss = self._unlabeled_backward(batch, labeled=None, factor=1.0)
        self._step_optimizers()
        return {"loss": loss.cpu().numpy()}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """No Dice: there is nothing to validate."""
        for key in ("mean_fg_dice", "val_losses"):
            self.logger.log(key, float("nan"), self.current_epoch)
        no_dice = [float("nan")] * len(structures_of(self.label_manager))
        self.logger.log("dice_per_class_or_region", no_dice, self.current_epoch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing, and one line that says what to do instead."""
        data = dataset_option(self.plans_manager.dataset_name), self.configuration_name, str(self.fold)
        weights = str(Path(self.output_folder) / FINAL)
        plans = self.plans_manager.plans_name
        command = ("nnUNetv2_train", *data, "-p", plans, "-pretrained_weights", weights)
        self.print_to_log_file(
            f"{type(self).__name__} learns no segmentation, so there is nothing to validate; fine-tune with: "
            f"{shlex.join(command)}"
        )
