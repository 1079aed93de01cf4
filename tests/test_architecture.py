"""Imports run downwards only, and losses know nothing of nnU-Net."""

import ast
from pathlib import Path

import pytest

import nnunetv2_semisup

pytestmark = pytest.mark.fast

PACKAGE = Path(nnunetv2_semisup.__path__[0])
LAYERS = (
    ("cli",),
    ("evaluation", "training", "visualization"),
    ("regularizers",),
    ("losses", "networks", "data"),
    ("configuration",),
)
"""From top to bottom; a module imports from its own layer and from those below."""
DEPTH = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
FOREIGN_TO_LOSSES = {"nnunetv2", "batchgenerators", "batchgeneratorsv2", "numpy", "dynamic_network_architectures"}


def imported(file: Path) -> list[str]:
    """Dotted names of all imported modules, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names.append(str(node.module))
    return names


@pytest.mark.parametrize("part", DEPTH)
def test_imports_run_downwards_only(part: str):
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            other = name.split(".")[1] if name.startswith("nnunetv2_semisup.") else None
            assert DEPTH.get(other, len(LAYERS)) >= DEPTH[part], f"{file.name} imports {name}"


def test_losses_import_torch_only():
    for file in (PACKAGE / "losses").glob("*.py"):
        found = {name.split(".")[0] for name in imported(file)}
        assert not found & FOREIGN_TO_LOSSES, file.name
        assert all(not name.startswith("nnunetv2_semisup.") or ".losses" in name for name in imported(file)), file.name
