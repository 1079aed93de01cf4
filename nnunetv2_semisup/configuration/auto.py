"""How "auto" becomes a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from nnunetv2_semisup.configuration.settings import Section, Settings

S = TypeVar("S", bound=Settings)
T = TypeVar("T", bound=Section)


def with_numbers(settings: S, training: Mapping[str, Any], data: Mapping[str, Any]) -> S:
    """Settings in which no common value is "auto" any more.

    Args:
        settings: of any method.
        training: what "auto" stands for in the section `training`: what the trainer itself says.
        data: the same for the section `data`.
    """
    return settings.model_copy(
        update={"training": _filled(settings.training, training), "data": _filled(settings.data, data)}
    )


def _filled(section: T, numbers: Mapping[str, Any]) -> T:
    automatic = {name for name in type(section).model_fields if getattr(section, name) == "auto"}
    return section.model_copy(update={name: numbers[name] for name in automatic & numbers.keys()})
