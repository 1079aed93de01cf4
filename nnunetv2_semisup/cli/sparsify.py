"""`nnUNetv2_semisup sparsify`: sparse labels from dense ones, for studies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_semisup.arguments import positive, seed

if TYPE_CHECKING:
    from nnunetv2_semisup.data.sparsify.files import Row

HELP = "make sparse labels from dense ones: everything that is not annotated becomes nnU-Net's ignore label"
EXAMPLE = (
    "nnUNetv2_semisup sparsify -i $nnUNet_raw/Dataset007_Pancreas/labelsTr -o labels_scribbles "
    "--mode scribbles --budget 0.01"
)
MODES = ("slices", "scribbles", "points", "erosion")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, target, and how sparse."""
    parser.add_argument("-i", metavar="LABELS", type=Path, required=True,
                        help="folder of files CASE<file_ending>, with dataset.json in it or beside it")  # fmt: skip
    parser.add_argument("-o", metavar="OUT", type=Path, required=True,
                        help="new folder for the sparse files of the same names, dataset.json with the ignore label, "
                             "and annotated.csv: what is left")  # fmt: skip
    parser.add_argument("--mode", choices=MODES, required=True,
                        help="whole slices across the coarsest axis; strokes along the middle of each structure and "
                             "around it; small balls in the structures; or the structures' inner part")  # fmt: skip
    parser.add_argument("--budget", type=_share, required=True, metavar="SHARE",
                        help="at most this share of each case's voxels stays annotated; between 0 and 1")  # fmt: skip
    parser.add_argument("--foreground-only", action="store_true", help="annotate no background")
    parser.add_argument("--seed", type=seed, default=0, metavar="S",
                        help="of every random choice, with the case's name; default: %(default)s")  # fmt: skip
    parser.add_argument("-np", dest="num_processes", type=positive, metavar="N",
                        help="processes, default: nnU-Net's number, and at most one a core")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Write the labels, print what is left of them and what dataset.json must say."""
    from nnunetv2_semisup.data.sparsify.files import TABLE, Request, sparsify_folder
    from nnunetv2_semisup.data.workers import processes

    request = Request(args.mode, args.budget, args.foreground_only, args.seed)
    written = sparsify_folder(args.i, args.o, request, args.num_processes or processes())
    print("\n".join(_table(written.rows)))
    print(
        f"{args.o / TABLE} has every class of every case.\n"
        f"To train on these files, copy {args.o / 'dataset.json'} into the raw dataset, or add to the labels of its "
        f'dataset.json: "ignore": {written.ignore}'
    )


def _table(rows: list[Row]) -> list[str]:
    """A line for each case, then one for each class in all of them."""
    lines = [("case", "class", "annotated", "of", "share", f"size [{rows[0].unit}]")]
    for row in rows:
        if row.label == "all" and row.case != "all":
            kept = [own.annotated > 0 for own in rows if own.case == row.case and own.label != "all"]
            lines.append((row.case, f"{sum(kept)} of {len(kept)}", *_numbers(row)))
        elif row.case == "all":
            lines.append((row.case, f"{row.label} {row.name}".strip(), *_numbers(row)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths)]
    return ["  ".join(aligned).format(*line) for line in lines]


def _numbers(row: Row) -> tuple[str, str, str, str]:
    return str(row.annotated), str(row.voxels), f"{row.share:.3%}", f"{row.size:.6g}"


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1, both excluded")
    return share
