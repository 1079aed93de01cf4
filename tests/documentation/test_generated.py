"""The tables that mkdocs builds into the pages are complete."""

import importlib.util
import sys
from types import ModuleType

import pytest

from nnunetv2_semisup.cli.main import commands
from nnunetv2_semisup.configuration.settings import allowed_keys
from nnunetv2_semisup.configuration.sources import preset
from nnunetv2_semisup.methods import methods, trainer_class
from tests.documentation.pages import ROOT

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """docs/generated.py, as mkdocs imports it."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generated"] = module
    spec.loader.exec_module(module)
    return module


def test_every_marker_is_replaced(generated: ModuleType):
    asked = set()
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        asked |= set(generated.MARKER.findall(text))
        assert not generated.MARKER.search(generated.on_page_markdown(text))
    assert asked == generated.TABLES.keys()


def test_every_setting_has_a_row_with_default_range_and_description(generated: ModuleType):
    rows = [line.split(" | ") for line in generated.settings().splitlines() if line.startswith("| `")]
    for name in methods().values():
        for key, description in allowed_keys(trainer_class(name).settings_model()).items():
            found = [row for row in rows if row[0] == f"| `{key}`"]
            assert found, f"{name}: {key} has no row"
            assert description, f"{name}: {key} has no description"
            assert all(cell.strip(" |") for row in found for cell in row)


def test_every_value_of_a_preset_has_a_source(generated: ModuleType):
    for method in methods():
        assert generated._sources(method).keys() == generated._flat(preset(method)).keys(), method


def test_every_trainer_and_command_is_listed(generated: ModuleType):
    for method, name in methods().items():
        assert f"| `{name}` | `{method}` |" in generated.trainers()
    shown = generated.command_line()
    for name, module in commands().items():
        assert f"## {name}\n" in shown
        assert module.EXAMPLE in shown
