"""The demo's page: what came out, on which patients, with which commands, and what it means."""

from __future__ import annotations

import csv
import glob
import json
import os
import shlex
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_semisup.evaluation.demo import FOLDERS, SMALL_PLANS, TRAINERS, TRAINING, Demo
from nnunetv2_semisup.evaluation.dice import DiceScores
from nnunetv2_semisup.evaluation.paired import PairedDifference, paired_difference
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.fold_files import FINAL
from nnunetv2_semisup.visualization.charts import Series, legend, line_chart, paired_dots
from nnunetv2_semisup.visualization.overlays import PALETTE, overlay, telling_planes
from nnunetv2_semisup.visualization.page import color_key, figure, html_page, paragraph, table

_BASELINE, _METHOD = TRAINERS
_KINDS = {
    "raw": "Unlabelled losses, unweighted",
    "sign": "Signs of life",
    "weighted": "Unlabelled losses, weighted",
    "grad": "Gradient norm of each loss at the features it reads",
}


def write_report(demo: Demo, scores: dict[str, DiceScores]) -> Path:
    """Write index.html, which needs nothing beside it; returns its path."""
    baseline, method = (scores[name].per_case for name in TRAINERS)
    difference = paired_difference(baseline, method)
    counts = np.isfinite(baseline) & np.isfinite(method)
    title = headline(float(baseline[counts].mean()), float(method[counts].mean()), difference)
    body = [
        f"<h1>{escape(title)}</h1>",
        paragraph(
            f"{demo.about[:1].upper()}{demo.about[1:]}. Both trainings saw the same labelled cases for the same number "
            f"of steps; {_METHOD} saw the unlabelled images as well. Dice is measured on cases that neither has seen.",
            "lead",
        ),
        *_numbers(scores, difference),
        *_pictures(demo, scores),
        *_curves(demo),
        *_commands(demo),
        *_meaning(demo, difference),
    ]
    page = demo.folder / "index.html"
    temporary = page.with_suffix(".tmp")
    temporary.write_text(html_page(title, body), encoding="utf-8")
    os.replace(temporary, page)
    return page


def headline(baseline: float, method: float, difference: PairedDifference) -> str:
    """What the numbers say, in one sentence: better or worse only where the interval leaves no 0 in it."""
    if difference.low > 0:
        return f"Unlabelled images raised nnU‑Net’s Dice from {baseline:.3f} to {method:.3f}"
    if difference.high < 0:
        return f"Here the unlabelled images did harm: Dice {baseline:.3f} without them, {method:.3f} with them"
    return f"Here the unlabelled images made no clear difference: Dice {baseline:.3f} without, {method:.3f} with them"


def _numbers(scores: dict[str, DiceScores], difference: PairedDifference) -> list[str]:
    values = {name: [float(np.nanmean(score.per_case)), *score.per_label] for name, score in scores.items()}
    highest = np.nanmax(np.array(list(values.values())), axis=0)
    labels = scores[_BASELINE].labels
    rows = [[name, *(_cell(value) for value in row)] for name, row in values.items()]
    best = [[False, *(bool(value == top) for value, top in zip(row, highest, strict=True))] for row in values.values()]
    return [
        "<h2>Dice on the unseen cases</h2>",
        table(["trainer", "mean", *labels], rows, best),
        paragraph(
            f"{_METHOD} is better on {difference.n_better} of {difference.n_cases} cases. Mean difference "
            f"{difference.mean:+.3f} Dice, 95 % interval over the cases {difference.low:+.3f} to "
            f"{difference.high:+.3f}."
        ),
        "<h3>Case by case, mean over the structures</h3>",
        legend(list(scores)),
        paired_dots(
            scores[_BASELINE].cases,
            {name: [float(value) for value in score.per_case] for name, score in scores.items()},
            label="Dice of both trainers on every unseen case",
        ),
    ]


