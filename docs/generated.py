"""mkdocs hook: tables that are read from the code, so that they cannot grow old.

A page asks for one with `<!-- generated: NAME -->` on a line of its own, NAME being a key of `TABLES`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from importlib import resources
from typing import Any
from unittest import mock

from nnunetv2_semisup.cli import main as program
from nnunetv2_semisup.configuration.settings import Section, Settings, allowed_keys, allowed_values
from nnunetv2_semisup.configuration.sources import preset
from nnunetv2_semisup.methods import methods, trainer_class

MARKER = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return MARKER.sub(lambda match: TABLES[match[1]](), markdown)


def command_line() -> str:
    """`--help` of every command."""
    return "\n".join(f"## {name}\n\n```text\n{_help(name)}```\n" for name in program.commands())


def settings() -> str:
    """Every setting: of all methods first, then of each method."""
    common = allowed_keys(Settings)
    defaults = _flat(Settings().model_dump())
    parts = ["## Every method\n", _settings_table(Settings, list(common), defaults, {})]
    for method, name in methods().items():
        model = trainer_class(name).settings_model()  # type: ignore[attr-defined]
        own = _flat(preset(method))
        keys = [key for key in allowed_keys(model) if key not in common or key in own]
        if keys:
            parts += [f"\n## {method}\n", _settings_table(model, keys, own, _sources(method))]
    return "\n".join(parts)


def trainers() -> str:
    """Every trainer, its METHOD and what it does."""
    lines = ["| trainer | METHOD | |", "|---|---|---|"]
    for method, name in methods().items():
        summary = str(trainer_class(name).__doc__).strip().split("\n\n")[0]
        lines.append(f"| `{name}` | `{method}` | {' '.join(summary.split())} |")
    return "\n".join(lines)


TABLES = {"command-line": command_line, "settings": settings, "trainers": trainers}


def _help(command: str) -> str:
    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="100"), contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        program.main([command, "--help"])
    return shown.getvalue()


def _settings_table(model: type[Section], keys: list[str], defaults: dict[str, Any], sources: dict[str, str]) -> str:
    lines = ["| setting | default | allowed | |" + (" source |" if sources else "")]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    descriptions = allowed_keys(model)
    for key in keys:
        cells = [f"`{key}`", f"`{defaults[key]}`", allowed_values(model, key), descriptions[key]]
        cells += [sources[key]] if sources else []
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _sources(method: str) -> dict[str, str]:
    """The comments of a preset, by key: each says where the value comes from."""
    found, section = {}, ""
    for line in resources.files("nnunetv2_semisup.plans").joinpath(f"{method}.toml").read_text("utf-8").splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = header[1] + "."
        elif value := re.match(r"(\w+)\s*=.*?#\s*(.+)", line):
            found[section + value[1]] = value[2]
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
