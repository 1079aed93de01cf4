"""Plans with a `semisup` section: a copy of nnU-Net's, under a name of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_semisup.configuration.overrides import parse_settings
from nnunetv2_semisup.configuration.settings import Settings
from nnunetv2_semisup.configuration.sources import SECTION
from nnunetv2_semisup.data.folders import load_plans, read_json, write_whole
from nnunetv2_semisup.errors import SemiSupervisedError


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
    content = load_plans(folder, plans)
    settings = parse_settings(method, model, assignments)
    name = name or f"{plans}_{method}"
    if "__" in name or name.endswith("_"):
        raise SemiSupervisedError(
            f"plans cannot be called {name}: nnU-Net splits the names of models at '__'; choose another name with -o"
        )
    content |= {"plans_name": name, SECTION: {"method": method, **settings.model_dump()}}
    file = folder / f"{name}.json"
    if file.exists():
        if read_json(file) == content:
            return file, False
        raise SemiSupervisedError(f"{file} exists with other settings; choose another name with -o")
    write_whole(json.dumps(content, indent=4, ensure_ascii=False), file)
    return file, True
