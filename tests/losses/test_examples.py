"""The examples in the docstrings of the losses run, and every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

from nnunetv2_semisup import losses

pytestmark = pytest.mark.fast

MODULES = [f"{losses.__name__}.{module.name}" for module in pkgutil.iter_modules(losses.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[-1] not in ("masking", "precision")])
def test_every_loss_shows_an_example(name):
    module = importlib.import_module(name)
    for label, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == name and not label.startswith("_"):
            assert ">>>" in function.__doc__, f"{name}.{label} has no example"
