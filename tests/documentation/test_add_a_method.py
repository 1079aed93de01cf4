"""The four files of docs/how-to/add-a-method.md, as they stand there, are a method."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import ROOT

pytestmark = pytest.mark.fast

PAGE = "docs/how-to/add-a-method.md"
_FILE = re.compile(r"`([\w/]+\.(?:py|toml))`[^`]*\n\n```(?:python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Path -> content, in the page's order."""
    return dict(_FILE.findall((ROOT / PAGE).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def copy(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is when installed, and its tests, with the page's files in place."""
    root = tmp_path_factory.mktemp("method")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("nnunetv2_semisup", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("trainers", "plans"):
        shutil.copytree(ROOT / name, root / "nnunetv2_semisup" / name, ignore=ignore)
    for path, content in files.items():
        inside = root if path.startswith(("tests/", "nnunetv2_semisup/")) else root / "nnunetv2_semisup"
        (inside / path).write_text(content, encoding="utf-8")
    shutil.copyfile(ROOT / "pyproject.toml", root / "pyproject.toml")
    return root


def run(copy: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_four_files_of_at_most_250_lines(files: dict[str, str]):
    assert [Path(path).suffix for path in files] == [".py", ".py", ".toml", ".py"]
    assert sum(len(content.splitlines()) for content in files.values()) <= 250


def test_the_method_is_found_and_passes_the_tests(copy: Path):
    listed = run(copy, "-c", "from nnunetv2_semisup.methods import methods; print(methods()['pimodel'])")
    assert listed.strip() == "nnUNetTrainerPiModel"
    tests = ("tests/regularizers/test_pimodel.py", "tests/regularizers/test_every_method.py")
    shown = run(copy, "-m", "pytest", "-q", "-k", "pimodel", *tests)
    assert re.search(r"\d+ passed", shown)


def test_the_files_are_clean(copy: Path, files: dict[str, str]):
    places = [path if (copy / path).exists() else f"nnunetv2_semisup/{path}" for path in files if path.endswith(".py")]
    run(copy, "-m", "ruff", "check", *places)
    run(copy, "-m", "ruff", "format", "--check", *places)
