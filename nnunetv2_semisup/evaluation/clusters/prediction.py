"""Sliding-window cluster maps on the grid of the image, by nnU-Net's own predictor."""

from __future__ import annotations

import math
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, insert_crop_into_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_semisup.evaluation.clusters.model import ClusterModel
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.networks.features import forward_with_features

# nnU-Net adds up windows in half precision, with weights from 6e-8, half's smallest number, at the corners to at most
# about 80, where eight windows nearly coincide. Between a floor and 0, and enlarged, log-probabilities survive both.
_FLOOR = -25.0
_SCALE = 32.0


class ClusterNetwork(nn.Module):
    """A network whose output is the assignment to clusters: what nnU-Net's predictor takes for class logits."""

    def __init__(self, network: nn.Module, heads: nn.ModuleList, tap: int) -> None:
        """Read the features of `network` at `tap` with every head."""
        super().__init__()
        self.network = network
        self.heads = heads
        self.tap = tap

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, S * K, *spatial] of images [B, C, *spatial]: _SCALE times the log-probabilities of all S heads."""
        _, (features,) = forward_with_features(self.network, x, [self.tap])
        with torch.autocast(x.device.type, enabled=False):
            logits = [head.layers(features.float()) for head in self.heads]  # type: ignore[operator]  # ClusterHeads
            return torch.cat([self._assignment(each, x) for each in logits], dim=1)

    @staticmethod
    def _assignment(logits: Tensor, x: Tensor) -> Tensor:
        if logits.shape[2:] != x.shape[2:]:
            mode = "trilinear" if x.ndim == 5 else "bilinear"
            logits = F.interpolate(logits, size=x.shape[2:], mode=mode, align_corners=False)
        return _SCALE * logits.log_softmax(dim=1).clamp_min(_FLOOR)


@dataclass(frozen=True)
class CaseClusters:
    """What a model says of an image, on the image's grid.

    Attributes:
        maps: of each sub-head, clusters from 0 [*S].
        entropies: of each sub-head, the entropy of the assignment as a share of its maximum [*S]; 0 outside the part
            of the image that nnU-Net looks at. None where they were not asked for.
    """

    maps: list[npt.NDArray[np.integer[Any]]]
    entropies: list[npt.NDArray[np.float32]] | None


class ClusterPredictor:
    """nnU-Net's predictor around a model's network and heads."""

    def __init__(self, model: ClusterModel, device: torch.device) -> None:
        """Set nnU-Net up as for a segmentation into all clusters of all sub-heads, so that one pass serves them all."""
        self.reader = PlansManager(model.plans).image_reader_writer_class()
        self._clusters = model.clusters
        self._sub_heads = len(model.heads)
        with redirect_stdout(StringIO()):
            self._predictor = nnUNetPredictor(
                use_mirroring=False,
                perform_everything_on_device=device.type == "cuda",
                device=device,
                allow_tqdm=False,
            )
        network = ClusterNetwork(model.network, model.heads, model.tap).eval()
        plans = PlansManager(model.plans)
        self._predictor.manual_initialization(
            network,
            plans,
            plans.get_configuration(model.configuration),
            [network.state_dict()],
            _labels(model.dataset_json, self._clusters * self._sub_heads),
            model.trainer,
            None,
        )
        self._label_manager = plans.get_label_manager(_labels(model.dataset_json, self._clusters))

    def predict(self, image: npt.NDArray[np.float32], properties: dict[str, Any], entropy: bool) -> CaseClusters:
        """Maps of an image [C, *S] as nnU-Net's reader returns it, with its properties, to which nnU-Net adds some."""
        p = self._predictor
        preprocessor = p.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, p.plans_manager, p.configuration_manager, p.dataset_json
        )
        everything = p.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        maps, entropies = [], []
        for logits in everything.split(self._clusters):
            clusters = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, p.plans_manager, p.configuration_manager, self._label_manager, properties
            )
            maps.append(self._with_outside(clusters, image, properties))
            if entropy:
                share = shannon_entropy((logits.float() / _SCALE).softmax(dim=0), dim=0) / math.log(self._clusters)
                entropies.append(self._on_image_grid(share[None], properties))
        return CaseClusters(maps, entropies if entropy else None)

    def _with_outside(
        self, clusters: npt.NDArray[np.integer[Any]], image: npt.NDArray[np.float32], properties: dict[str, Any]
    ) -> npt.NDArray[np.integer[Any]]:
        """Give what nnU-Net crops away, where every channel is 0, the cluster of such voxels in the rest.

        nnU-Net fills it with 0, which is background in a segmentation, but here a cluster like any other. It stays 0
        where the rest has no such voxel.
        """
        inside = np.zeros(properties["shape_before_cropping"], bool)
        inside[bounding_box_to_slice(properties["bbox_used_for_cropping"])] = True
        inside = inside.transpose(self._predictor.plans_manager.transpose_backward)
        empty = inside & (image == 0).all(axis=0)
        if empty.any():
            clusters[~inside] = np.bincount(clusters[empty]).argmax()
        return clusters

    def _on_image_grid(self, values: Tensor, properties: dict[str, Any]) -> npt.NDArray[np.float32]:
        """Numbers [1, *preprocessed] resampled as nnU-Net resamples logits, and put back into the image's grid [*S]."""
        plans, configuration = self._predictor.plans_manager, self._predictor.configuration_manager
        spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
        shape = properties["shape_after_cropping_and_before_resampling"]
        # A 2D configuration leaves the distance between slices as it is.
        current = [*spacing[: len(shape) - len(configuration.spacing)], *configuration.spacing]
        resampled = configuration.resampling_fn_probabilities(values, shape, current, spacing)
        whole = np.zeros(properties["shape_before_cropping"], np.float32)
        whole = insert_crop_into_image(whole, np.asarray(resampled)[0], properties["bbox_used_for_cropping"])
        return np.asarray(whole.transpose(plans.transpose_backward))


def _labels(dataset_json: dict[str, Any], clusters: int) -> dict[str, Any]:
    """The dataset as one whose classes are clusters; nnU-Net wants the first to be called background."""
    names = ["background", *(f"cluster {cluster}" for cluster in range(1, clusters))]
    kept = {key: value for key, value in dataset_json.items() if key != "regions_class_order"}
    return kept | {"labels": {name: cluster for cluster, name in enumerate(names)}}
