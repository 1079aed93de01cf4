"""Which of the given settings go to which method."""

from __future__ import annotations

from collections.abc import Iterable

from nnunetv2_semisup.configuration.overrides import parse_settings
from nnunetv2_semisup.configuration.settings import Settings, allowed_keys
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.runs import BASELINE, Request, Run
from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.regularizers.base import Regularizer
from nnunetv2_semisup.training.pretraining import PretrainingTrainer

_OURS = {"training.seed": "--seeds", "data.split": "--labeled"}
"""Settings that a benchmark makes itself, and what to type for them."""


def settings_model(method: str) -> type[Settings]:
    """The settings that a method accepts."""
    model: type[Settings] = trainer_class(methods()[method]).settings_model()  # type: ignore[attr-defined]
    return model


def regularizers_of(method: str) -> tuple[type[Regularizer], ...]:
    """The regularizers of a method; none for the baseline."""
    regularizers: tuple[type[Regularizer], ...] = trainer_class(methods()[method]).regularizers  # type: ignore[attr-defined]
    return regularizers


def learns_to_segment(method: str) -> bool:
    """Whether a method's trainings can be compared by their segmentations; a pre-training's cannot."""
    return not issubclass(trainer_class(methods()[method]), PretrainingTrainer)


def assignments(request: Request, run: Run) -> tuple[str, ...]:
    """All settings of a run, KEY=VALUE: those given that its method has, then seed and split."""
    known = allowed_keys(settings_model(run.method))
    given = tuple(text for text in request.settings if _key(text) in known)
    split = (f"data.split={run.split}",) if run.split else ()
    return (*given, f"training.seed={run.seed}", *split)


def settings_of(request: Request, run: Run) -> Settings:
    """The run's settings, checked. Raises SemiSupervisedError for a value that is not allowed."""
    return parse_settings(run.method, settings_model(run.method), assignments(request, run))


def check_settings(request: Request) -> None:
    """Refuse a setting that no method has, or that the benchmark makes itself. Raises SemiSupervisedError."""
    known = {key for method in (BASELINE, *request.methods) for key in allowed_keys(settings_model(method))}
    for key in _keys(request.settings):
        if key in _OURS:
            raise SemiSupervisedError(f"--set {key}: a benchmark sets it itself; use {_OURS[key]}")
        if key not in known:
            raise SemiSupervisedError(
                f"--set {key}: none of the methods has this setting; known are: {', '.join(sorted(known))}"
            )


def _keys(texts: Iterable[str]) -> list[str]:
    return [_key(text) for text in texts]


def _key(text: str) -> str:
    return text.partition("=")[0]
