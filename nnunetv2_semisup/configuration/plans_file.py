"""Plans with a `semisup` section: a copy of nnU-Net's, under a name of their own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnunetv2_semisup.configuration.settings import Settings, allowed_keys, allowed_values
from nnunetv2_semisup.configuration.sources import SECTION, merged, preset
from nnunetv2_semisup.errors import SemiSupervisedError

S = TypeVar("S", bound=Settings)


def write_plans(
    folder: Path, method: str, model: type[Settings], plans: str, name: str | None, assignments: Sequence[str]
) -> tuple[Path, bool]:
    """Copy the plans of a dataset, add the settings of a method, and save them as `name`.

    `data_identifier` stays, so nothing is preprocessed again.

    Args:
        folder: of the preprocessed dataset.
        method: METHOD name, whose preset is the start.
        model: the method's settings.
        plans: name of the plans to copy.
        name: name of the new plans; None: PLANS_METHOD.
        assignments: texts KEY=VALUE that override the preset.

    Returns:
        The file, and whether it is new. It is not when it stood there with the same content.

    Raises:
        SemiSupervisedError: no such plans; a name that cannot be one; a refused setting; another content under this
            name.
    """
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise SemiSupervisedError(f"-o {name}: the name of plans has letters, digits, '.', '-' and '_' alone")
    source = folder / f"{plans}.json"
    if not source.is_file():
        raise SemiSupervisedError(f"{source} does not exist; type: nnUNetv2_plan_and_preprocess -d {folder.name}")
    settings = parse_settings(method, model, assignments)
    content = json.loads(source.read_text(encoding="utf-8"))
    name = name or f"{plans}_{method}"
    content |= {"plans_name": name, SECTION: {"method": method, **settings.model_dump()}}
    file = folder / f"{name}.json"
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) == content:
            return file, False
        raise SemiSupervisedError(f"{file} exists with other settings; choose another name with -o")
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, file)
    return file, True


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
