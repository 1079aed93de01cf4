"""What a wheel and a source distribution hold."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nnunetv2_semisup.methods import methods

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel that is built from it and not from the checkout."""
    root = tmp_path_factory.mktemp("packaging")
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "site", "*.egg-info", "demo_output")
    shutil.copytree(ROOT, root / "checkout", ignore=ignore)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(root / "dist"), str(root / "checkout")]
    subprocess.run(command, check=True, capture_output=True)
    return root / "dist"


def test_the_wheel_holds_every_module_preset_and_marker(dist: Path):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    expected = {
        name for name in tracked.split("\0") if re.match(r"(nnunetv2_semisup|trainers|plans)/.*\.(py|toml)$", name)
    }
    if not expected:
        pytest.skip("not a git checkout")
    inside = {name if name.startswith("nnunetv2_semisup/") else f"nnunetv2_semisup/{name}" for name in expected}
    assert inside <= names
    assert "nnunetv2_semisup/py.typed" in names
    assert {f"nnunetv2_semisup/plans/{method}.toml" for method in methods()} <= names
    assert not [name for name in names if name.split("/")[0] in {"tests", "docs", "benchmarks", "trainers", "plans"}]
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


def test_an_installed_wheel_works_without_the_checkout(dist: Path, tmp_path: Path):
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from nnunetv2_semisup.cli.main import main\n"
        "from nnunetv2_semisup.configuration.sources import preset\n"
        "from nnunetv2_semisup.methods import methods, trainer_names\n"
        "assert main(['trainers']) == 0\n"
        "print(*trainer_names(), all(isinstance(preset(method), dict) for method in methods()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    folder, names = done.stdout.splitlines()
    assert folder == str(tmp_path.resolve() / "nnunetv2_semisup" / "extension")
    assert names.split() == [*sorted(methods().values()), "True"]


def test_the_source_distribution_holds_what_the_wheel_is_made_of(dist: Path):
    (archive,) = dist.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert {"trainers/__init__.py", "plans/mireg.toml", "LICENSE", "README.md", "pyproject.toml"} <= names
