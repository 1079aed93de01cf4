"""Settings from a command line: a method's preset, overridden by texts KEY=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from nnunetv2_semisup.configuration.settings import Settings, allowed_keys, allowed_values
from nnunetv2_semisup.configuration.sources import merged, preset
from nnunetv2_semisup.errors import SemiSupervisedError

S = TypeVar("S", bound=Settings)


def parse_settings(method: str, model: type[S], assignments: Sequence[str]) -> S:
    """The preset of a method, overridden by texts KEY=VALUE. Raises SemiSupervisedError for a refused setting."""
    values: dict[str, Any] = preset(method)
    for assignment in assignments:
        values = merged(values, _nested(assignment, model))
    return model.parse(values, origin="--set")


def _nested(assignment: str, model: type[Settings]) -> dict[str, Any]:
    """`a.b=3` as {"a": {"b": 3}}. Values are JSON; what is not JSON is a text."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise SemiSupervisedError(f"--set {assignment}: expected KEY=VALUE, e.g. training.num_epochs=250")
    value: Any
    try:
        value = None if text.lower() == "none" else json.loads(text)
    except json.JSONDecodeError:
        value = text
    if key in allowed_keys(model) and value is not None and allowed_values(model, key).startswith("a text"):
        value = text
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]
