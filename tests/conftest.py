"""Fixtures for every part: toy workspaces, real data, one thread."""

import os
import signal
from pathlib import Path

import matplotlib
import pytest
import torch

from tests.workspace import Workspace, make_workspace

torch.set_num_threads(1)
# nnU-Net draws its progress at the end of every epoch, which at full size takes longer than an epoch of the tests.
matplotlib.rcParams["savefig.dpi"] = 20
# Tests in the background ignore Ctrl-C, those under nohup the end of the terminal, and so does all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, visibly, what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("realdata") and "NNUNETV2_SEMISUP_TESTDATA" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="NNUNETV2_SEMISUP_TESTDATA is not set"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A preprocessed 3D dataset of 5 labelled and 3 unlabelled cases; trainings must use plan names of their own."""
    return make_workspace(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def in_toy(toy: Workspace):
    """The toy workspace, with nnU-Net's variables pointing at it."""
    with toy.active():
        yield toy


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real raw datasets; tests that use it carry the marker `realdata`."""
    return Path(os.environ["NNUNETV2_SEMISUP_TESTDATA"])
