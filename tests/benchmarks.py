"""The scripts of benchmarks/, imported as they import one another."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.documentation.pages import ROOT


def script(name: str, folder: str = "") -> ModuleType:
    """The module `name` of benchmarks/, or of a folder in it."""
    added = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / folder)]
    sys.path[:0] = added
    try:
        return importlib.import_module(name)
    finally:
        for path in added:
            sys.path.remove(path)
