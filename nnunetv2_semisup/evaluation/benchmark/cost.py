"""What a run will cost: samples through the network, beside a stock training of the same length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunetv2_semisup.data.folders import load_dataset_json, load_plans, variable_folder
from nnunetv2_semisup.data.structures import structures_of
from nnunetv2_semisup.evaluation.benchmark.runs import Request, Run
from nnunetv2_semisup.evaluation.benchmark.settings import regularizers_of, settings_of
from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.networks.from_plans import network_from_plans
from nnunetv2_semisup.regularizers.base import Facts, Forward, Labeled, Regularizer, Step
from nnunetv2_semisup.regularizers.phases import phase_ends
from nnunetv2_semisup.training.unlabeled_pass import patches

STOCK_EPOCHS = 1000
STOCK_ITERATIONS = 250
"""nnU-Net's own length of a training, which "auto" stands for."""


@dataclass(frozen=True)
class Cost:
    """An estimate, made without training anything."""

    epochs: int
    samples: float
    """Patches through a network, with and without gradient, in all training steps; not those of sliding windows."""
    relative: float
    """The same, as a multiple of a stock training of the same length."""


def cost_of(request: Request, run: Run) -> Cost:
    """The cost of one run: nnU-Net's steps, and the method's own in every epoch after its warm-up."""
    plans = load_plans(variable_folder("nnUNet_preprocessed") / request.dataset, request.plans)
    batch = int(PlansManager(plans).get_configuration(request.configuration).batch_size)
    settings = settings_of(request, run)
    epochs = _number(settings.training.num_epochs, STOCK_EPOCHS)
    iterations = _number(settings.training.num_iterations_per_epoch, STOCK_ITERATIONS)
    stock = batch * epochs * iterations
    samples: float = stock
    if classes := regularizers_of(run.method):
        schedule = settings.schedule  # type: ignore[attr-defined]  # every regularizer's settings have one
        start, _ = phase_ends(epochs, schedule.warmup, schedule.ramp)
        stand_in = _StandIn.of(request, plans, batch)
        for cls in classes:
            settings = cls.resolve(settings, stand_in.facts)
        regularizers = [cls(settings, stand_in.facts) for cls in classes]
        # A second network sees the labelled batch as well, and a second decoder is counted as one.
        if any(regularizer.needs_peer or regularizer.needs_second_decoder for regularizer in regularizers):
            samples += stock
        if any(weight > 0 for regularizer in regularizers for weight in regularizer.weights.values()):
            cases = _number(settings.data.batch_size, max(batch // max(r.gradient_views for r in regularizers), 1))
            samples += (epochs - start) * iterations * sum(stand_in.samples(r, cases) for r in regularizers)
    return Cost(epochs, samples, samples / stock)


@dataclass(frozen=True)
class _StandIn:
    """Answers of the right shape on a small patch, for a step that is played through to count its samples."""

    facts: Facts
    in_channels: int
    out_channels: int

    @classmethod
    def of(cls, request: Request, plans: dict[str, Any], batch: int) -> _StandIn:
        """For the network of these plans, of which no weight is made."""
        manager = PlansManager(plans)
        configuration = manager.get_configuration(request.configuration)
        dataset_json = load_dataset_json(variable_folder("nnUNet_preprocessed") / request.dataset)
        labels = manager.get_label_manager(dataset_json)
        in_channels = determine_num_input_channels(manager, configuration, dataset_json)
        with torch.device("meta"):
            network = network_from_plans(plans, request.configuration, dataset_json)
        levels = Levels.of(network)
        patch_size = tuple(2 * stride for stride in levels.strides[0])
        facts = Facts(
            levels=levels,
            patch_size=patch_size,
            spacing=tuple(configuration.spacing[-len(patch_size) :]),
            batch_size=batch,
            n_structures=len(structures_of(labels)),
            has_regions=labels.has_regions,
            mirror_axes=tuple(range(len(patch_size))),
            ignore_label=labels.ignore_label,
            # Which labels a region holds does not change how many samples there are.
            regions=((1,),) * labels.num_segmentation_heads if labels.has_regions else (),
        )
        return cls(facts, in_channels, labels.num_segmentation_heads)

    def samples(self, regularizer: Regularizer, cases: int) -> float:
        """How many patches a step with so many unlabelled cases sends through all networks."""
        counted: list[float] = []
        step = Step(
            views=tuple(self._zeros(cases, self.in_channels) for _ in regularizer.views),
            valid=None,
            student=self._network(counted),
            teacher=self._network(counted) if regularizer.ema_decay is not None else None,
            second_decoder=self._network(counted) if regularizer.needs_second_decoder else None,
            peer=self._network(counted) if regularizer.needs_peer else None,
            labeled=self._labeled(),
            pseudo_label=self._zeros(cases, 1).to(torch.int16) if regularizer.rounds is not None else None,
            progress=0.5,
            number=0,
            generator=torch.Generator(),
            reduce=lambda tensor: tensor,
        )
        regularizer(step)
        return sum(counted)

    def _network(self, counted: list[float]) -> Forward:
        def forward(x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
            counted.append(patches(x, math.prod(self.facts.patch_size)))
            levels = self.facts.levels
            features = [_zeros_for(x, levels.channels[tap], levels.strides[tap]) for tap in taps]
            return _zeros_for(x, self.out_channels, (1,) * len(self.facts.patch_size)), features

        return forward

    def _labeled(self) -> Labeled:
        channels = 1
        if self.facts.has_regions:
            channels = self.out_channels + (self.facts.ignore_label is not None)
        batch, levels = self.facts.batch_size, self.facts.levels
        images = self._zeros(batch, self.in_channels)
        # Features come from the supervised pass, which is counted already.
        features = _zeros_for(images, levels.channels[-1], levels.strides[-1])
        return Labeled(images, self._zeros(batch, channels).to(torch.int16), features)

    def _zeros(self, cases: int, channels: int) -> Tensor:
        return torch.zeros(cases, channels, *self.facts.patch_size)


def _zeros_for(x: Tensor, channels: int, strides: Sequence[int]) -> Tensor:
    """Features of images [B, C, *spatial] at a level of these strides."""
    return torch.zeros(len(x), channels, *(size // step for size, step in zip(x.shape[2:], strides, strict=True)))


def _number(value: int | str, automatic: int) -> int:
    return automatic if isinstance(value, str) else value
