"""How much of what a network says comes from below each level: a pre-training's clusters, and nnU-Net's segmentation.

    python benchmarks/depth.py --data FOLDER --work FOLDER --dataset 804 --arms bim scratch --seeds 1 -device cpu

FOLDER as in benchmarks/pretraining.py, whose trainings are used, and run where they are missing: the pre-training of
an arm, or for `scratch` the supervised training. Patches around foreground of the validation cases are predicted twice,
the second time with zeros in place of what a decoder stage gets from below. "Kept" is the Dice of the two maps, mean
over the clusters in use of the first sub-head, or over the foreground classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cluster_quality import CLUSTERED, validation_patches
from pretraining import METHOD, RATE, fine_tuned, pretrained
from quality import dice, prepare, runs_parser, set_environment
from table import publish
from torch import Tensor, nn

from nnunetv2_semisup.evaluation.clusters.model import load_cluster_model
from nnunetv2_semisup.networks.features import Levels, forward_with_features
from nnunetv2_semisup.networks.from_plans import network_from_plans
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint

Predict = Callable[[Tensor], Tensor]


def segmentation(model_folder: Path) -> tuple[Any, Predict]:
    """The network of a finished training, and the labels that it gives to patches [B, C, *spatial]."""
    plans, dataset_json = (json.loads((model_folder / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    network: nn.Module = network_from_plans(plans, "3d_fullres", dataset_json)
    checkpoint = read_checkpoint(model_folder / "fold_0" / "checkpoint_final.pth")
    network.load_state_dict(checkpoint["network_weights"])
    return network, lambda patches: network(patches).argmax(1)


def clusters(model_folder: Path) -> tuple[Any, Predict]:
    """The network of a finished pre-training, and the clusters of its first sub-head, from 1."""
    model = load_cluster_model(model_folder, "0")

    def predict(patches: Tensor) -> Tensor:
        _, (features,) = forward_with_features(model.network, patches, [model.tap])
        return 1 + model.heads[0](features).argmax(1)

    return model.network, predict


@torch.no_grad()
def kept(network: Any, predict: Predict, patches: Tensor) -> Iterator[tuple[int, float]]:
    """For each decoder stage, its number and the Dice of the answers with and without what it gets from below."""
    network.eval()
    whole = predict(patches).numpy()
    for stage, upsampling in enumerate(network.decoder.transpconvs):
        handle = upsampling.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        without = predict(patches).numpy()
        handle.remove()
        yield stage, float(np.mean([dice(whole == value, without == value) for value in np.unique(whole) if value]))


def main() -> None:
    parser = runs_parser(__doc__, ["scratch", *CLUSTERED], (0,))
    parser.add_argument("--labels", type=int, default=4, help="labelled cases of the supervised training")
    parser.add_argument("--epochs", type=int, default=60, help="its length")
    parser.add_argument("-device", default="cpu")
    parser.set_defaults(rate=RATE, method=METHOD)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    set_environment(args.data, args.work)
    prepare(args.dataset)
    patches = validation_patches(args.dataset)
    rows = []
    for seed in args.seeds:
        for arm in args.arms:
            if arm == "scratch":
                network, predict = segmentation(fine_tuned(args, arm, args.epochs, seed).parent)
            else:
                network, predict = clusters(pretrained(args.dataset, arm, seed, args.device).parents[1])
            strides = [str(max(stride)) for stride in Levels.of(network).strides]
            rows += [
                {
                    "answers": arm,
                    "seed": seed,
                    "without strides": " ".join(strides[: stage + 1]),
                    "kept": f"{share:.3f}",
                }
                for stage, share in kept(network, predict, patches)
            ]
    publish(rows, args.output)


if __name__ == "__main__":
    main()
