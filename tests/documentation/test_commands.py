"""Every command of the documentation runs, or says why it does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_semisup.data.synthetic import make_dataset
from tests.documentation.pages import PAGES, ROOT, Block, blocks, pages, substituted

DATASET = "Dataset004_Hippocampus"
LANGUAGES = {"bash", "python", "toml", "text"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small synthetic dataset of the tutorial's name, and folders of new scans."""
    root = tmp_path_factory.mktemp("documentation")
    raw = root / "nnUNet_raw" / DATASET
    raw.parent.mkdir()
    make_dataset(raw, n_labeled=10, n_unlabeled=3, n_test=1, shape=(16, 24, 24), seed=5)
    for year, seed in (("2023", 6), ("2024", 7)):
        made = root / "made"
        make_dataset(made, n_labeled=1, n_unlabeled=1, n_test=1, shape=(16, 24, 24), seed=seed)
        scans = root / f"scans_{year}"
        scans.mkdir()
        for file in (made / "imagesUn").iterdir():
            file.rename(scans / file.name.replace("unlabeled_000", f"scan_{year}"))
        shutil.rmtree(made)
    return root


def is_run(block: Block) -> bool:
    return block.language == "bash" and block.reason is None


@pytest.mark.fast
def test_every_block_is_run_or_says_why_not():
    for page in pages():
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page}: {block.language}"
            assert page in PAGES or not is_run(block), f"{page} has commands and is not in PAGES:\n{block.text}"
        assert (ROOT / page).read_text().count("\n```") == 2 * len(blocks(page)), f"{page}: a block was not seen"


@pytest.mark.fast
def test_every_page_of_the_list_runs_something():
    assert all(any(is_run(block) for block in blocks(page)) for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page: str, workspace: Path):
    """In order: each page stands on what the pages before it have left. No command runs twice."""
    done_file = workspace / "done.txt"
    done = done_file.read_text().splitlines() if done_file.exists() else []
    lines = [line for block in blocks(page) if is_run(block) for line in substituted(block.text).splitlines()]
    new = [line for line in lines if not (line in done and line.startswith("nnUNet"))]
    script = ["set -euo pipefail"]
    script += ["export " + f'{name}="$PWD/{name}"' for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    script += ['export nnUNet_extTrainer="$(nnUNetv2_semisup trainers)"', *new]
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_npp": "1", "nnUNet_nps": "1"}
    ran = subprocess.run(
        ["bash", "-x", "-c", "\n".join(script)],
        cwd=workspace, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    done_file.write_text("\n".join(done + new))
