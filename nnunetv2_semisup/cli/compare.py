"""`nnUNetv2_semisup compare`: one table of methods, which refuses what is not comparable."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_semisup.evaluation.comparison.compare import Comparison

HELP = "compare finished trainings and segmentations from elsewhere, case by case, on one page"
EXAMPLE = "nnUNetv2_semisup compare first_benchmark PEERS_SEGMENTATIONS -o comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, the report's folder, and what may differ."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN",
                        help="a fold's folder of a finished training, a benchmark's folder, a folder that holds such "
                             "folders, or a folder of segmentations CASE<file_ending>, or of folders seed_N "
                             "of them")  # fmt: skip
    parser.add_argument("-o", required=True, type=Path, metavar="OUT", help="new folder for the report")
    parser.add_argument("--allow-different", nargs="+", action="extend", default=[], metavar="KEY",
                        help="what may differ from LabeledOnly's runs and is marked in the table, e.g. patch_size "
                             "network; a refusal names the key")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Compare, write the report, and say what came out."""
    from nnunetv2_semisup.data.staging import refuse_existing, refuse_unwritable
    from nnunetv2_semisup.evaluation.comparison.compare import compare
    from nnunetv2_semisup.evaluation.comparison.report import write_report

    refuse_existing(args.o)
    refuse_unwritable(args.o)
    comparison = compare(args.runs, args.allow_different)
    show(comparison, write_report(comparison, args.o))


def show(comparison: Comparison, page: Path) -> None:
    """Refusals go to standard error; the page's path and one line a row to standard output."""
    from nnunetv2_semisup.evaluation.comparison.tables import main_table

    for refused in comparison.refused:
        print(f"refused: {refused.name}: {refused.reason}", file=sys.stderr)
    for warning in comparison.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(f"Open {page}\n")
    for line in main_table(comparison):
        title = line["method"] + (f", labels {line['labels']}" if line["labels"] else "")
        interval = f" [{line['low']}, {line['high']}]" if line["low"] else ""
        print(f"{title:40}  Dice {line['Dice']}  {line['difference']}{interval}".rstrip())