def _pictures(demo: Demo, scores: dict[str, DiceScores]) -> list[str]:
    parts = [
        "<h2>What they look like</h2>",
        paragraph(
            "The cases with the largest, the median and the smallest difference between the two. Colours are the "
            "segmentation, white lines on the predictions are the borders of the truth."
        ),
    ]
    dataset = json.loads((demo.raw / "dataset.json").read_text())
    names = label_names(dataset["labels"])
    parts.append(color_key(list(names.values()), [PALETTE[(label - 1) % len(PALETTE)] for label in names]))
    gain = scores[_METHOD].per_case - scores[_BASELINE].per_case
    order = np.argsort(-gain)[: np.isfinite(gain).sum()]
    for row in dict.fromkeys([int(order[0]), int(order[len(order) // 2]), int(order[-1])]):
        case = scores[_BASELINE].cases[row]
        dice = {name: _cell(score.per_case[row]) for name, score in scores.items()}
        parts.append(f"<h3>{escape(case)}, difference {gain[row]:+.3f}</h3>")
        parts += _case_strips(demo, dataset, case, dice)
    return parts


def label_names(labels: dict[str, int | list[int]]) -> dict[int, str]:
    """Name of every value in a label file but 0, ascending; of nested regions the smallest that holds the value."""
    regions = [(name, label if isinstance(label, list) else [label]) for name, label in labels.items()]
    names: dict[int, str] = {}
    for name, values in sorted(regions, key=lambda region: -len(region[1])):
        names |= {value: name for value in values if value > 0}
    return dict(sorted(names.items()))


def _case_strips(demo: Demo, dataset: dict[str, Any], case: str, dice: dict[str, str]) -> list[str]:
    """One row of pictures a plane: image, truth, and each prediction over the truth's borders."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    ending = dataset["file_ending"]
    images = sorted((demo.raw / "imagesTs").glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{ending}"))
    reader = determine_reader_writer_from_dataset_json(dataset, str(images[0]), verbose=False)()
    voxels, properties = reader.read_images([str(image) for image in images])
    image, spacing = voxels[0], properties["spacing"]
    truth = reader.read_seg(str(demo.raw / "labelsTs" / f"{case}{ending}"))[0][0].astype(int)
    predicted = {
        name: reader.read_seg(str(demo.predictions(name) / f"{case}{ending}"))[0][0].astype(int) for name in dice
    }
    strips = []
    for plane in telling_planes(truth):
        what = f"{plane.name} slice {plane.index} of {case}"
        pictures = [
            figure(overlay(image, plane, spacing), f"image, {plane.name}", what),
            figure(overlay(image, plane, spacing, filled=truth), "truth", f"truth on {what}"),
        ]
        for name, labels in predicted.items():
            picture = overlay(image, plane, spacing, filled=labels, outlined=truth)
            pictures.append(
                figure(picture, f"{name.removeprefix('nnUNetTrainer')}, Dice {dice[name]}", f"{name}, {what}")
            )
        strips.append(f"<div class='strip'>{''.join(pictures)}</div>")
    return strips


def _curves(demo: Demo) -> list[str]:
    logs = {name: read_checkpoint(demo.fold_folder(name) / FINAL)["logging"] for name in TRAINERS}

    def compare(key: str, label: str) -> str:
        series = [
            Series(name, [(epoch, float(value)) for epoch, value in enumerate(log[key])], color)
            for color, (name, log) in enumerate(logs.items())
        ]
        return f"<div><h3>{label}</h3>{line_chart(series, label=label)}</div>"

    parts = [
        "<h2>How they trained</h2>",
        legend(list(TRAINERS)),
        "<div class='grid'>",
        compare("train_losses", "Supervised loss on the labelled cases"),
        compare("mean_fg_dice", "Pseudo Dice on the labelled cases"),
        "</div>",
    ]
    with (demo.fold_folder(_METHOD) / "semisup_log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    panels = {kind: "".join(_panel(rows, name) for name in rows[0] if name.startswith(f"{kind}/")) for kind in _KINDS}
    shown = [f"<h3>{_KINDS[kind]}</h3><div class='grid'>{panels[kind]}</div>" for kind in _KINDS]
    parts.append(f"<h3>What {_METHOD} wrote to semisup_log.csv</h3>")
    parts += shown[:2]
    parts.append(f"<details><summary>Weights and gradients</summary>{''.join(shown[2:])}</details>")
    return parts


def _panel(rows: list[dict[str, str]], column: str) -> str:
    name = column.split("/", 1)[1]
    points = [(float(row["epoch"]), float(row[column])) for row in rows if row[column]]
    return f"<div><p class='small'>{escape(name)}</p>{line_chart([Series(name, points, 1)], label=column)}</div>"


def _commands(demo: Demo) -> list[str]:
    lines = [f"cd {shlex.quote(str(demo.folder))}"]
    lines += [f'export {name}="$PWD/{name}"' for name in FOLDERS]
    lines += ['export nnUNet_extTrainer="$(nnUNetv2_semisup trainers)"', ""]
    for step in demo.finished:
        minutes, seconds = divmod(round(step.seconds), 60)
        lines += [f"# {step.title}: {minutes}:{seconds:02d}", *([step.command] if step.command else []), ""]
    small = json.loads((demo.folder / "nnUNet_preprocessed" / demo.dataset / f"{SMALL_PLANS}.json").read_text())
    settings = small["configurations"][demo.configuration]
    patch = " x ".join(map(str, settings["patch_size"]))
    features = ", ".join(map(str, settings["architecture"]["arch_kwargs"]["features_per_stage"]))
    return [
        "<h2>What was run</h2>",
        paragraph(
            "Stock nnU-Net commands and three of ours. The one thing that a real use does not do is to choose a small "
            f"network: {SMALL_PLANS}.json is nnU-Net’s own plan with {features} features, patches of {patch} and batch "
            "size 2, so that a laptop trains it in minutes."
        ),
        f"<pre>{escape(chr(10).join(lines).rstrip())}</pre>",
    ]


def _meaning(demo: Demo, difference: PairedDifference) -> list[str]:
    if difference.low > 0:
        verdict = (
            "On these cases the unlabelled images helped: the interval of the difference lies above 0. "
            "That holds for these cases and this one training each; another seed would give other numbers."
        )
    elif difference.high < 0:
        verdict = (
            f"{_METHOD} did worse than the same training without unlabelled images. On this task it does not help."
        )
    else:
        verdict = (
            f"The interval of the difference contains 0: from these {difference.n_cases} cases one cannot say whether "
            f"{_METHOD} helps on this task."
        )
    steps = int(TRAINING["num_epochs"] * TRAINING["num_iterations_per_epoch"])
    kind = "Synthetic patients are no evidence about real ones." if demo.source is None else "The network is a toy."
    return [
        "<h2>What it means</h2>",
        paragraph(verdict),
        paragraph(
            f"{kind} Each network was trained once, for {steps} steps; nnU-Net’s default is 250,000 with a network "
            "many times as large. The page shows that the chain works and what it leaves behind. Numbers on real MRI, "
            "over several seeds, are in the documentation of nnunetv2_semisup."
        ),
    ]


def _cell(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
