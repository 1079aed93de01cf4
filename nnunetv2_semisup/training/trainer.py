"""The engine: nnU-Net's trainer with unlabelled data and the losses on it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, autocast, nn

from nnunetv2_semisup.configuration.auto import with_numbers
from nnunetv2_semisup.configuration.settings import Settings
from nnunetv2_semisup.configuration.sources import settings_for
from nnunetv2_semisup.data.annotation import refuse_ignore_label
from nnunetv2_semisup.data.loader import process_budget, start_loader, stop_loader
from nnunetv2_semisup.data.random_streams import RandomStreams, seed_global
from nnunetv2_semisup.data.selection import RunCases, select_cases
from nnunetv2_semisup.data.views import without_timing
from nnunetv2_semisup.methods import method_of, trainer_names
from nnunetv2_semisup.networks.ema import make_teacher, update_teacher
from nnunetv2_semisup.networks.features import as_resolutions, forward_in_training, forward_with_features, unwrapped
from nnunetv2_semisup.networks.second_decoder import own_parameters
from nnunetv2_semisup.regularizers.base import Labeled, Regularizer, refuse_common_terms
from nnunetv2_semisup.termination import sigterm_unwinds
from nnunetv2_semisup.training import checkpoint
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.distributed import average_gradients, broadcast
from nnunetv2_semisup.training.earlier_run import make_way
from nnunetv2_semisup.training.facts import facts_of
from nnunetv2_semisup.training.fold_files import FINAL, VALIDATION_RECORD
from nnunetv2_semisup.training.initial_weights import fingerprint, other_weights
from nnunetv2_semisup.training.peer import build_peer, build_second_decoder
from nnunetv2_semisup.training.preflight import Place, check_environment, check_support, outline_of
from nnunetv2_semisup.training.rounds import RestartedSchedule, Rounds, begin_round, resume_round
from nnunetv2_semisup.training.run_log import EpochMeans, RunLog, pad_logger
from nnunetv2_semisup.training.schedules import LearningRateWarmup, ramp_factor
from nnunetv2_semisup.training.stock_settings import applied_settings, apply_settings
from nnunetv2_semisup.training.unlabeled_batches import augmentation_of, unlabeled_dataset, unlabeled_loader
from nnunetv2_semisup.training.unlabeled_pass import Networks, UnlabeledPass, kinds_of
from nnunetv2_semisup.visualization.run_log import plot_run_log

GRADIENT_CLIP = 12
"""nnU-Net's own bound on the gradient norm, used for the heads as well."""
HEAD_LEARNING_RATE = 1e-3
"""Of the heads' AdamW. Under nnU-Net's SGD they stay near uniform and their terms are dead."""


class SemiSupervisedTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
    """nnUNetTrainer plus unlabelled patches and the terms of one or more regularizers.

    A labelled step is nnU-Net's. Its backward comes first; then the unlabelled patches go through the network, the
    weighted terms are added to the gradients, and one optimiser step follows. `network` stays the stock network.
    A subclass names its regularizers; with none it is nnUNetTrainer that obeys our settings.
    """

    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()
    """The methods that take part, in this order."""
    lr_scheduler: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  # nnU-Net's own signature
    ) -> None:
        """Check everything that can be checked, then build nnU-Net's trainer, which creates the fold's folder."""
        check_environment(plans)
        if self.regularizers:
            check_support(plans, configuration, device)
        self.requested = settings_for(self.settings_model(), self.method(), plans)
        refuse_ignore_label(dataset_json)
        outline = outline_of(plans, configuration, dataset_json, device)
        for regularizer in self.regularizers:
            regularizer.check(self.requested, outline)
        place = Place.of(type(self).__name__, plans, configuration, fold)
        self.continues = bool(plans.get("continue_training", False))
        # Of a finished training no unlabelled case is needed, unless it turns out to go on.
        need_unlabeled = bool(self.regularizers) and not place.is_finished
        self.cases = self.find_cases(place, plans, configuration, fold, need_unlabeled)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings: Settings = self.requested
        self._looked_for_cases = need_unlabeled
        self.teacher: nn.Module | None = None
        self.second_decoder: nn.Module | None = None
        self.peer: nn.Module | None = None
        self.heads = nn.ModuleList()
        self._regularizers: list[Regularizer] = []
        self.head_optimizer: torch.optim.Optimizer | None = None
        self.dataloader_unlabeled: Any = None
        self.run_log: RunLog | None = None
        self.optimizer_steps = 0
        self.cost = Cost()
        self._means = EpochMeans()
        self.initial_weights: dict[str, Any] | None = None
        self._fresh_weights: str | None = None
        self._restored: dict[str, Any] | None = None
        self._finished_section: dict[str, Any] | None = None
        self._split: tuple[list[str], list[str]] | None = None
        self._first_of_epoch = True
        self._rounds: Rounds | None = None
        self._session_start = 0
        self._weights_of = FINAL

    @classmethod
    def method(cls) -> str:
        """The METHOD name; a subclass that a user derives from a trainer of ours has that trainer's."""
        ours = set(trainer_names())
        return method_of(next((base.__name__ for base in cls.__mro__ if base.__name__ in ours), cls.__name__))

    def find_cases(
        self, place: Place, plans: dict[str, Any], configuration: str, fold: int | str, need_unlabeled: bool
    ) -> RunCases:
        """The cases of the run; raises SemiSupervisedError for every reason not to begin."""
        split = self.requested.data.split
        return select_cases(place.dataset_folder, plans, configuration, fold, split, need_unlabeled)

    @classmethod
    def settings_model(cls) -> type[Settings]:
        """The settings this trainer accepts: those of its regularizers together."""
        models = tuple(dict.fromkeys(regularizer.Settings for regularizer in cls.regularizers)) or (Settings,)
        return models[0] if len(models) == 1 else type(f"{cls.__name__}Settings", models, {})

    # ------------------------------------------------------------------ before the first epoch

    def initialize(self) -> None:
        """nnU-Net's network, optimiser and loss; then our heads beside them."""
        training = self.settings.training
        apply_settings(self, training)
        if training.seed is not None:
            seed_global(training.seed)
        super().initialize()
        self.streams = RandomStreams(None if training.seed is None else training.seed + self.local_rank)
        self.generator = torch.Generator()
        with self.streams.active():
            self.generator.manual_seed(int(torch.randint(2**62, ())))
        # Streams of their own: with other heads, or none, a training draws the same unlabelled patches.
        with self.streams.spawn().active():
            self._build_regularizers()
            if any(regularizer.needs_peer for regularizer in self._regularizers):
                self.peer = build_peer(self)
            if any(regularizer.needs_second_decoder for regularizer in self._regularizers):
                self.second_decoder = build_second_decoder(self)
        self._plan_rounds()
        if training.lr_warmup_epochs > 0:
            begun = None if self._rounds is None else self._rounds.weights_begun
            self.lr_scheduler = LearningRateWarmup(self.lr_scheduler, self.optimizer, training.lr_warmup_epochs, begun)
        self._fresh_weights = fingerprint(self.network)

    def _build_regularizers(self) -> None:
        training = applied_settings(self)
        if not self.regularizers:
            self.settings = with_numbers(self.settings, training, {})
            return
        facts = facts_of(self)
        resolved = self.settings
        for regularizer in self.regularizers:
            resolved = regularizer.resolve(resolved, facts)
        self._regularizers = [regularizer(resolved, facts) for regularizer in self.regularizers]
        refuse_common_terms(self._regularizers)
        self.heads = nn.ModuleList(self._regularizers).to(self.device)
        broadcast(self.heads)
        parameters = list(self.heads.parameters())
        self.head_optimizer = torch.optim.AdamW(parameters, lr=HEAD_LEARNING_RATE) if parameters else None
        samples = max(regularizer.gradient_views for regularizer in self._regularizers)
        self.settings = with_numbers(resolved, training, {"batch_size": self.unlabeled_batch_size(samples)})
        calls: tuple[Callable[..., Any], ...] = (forward_with_features, forward_in_training)
        features_call, self._forward_in_training = map(torch.compile, calls) if self._do_i_compile() else calls
        self._unlabeled_pass = UnlabeledPass(
            self._regularizers, kinds_of(self._regularizers), features_call, self.generator, self._means, self.cost
        )

    def unlabeled_batch_size(self, gradient_views: int) -> int:
        """Cases a step where the settings say "auto": as many patches with gradient as the labelled batch has."""
        return max(int(self.batch_size) // gradient_views, 1)

    def _plan_rounds(self) -> None:
        settings = next((r.rounds for r in self._regularizers if r.rounds is not None), None)
        if settings is None or not self._has_terms:
            return
        warmup = self.settings.schedule.warmup  # type: ignore[attr-defined]  # every regularizer's settings have one
        self._rounds = Rounds.of(settings, self.num_epochs, warmup, Path(self.output_folder))
        if settings.network == "restart":
            self.lr_scheduler = RestartedSchedule(self.lr_scheduler, self._rounds)

    def do_split(self) -> tuple[list[str], list[str]]:
        """The labelled training cases and the validation cases: the named split's, or nnU-Net's own."""
        if self.cases.labeled is not None and self.cases.val is not None:
            self._split = list(self.cases.labeled), list(self.cases.val)
        elif self._split is None:
            self._split = super().do_split()
        return list(self._split[0]), list(self._split[1])

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, and ours beside them within the same budget of processes."""
        if not self._draws_unlabeled:
            loaders = super().get_dataloaders()
        else:
            with process_budget(0.5) as processes:
                loaders = super().get_dataloaders()
            self._unlabeled_processes = processes
            self._augmentation = augmentation_of(loaders[0])
            if self._rounds is None:
                self._start_unlabeled()
        if self.settings.training.seed is not None and hasattr(loaders[0], "data_loader"):
            without_timing(loaders[0].data_loader.transforms)
        return loaders  # type: ignore[no-any-return]

    def _start_unlabeled(self, pseudo_labels: Path | None = None) -> None:
        """Start our loader, in place of the one that runs."""
        if self.dataloader_unlabeled is not None:
            stop_loader(self.dataloader_unlabeled)
        dataset = unlabeled_dataset(self, pseudo_labels)
        loader = unlabeled_loader(self, self._augmentation, dataset, kinds_of(self._regularizers))
        self.dataloader_unlabeled = start_loader(loader, self._unlabeled_processes, self.device.type == "cuda")

    def on_train_start(self) -> None:
        """Start as nnU-Net does; then the teacher, the logs, and the random states of a resumed run."""
        if not self.was_initialized:
            self.initialize()
        self._look_for_cases()
        if begins := self._fresh_weights is not None:
            self.initial_weights = other_weights(self.network, self._fresh_weights, sys.argv)
            self._fresh_weights = None
        super().on_train_start()
        make_way(self, begins)
        if self._finished_section is None:
            self._print_run()
        if self._ema_decay is not None and self.teacher is None:
            self.teacher = make_teacher(unwrapped(self.network))
        if self.regularizers:
            self._open_log()
        self._session_start = self.current_epoch
        if self._rounds is not None and self._draws_unlabeled and (folder := resume_round(self, self._rounds)):
            self._start_unlabeled(folder)
        if self._restored is not None:
            checkpoint.restore_random_states(self, self._restored)
        elif self.settings.training.seed is not None:
            seed_global(self.settings.training.seed + self.local_rank)

    def _look_for_cases(self) -> None:
        if self.regularizers and not self._looked_for_cases and self._finished_section is None:
            place = Place.of(type(self).__name__, self.plans_manager.plans, self.configuration_name, self.fold)
            self.cases = self.find_cases(place, self.plans_manager.plans, self.configuration_name, self.fold, True)
            self._looked_for_cases = True

    def _open_log(self) -> None:
        terms, signs = self.logged()
        columns = [f"{kind}/{name}" for kind in ("raw", "weighted", "grad") for name in terms]
        columns += [f"sign/{name}" for name in signs]
        pad_logger(self.logger.local_logger.my_fantastic_logging, columns, self.current_epoch)
        self._columns = columns
        if self.local_rank == 0:
            self.run_log = RunLog(Path(self.output_folder), columns)
            self.run_log.cut_back(self.current_epoch)

    def logged(self) -> tuple[list[str], list[str]]:
        """Names of all terms and of all signs of life, in the order of their columns."""
        terms = [name for regularizer in self._regularizers for name in regularizer.weights]
        return terms, [name for regularizer in self._regularizers for name in regularizer.sign_names]

    def _print_run(self) -> None:
        labeled, val = self._split or self.do_split()
        self.print_to_log_file(f"Semi-supervised settings: {self.settings.model_dump()}")
        for kind, ids in (("labelled", labeled), ("validation", val), ("unlabelled", self.cases.unlabeled)):
            self.print_to_log_file(f"{len(ids)} {kind} cases: {', '.join(ids)}")
        if self.initial_weights is not None:
            self.print_to_log_file(f"Started from the weights of {self.initial_weights['file'] or 'another network'}")

    # ------------------------------------------------------------------ a training step

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimiser step on a labelled and, after the warm-up, an unlabelled batch."""
        self.cost.count(len(batch["data"]), gradient=True)
        if not self.regularizers:
            return super().train_step(batch)  # type: ignore[no-any-return]
        self._zero_gradients()
        data, target = on_device(batch, self.device)
        factor = self._ramp_factor()
        labeled = Labeled(data, as_resolutions(target)[0])
        draws = factor > 0 and self._draws_unlabeled
        if draws and self._reads_labeled_features:
            loss = self._joint_backward(labeled, target, factor)
        else:
            loss = self.labeled_backward(data, target, factor)
            if draws:
                self._unlabeled_backward(next(self.dataloader_unlabeled), labeled, factor)
        self._step_optimizers()
        return {"loss": loss.cpu().numpy()}

    def _zero_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.head_optimizer is not None:
            self.head_optimizer.zero_grad(set_to_none=True)

    def labeled_backward(self, data: Tensor, target: Any, factor: float) -> Tensor:
        """Gradients of the labelled batch: nnU-Net's loss on every network that segments. Returns the first one's.

        Args:
            data: the batch [B, C, *spatial], on the device.
            target: nnU-Net's, on the device; a list of resolutions with deep supervision.
            factor: of the schedule, in [0, 1], for terms of a subclass on labelled patches.
        """
        loss = self._supervised_backward(self._local_network, data, target)
        self._peer_backward(data, target)
        return loss

    def _peer_backward(self, data: Tensor, target: Any) -> None:
        if self.peer is not None:
            self.cost.count(len(data), gradient=True)
            self._supervised_backward(self.peer, data, target)

    def _supervised_backward(self, network: nn.Module, data: Tensor, target: Any) -> Tensor:
        """nnU-Net's loss on the labelled batch. Its graph is gone before the unlabelled one is built."""
        with self._autocast():
            loss = self.loss(network(data), target)
        self._scaled(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()  # type: ignore[no-any-return]

    def _joint_backward(self, labeled: Labeled, target: Any, factor: float) -> Tensor:
        """nnU-Net's loss, and unlabelled terms that read the labelled batch's features, from one pass of that batch.

        Its graph is walked once, when the gradient of the terms at those features is known.
        """
        with self._autocast():
            outputs, features = self._forward_in_training(unwrapped(self.network), labeled.images)
            loss = self.loss(outputs, target)
        leaf = features.detach().requires_grad_()
        self._unlabeled_backward(next(self.dataloader_unlabeled), replace(labeled, features=leaf), factor)
        torch.autograd.backward([self._scaled(loss), features], [None, leaf.grad])
        self._peer_backward(labeled.images, target)
        return loss.detach()  # type: ignore[no-any-return]

    def _unlabeled_backward(self, batch: dict[str, Any], labeled: Labeled | None, factor: float) -> Tensor:
        return self._unlabeled_pass.backward(
            batch,
            labeled,
            Networks(unwrapped(self.network), self.teacher, self.second_decoder, self.peer),
            factor=factor,
            progress=self.current_epoch / self.num_epochs,
            number=self.optimizer_steps,
            device=self.device,
            autocast=self._autocast(),
            scaled=self._scaled,
            log_gradients=self._first_of_epoch,
        )

    def _step_optimizers(self) -> None:
        """Average over processes, clip networks and heads each apart, step all, move the teacher."""
        networks = [list(network.parameters()) for network in (self.network, self.peer) if network is not None]
        if self.second_decoder is not None:
            networks.append(own_parameters(self.second_decoder))
        heads = list(self.heads.parameters())
        average_gradients([*chain.from_iterable(networks), *heads])
        optimizers = [(self.optimizer, networks)]
        if self.head_optimizer is not None and any(p.grad is not None for p in heads):
            optimizers.append((self.head_optimizer, [heads]))
        for optimizer, clipped in optimizers:
            if self.grad_scaler is not None:
                self.grad_scaler.unscale_(optimizer)
            for parameters in clipped:
                nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            if self.grad_scaler is not None:
                self.grad_scaler.step(optimizer)
            else:
                optimizer.step()
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        self.optimizer_steps += 1
        self._first_of_epoch = False
        if self.teacher is not None and self._ema_decay is not None:
            update_teacher(self.teacher, unwrapped(self.network), self._ema_decay, self.optimizer_steps)

    @property
    def _has_terms(self) -> bool:
        return any(weight > 0 for regularizer in self._regularizers for weight in regularizer.weights.values())

    @property
    def _draws_unlabeled(self) -> bool:
        return self._has_terms and bool(self.cases.unlabeled)

    @property
    def _reads_labeled_features(self) -> bool:
        return any(regularizer.needs_labeled_features for regularizer in self._regularizers)

    @property
    def _ema_decay(self) -> float | None:
        return max((r.ema_decay for r in self._regularizers if r.ema_decay is not None), default=None)

    @property
    def _local_network(self) -> nn.Module:
        """The network without DistributedDataParallel: gradients are averaged once, by us."""
        return self.network.module if self.is_ddp else self.network  # type: ignore[no-any-return]

    def _ramp_factor(self) -> float:
        schedule = self.settings.schedule  # type: ignore[attr-defined]  # every regularizer's settings have one
        return ramp_factor(self.current_epoch, self.num_epochs, schedule.warmup, schedule.ramp)

    def _autocast(self) -> AbstractContextManager[Any]:
        # Without the fix of pytorch/pytorch#65766 torch keeps casts that were made without gradient, and a later pass
        # with gradient takes them. A pass reads every weight once, so that a cache spares nothing.
        return autocast("cuda", cache_enabled=False) if self.device.type == "cuda" else nullcontext()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.grad_scaler is None else self.grad_scaler.scale(loss)

    # ------------------------------------------------------------------ epochs, checkpoints, the end

    def on_epoch_start(self) -> None:
        """Pseudo-labels first, where a round begins; then as nnU-Net."""
        if self._rounds is not None and self._draws_unlabeled and self.current_epoch in self._rounds.starts:
            resumed = self._restored is not None and self.current_epoch == self._session_start
            self._start_unlabeled(begin_round(self, self._rounds, resumed))
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """As nnU-Net; the first unlabelled step of the epoch logs its gradients."""
        super().on_train_epoch_start()
        self._first_of_epoch = True

    def on_epoch_end(self) -> None:
        """Log our epoch and its cost before nnU-Net writes its checkpoint, which holds both."""
        started = self.logger.local_logger.my_fantastic_logging["epoch_start_timestamps"][-1]
        self.cost.end_epoch(time.time() - started, self.device)
        try:
            self._log_epoch()
        except OSError as error:
            raise checkpoint.cannot_write(Path(self.output_folder), error) from None
        super().on_epoch_end()

    def _log_epoch(self) -> None:
        if self.local_rank == 0:
            self.cost.write(Path(self.output_folder))
        if self.regularizers:
            means = self._means.take()
            for column in self._columns:
                self.logger.log(column, means.get(column, float("nan")), self.current_epoch)
            if self.run_log is not None:
                self.run_log.append(self.current_epoch, means)
                plot_run_log(self.run_log.file)
            signs = {name.removeprefix("sign/"): v for name, v in means.items() if name.startswith("sign/")}
            for alarm in [alarm for regularizer in self._regularizers if signs for alarm in regularizer.alarms(signs)]:
                self.print_to_log_file(f"WARNING: {alarm}")

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with our section under one key of its own, written whole or not at all."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        # nnU-Net saves a finished training once more: what it has learned from stays on record.
        checkpoint.save_with_section(super().save_checkpoint, Path(filename), self._finished_section or self.section())

    def section(self) -> dict[str, Any]:
        """What our section of a checkpoint holds."""
        return checkpoint.section_of(self)

    def case_lists(self) -> dict[str, list[str]]:
        """Identifiers of the run: "labeled", "val" and "unlabeled"."""
        labeled, val = self._split or self.do_split()
        return {"labeled": [*map(str, labeled)], "val": [*map(str, val)], "unlabeled": list(self.cases.unlabeled)}

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """nnU-Net's part, then ours. With --c other cases or settings than the run's are refused."""
        stored = checkpoint.read_ours(Path(str(filename_or_checkpoint)))
        section = stored[checkpoint.SECTION]
        if checkpoint.is_finished(stored, self.requested):
            self._finished_section = section
        if self.continues:
            self._look_for_cases()
            finished = self._finished_section is not None
            checkpoint.refuse_changes(section, self.requested.model_dump(), self.case_lists(), finished)
        if not self.was_initialized:
            self.settings = checkpoint.continued_settings(section, self.settings_model(), self.requested)
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint.restore(self, section)
        self._fresh_weights = None
        self._restored = {"rng": section["rng"]} if self.continues else None
        self._weights_of = Path(str(filename_or_checkpoint)).name

    def run_training(self) -> None:
        """nnU-Net's loop. However it ends, no worker process stays."""
        with sigterm_unwinds():
            try:
                super().run_training()
                self._weights_of = FINAL
            finally:
                if self.run_log is not None:
                    self.run_log.close()
                for loader in self.loaders():
                    if loader is not None:
                        stop_loader(loader)

    def loaders(self) -> list[Any]:
        """Everything that batches come from, to be stopped when a training ends; None where there is none."""
        return [self.dataloader_unlabeled, self.dataloader_train, self.dataloader_val]

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, with a record of which checkpoint predicted, once it is whole."""
        record = Path(self.output_folder) / VALIDATION_RECORD
        if self.local_rank == 0:
            record.unlink(missing_ok=True)
        with sigterm_unwinds():
            super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            record.write_text(json.dumps({"checkpoint": self._weights_of, "epoch": self.current_epoch}))


def on_device(batch: dict[str, Any], device: torch.device) -> tuple[Tensor, Any]:
    """Images and target of a batch of nnU-Net's; the target is a list of resolutions with deep supervision."""
    data, target = batch["data"].to(device, non_blocking=True), batch["target"]
    if isinstance(target, list):
        return data, [level.to(device, non_blocking=True) for level in target]
    return data, target.to(device, non_blocking=True)
