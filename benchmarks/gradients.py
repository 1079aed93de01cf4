"""What each term's gradient weighs against the supervised one, at the last checkpoint of finished runs.

    python benchmarks/gradients.py --data FOLDER --work FOLDER --dataset 804 --arms mireg-4 --seeds 0 -o gradients.csv

FOLDER and runs as in benchmarks/quality.py. Of the student's parameters together: the norm of the gradient of nnU-Net's
loss on labelled batches, of each weighted term, and the cosine of both, means over batches. Terms that take their
gradients part by part (cells) are measured together, under the name of the last one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import ARMS, run_folder, runs_parser, set_environment, trainer_of
from table import publish
from torch import Tensor

from nnunetv2_semisup.methods import trainer_class
from nnunetv2_semisup.networks.features import unwrapped
from nnunetv2_semisup.regularizers.base import Labeled, Outcome, Regularizer, Step
from nnunetv2_semisup.training.checkpoint import SECTION, restore


def trained(arm: str, fold: Path, results: str) -> Any:
    """A trainer with the weights of a finished run, its loaders running; it writes into `results`."""
    model = fold.parent
    checkpoint = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    plans = json.loads((model / "plans.json").read_text()) | {"continue_training": False}
    os.environ["nnUNet_results"] = results
    dataset_json = json.loads((model / "dataset.json").read_text())
    trainer: Any = trainer_class(trainer_of(ARMS[arm][0]))(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.on_train_start()
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    unwrapped(trainer.network).load_state_dict(checkpoint["network_weights"])
    restore(trainer, checkpoint[SECTION])
    trainer._first_of_epoch = False
    return trainer


class OneTerm:
    """Stands before a regularizer's forward and lets one of its terms through."""

    def __init__(self, regularizer: Regularizer, term: str) -> None:
        """Take the place of the regularizer's forward."""
        self._forward = type(regularizer).forward.__get__(regularizer)
        self._term = term
        regularizer.forward = self  # type: ignore[method-assign,assignment]

    def __call__(self, step: Step) -> Outcome:
        """The outcome with one term, or none."""
        outcome: Outcome = self._forward(step)
        return replace(outcome, terms={n: term for n, term in outcome.terms.items() if n == self._term})


def gradient(trainer: Any) -> Tensor:
    """Of all parameters of the network, as one vector."""
    parameters = unwrapped(trainer.network).parameters()
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def measure(trainer: Any, batches: int) -> list[dict[str, object]]:
    """Norms and cosines by term."""
    terms = [(r, name) for r in trainer.heads for name, weight in r.weights.items() if weight > 0]
    found: dict[str, list[tuple[float, float]]] = {"supervised": []}
    for _ in range(batches):
        batch, unlabeled = next(trainer.dataloader_train), next(trainer.dataloader_unlabeled)
        trainer._zero_gradients()
        trainer._supervised_backward(trainer.network, batch["data"], batch["target"])
        supervised = gradient(trainer)
        found["supervised"].append((supervised.norm().item(), 1.0))
        features = leaf = None
        if trainer._reads_labeled_features:
            _, features = trainer._forward_in_training(unwrapped(trainer.network), batch["data"])
            leaf = features.detach().requires_grad_()
        labeled = Labeled(batch["data"], batch["target"][0], leaf)
        draws = trainer.generator.get_state()
        for regularizer, name in terms:
            OneTerm(regularizer, name)
            trainer.generator.set_state(draws)
            trainer._zero_gradients()
            trainer._unlabeled_backward(unlabeled, labeled, factor=1.0)
            if features is not None and leaf is not None:
                features.backward(leaf.grad, retain_graph=True)
                leaf.grad = None
            ours = gradient(trainer)
            cosine = torch.nn.functional.cosine_similarity(ours, supervised, dim=0).item()
            found.setdefault(name, []).append((ours.norm().item(), cosine))
    base = float(np.mean([norm for norm, _ in found["supervised"]]))
    rows: list[dict[str, object]] = []
    for name, values in found.items():
        norm, cosine = np.mean(values, axis=0)
        rows.append(
            {"term": name, "norm": f"{norm:.4f}", "/ supervised": f"{norm / base:.3f}", "cosine": f"{cosine:+.2f}"}
        )
    return rows


def main() -> None:
    parser = runs_parser(__doc__, ARMS, (0,))
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, help="also write the table there")
    args = parser.parse_args()
    set_environment(args.data, args.work)
    os.environ["nnUNet_n_proc_DA"] = "0"
    folds = {(arm, seed): run_folder(args.dataset, arm, seed) for arm in args.arms for seed in args.seeds}
    rows = []
    for (arm, seed), fold in folds.items():
        with tempfile.TemporaryDirectory() as results, contextlib.redirect_stdout(io.StringIO()):
            measured = measure(trained(arm, fold, results), args.batches)
        rows += [{"arm": arm, "seed": seed} | row for row in measured]
    publish(rows, args.output)


if __name__ == "__main__":
    main()
