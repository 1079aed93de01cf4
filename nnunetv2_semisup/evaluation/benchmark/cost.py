"""What a run will cost: samples through the network, beside a stock training of the same length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.configuration.settings import Settings
from nnunetv2_semisup.data.folders import load_dataset_json, load_plans, variable_folder
from nnunetv2_semisup.evaluation.benchmark.runs import Request, Run
from nnunetv2_semisup.evaluation.benchmark.settings import regularizers_of, settings_of
from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.regularizers.base import Facts, Regularizer
from nnunetv2_semisup.training.schedules import phase_ends

STOCK_EPOCHS = 1000
STOCK_ITERATIONS = 250
"""nnU-Net's own length of a training, which "auto" stands for."""


@dataclass(frozen=True)
class Cost:
    """An estimate, from what the method says of itself and from its schedule."""

    epochs: int
    samples: int
    """Patches through a network, with and without gradient, in all training steps."""
    relative: float
    """The same, as a multiple of a stock training of the same length."""


def cost_of(request: Request, run: Run) -> Cost:
    """The cost of one run."""
    plans = load_plans(variable_folder("nnUNet_preprocessed") / request.dataset, request.plans)
    batch = int(PlansManager(plans).get_configuration(request.configuration).batch_size)
    settings = settings_of(request, run)
    epochs = _number(settings.training.num_epochs, STOCK_EPOCHS)
    iterations = _number(settings.training.num_iterations_per_epoch, STOCK_ITERATIONS)
    regularizers = _regularizers(request, run, settings, plans, batch)
    stock = batch * epochs * iterations
    samples = stock * (2 if any(r.needs_peer for r in regularizers) else 1)
    if any(weight > 0 for r in regularizers for weight in r.weights.values()):
        schedule = settings.schedule  # type: ignore[attr-defined]  # every regularizer's settings have one
        start, _ = phase_ends(epochs, schedule.warmup, schedule.ramp)
        samples += _unlabeled_samples(regularizers, settings, batch) * (epochs - start) * iterations
    return Cost(epochs, samples, samples / stock)


def _unlabeled_samples(regularizers: list[Regularizer], settings: Settings, batch: int) -> int:
    """Of one step: every view goes through the student or its teacher, with a peer through both networks."""
    gradient_views = max(r.gradient_views for r in regularizers)
    cases = _number(settings.data.batch_size, max(batch // gradient_views, 1))
    return cases * max(max(len(r.views), r.gradient_views) for r in regularizers)


def _regularizers(
    request: Request, run: Run, settings: Settings, plans: dict[str, Any], batch: int
) -> list[Regularizer]:
    """As the training will build them, on a network without memory."""
    classes = regularizers_of(run.method)
    if not classes:
        return []
    facts = _facts(request, plans, batch)
    for cls in classes:
        settings = cls.resolve(settings, facts)
    with torch.device("meta"):
        return [cls(settings, facts) for cls in classes]


def _facts(request: Request, plans: dict[str, Any], batch: int) -> Facts:
    manager = PlansManager(plans)
    configuration = manager.get_configuration(request.configuration)
    dataset_json = load_dataset_json(variable_folder("nnUNet_preprocessed") / request.dataset)
    labels = manager.get_label_manager(dataset_json)
    with torch.device("meta"):
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, configuration, dataset_json),
            labels.num_segmentation_heads,
        )
    patch_size = tuple(int(size) for size in configuration.patch_size)
    return Facts(
        levels=Levels.of(network),
        patch_size=patch_size,
        spacing=tuple(configuration.spacing[-len(patch_size) :]),
        batch_size=batch,
        has_regions=labels.has_regions,
        mirror_axes=tuple(range(len(patch_size))),
    )


def _number(value: int | str, automatic: int) -> int:
    return automatic if isinstance(value, str) else value
