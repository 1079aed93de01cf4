"""Command blocks of README.md and docs/, and what stands for what when they are run.

Every fenced `bash` block is run, unless the line before it is `<!-- not-run: REASON -->`. Pages run in the order of
`PAGES`, in one workspace; a command of nnU-Net's or ours that has run already (the same line) is not run again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = (
    "docs/tutorial/hippocampus.md",
    "docs/how-to/resume.md",
    "docs/how-to/export.md",
    "docs/how-to/choose-weights.md",
    "docs/how-to/pretrain-and-fine-tune.md",
    "README.md",
    "docs/how-to/unlabeled-data.md",
    "docs/how-to/annotate-sparsely.md",
    "docs/how-to/slurm-array.md",
    "docs/how-to/make-sparse-labels.md",
    "docs/how-to/run-a-benchmark.md",
)
"""The pages with commands that run, in an order in which each finds what it needs."""

SUBSTITUTIONS = (
    # Dataset 7 and 4 of the pages are both the synthetic Dataset004_Hippocampus.
    (r"-d 7\b", "-d 4"),
    (r"nnUNetv2_train 7\b", "nnUNetv2_train 4"),
    (r"-i /scans/2023 /scans/2024 -np 8", "-i scans_2023 scans_2024 -np 1"),
    (r"-i NEW_SCANS -o SEGMENTATIONS", '-i "$nnUNet_raw/Dataset004_Hippocampus/imagesTs" -o segmentations'),
    # Lengths: a small network and a few steps instead of nnU-Net's.
    (r"^nnUNetv2_plan_and_preprocess -d 14 .*$", r"nnUNet_n_proc_DA=1 \g<0> -npfp 1 -np 1"),
    (r"^nnUNetv2_plan_and_preprocess .*$", r"nnUNet_n_proc_DA=1 \g<0> && python -m tests.documentation.shrink"),
    (
        r"training\.num_epochs=\d+",
        "training.num_epochs=3 training.num_iterations_per_epoch=2 training.num_val_iterations_per_epoch=1",
    ),
    # No GPU is needed.
    (r"^(nnUNetv2_(?:train|predict|predict_from_modelfolder) .*[^\\])$", r"\1 -device cpu"),
    (r"^(nnUNetv2_predict .*)\\$", r"\1 -device cpu \\"),
)
"""(pattern, replacement), applied line by line in this order."""

_BLOCK = re.compile(r"(?P<before>^[^\n]*\n)```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not-run: (?P<reason>\S.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block; `reason` says why it is not run, if it is not."""

    page: str
    language: str
    text: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        marker = _NOT_RUN.search(match["before"])
        found.append(Block(page, match["language"], match["text"], marker["reason"] if marker else None))
    return found


def pages() -> list[str]:
    """Every page of the repository's documentation."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(file.relative_to(ROOT)) for file in files]


def substituted(text: str) -> str:
    """The block as it is run."""
    lines = text.splitlines()
    for pattern, replacement in SUBSTITUTIONS:
        lines = [re.sub(pattern, replacement, line) for line in lines]
    return "\n".join(lines) + "\n"
