"""Where settings come from: the method's preset, and the `semisup` section of a plans file over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeVar

from nnunetv2_semisup.configuration.settings import Settings
from nnunetv2_semisup.errors import SemiSupervisedError

S = TypeVar("S", bound=Settings)

SECTION = "semisup"


def preset(method: str) -> dict[str, Any]:
    """The values of `plans/<method>.toml`, each with its source beside it in the file; none for a user's own method."""
    file = resources.files("nnunetv2_semisup.plans").joinpath(f"{method}.toml")
    if not file.is_file():
        return {}
    return tomllib.loads(file.read_text(encoding="utf-8"))


def settings_for(model: type[S], method: str, plans: Mapping[str, Any]) -> S:
    """Settings of a training: the preset of `method`, overridden by the plans' `semisup` section where it has one.

    Raises SemiSupervisedError for a section of another method and for everything `Settings.parse` refuses.
    """
    section = dict(plans.get(SECTION, {}))
    made_for = section.pop("method", method)
    name = plans.get("plans_name", "the plans")
    if made_for != method:
        raise SemiSupervisedError(
            f"{name} holds settings for {made_for!r}, but the trainer is {method!r}; make plans for it: "
            f"nnUNetv2_semisup plan -d {plans.get('dataset_name', 'D')} -m {method}"
        )
    return model.parse(merged(preset(method), section), origin=f"section {SECTION!r} of {name}")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with the values of `over` put in, section by section."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result
