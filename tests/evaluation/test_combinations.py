"""Two methods in one training, as benchmarks/quality.py plans and trains them."""

import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import script
from tests.workspace import DATASET

TINY = ["training.num_epochs=3", "training.num_iterations_per_epoch=2", "training.num_val_iterations_per_epoch=1"]


@pytest.fixture(scope="module")
def scripts():
    """benchmarks/quality.py and its trainers."""
    return script("quality"), script("fixmatch_and", "combinations")


@pytest.mark.parametrize(
    ("second", "columns"),
    [("localcontrast", {"raw/contrast", "sign/excess"}), ("crosslevel", {"raw/contrast", "raw/consistency"})],
)
def test_a_method_trains_beside_fixmatch(in_toy, scripts, second, columns, monkeypatch):
    quality, trainers = scripts
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    name, number = f"both_{second}", int(DATASET[7:10])
    monkeypatch.setattr(quality, "SMALL", "nnUNetPlans")
    quality.plan_both(number, "fixmatch", second, name, TINY)
    cls = getattr(trainers, quality.trainer_of(f"fixmatch+{second}"))
    trainer = in_toy.trainer(cls, plans=in_toy.plans(name), plans_name=name)
    trainer.run_training()
    assert trainer.dataloader_unlabeled is not None
    assert set(trainer._columns) >= {"raw/pseudo_dice", "sign/confident", *columns}
