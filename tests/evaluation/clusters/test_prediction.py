"""Cluster maps lie on the image's own voxels, whatever its spacing, direction, orientation in the plans and borders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import binary_dilation, binary_erosion

from nnunetv2_semisup.evaluation.clusters.model import ClusterModel, load_cluster_model
from nnunetv2_semisup.evaluation.clusters.prediction import ClusterPredictor
from nnunetv2_semisup.networks.features import forward_with_features
from tests.evaluation.clusters.models import make_model
from tests.pretended_gpu import GPU, pretended_gpu
from tests.workspace import DATASET, make_workspace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def intensity(toy) -> Path:
    """A model whose clusters depend on a voxel's intensity alone: 1 where it is bright; in the second head 0."""
    return make_model(toy, name="intensity", intensity=True)


def oblique(file: Path, border: int = 0) -> np.ndarray:
    """Write an anisotropic, oblique image that is unlike its mirror images; returns where it is bright."""
    shape = (10, 22, 26)
    bright = np.zeros(shape, bool)
    bright[2:6, 4:12, 5:20] = True
    bright[6:8, 12:17, 5:10] = True
    voxels = np.random.default_rng(0).normal(100, 3, shape) + 400 * bright
    if border:
        outside = np.ones(shape, bool)
        outside[:, border:-border, border:-border] = False
        # Within the rectangle that nnU-Net keeps there are empty voxels too.
        outside[:, border : border + 2, border : border + 4] = True
        voxels[outside] = 0
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((3.1, 2.2, 4.5))
    image.SetOrigin((-31.5, 12.25, 7.0))
    transform = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    image.SetDirection(transform.GetMatrix())
    sitk.WriteImage(image, str(file))
    return bright


def predict(model_folder: Path, file: Path, entropy: bool = False, device: torch.device = CPU):
    model = load_cluster_model(model_folder, "0")
    predictor = ClusterPredictor(model, device)
    image, properties = predictor.reader.read_images([str(file)])
    return predictor.predict(image, properties, entropy)


@torch.no_grad()
def direct(model: ClusterModel, data: np.ndarray) -> list[torch.Tensor]:
    """What each head says of preprocessed data [C, *S] that are one window: logits [K, *S]."""
    x = torch.from_numpy(data)[None]
    _, (features,) = forward_with_features(model.network, x, [model.tap])
    coarse = [head.layers(features) for head in model.heads]
    assert (coarse[0].shape[2:] == x.shape[2:]) == (model.tap == -1)
    return [torch.nn.functional.interpolate(logits, size=x.shape[2:], mode="trilinear")[0] for logits in coarse]


def changed_plans(model_folder: Path, target: Path, **changes) -> Path:
    """A copy of a model folder with other plans."""
    shutil.copytree(model_folder, target)
    plans = json.loads((target / "plans.json").read_text())
    (target / "plans.json").write_text(json.dumps(plans | changes))
    return target


@pytest.mark.parametrize("transposed", [False, True])
def test_clusters_lie_where_the_intensities_are(intensity: Path, tmp_path: Path, transposed: bool):
    bright = oblique(tmp_path / "case_0000.nii.gz")
    if transposed:
        intensity = changed_plans(
            intensity, tmp_path / "model", transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0]
        )
    found = predict(intensity, tmp_path / "case_0000.nii.gz", entropy=True)
    first, second = found.maps
    inner, outer = binary_erosion(bright, np.ones((3, 3, 3))), binary_dilation(bright, np.ones((3, 3, 3)))
    assert inner.any()
    for clusters, expected in ((first, 1), (second, 0)):
        assert set(np.unique(clusters)) == {0, 1}
        assert (clusters[inner] == expected).all()
        assert (clusters[~outer] == 1 - expected).all()
        assert ((clusters == expected) == bright).mean() > 0.97
    for entropy in found.entropies:
        assert entropy.shape == bright.shape
        assert entropy[outer & ~inner].mean() > 3 * max(entropy[inner].mean(), entropy[~outer].mean())
        assert entropy.min() >= -1e-6
        assert entropy.max() <= 1 + 1e-6


def test_a_gpu_gives_the_same_maps(intensity: Path, tmp_path: Path):
    oblique(tmp_path / "case_0000.nii.gz")
    expected = predict(intensity, tmp_path / "case_0000.nii.gz", entropy=True)
    with pretended_gpu():
        found = predict(intensity, tmp_path / "case_0000.nii.gz", entropy=True, device=GPU)
    for a, b in zip(found.maps, expected.maps, strict=True):
        assert (a == b).mean() > 0.999
    for a, b in zip(found.entropies, expected.entropies, strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)


def test_what_nnunet_crops_away_has_the_cluster_of_empty_voxels(intensity: Path, tmp_path: Path):
    bright = oblique(tmp_path / "case_0000.nii.gz", border=3)
    found = predict(intensity, tmp_path / "case_0000.nii.gz")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case_0000.nii.gz")))
    first, second = found.maps
    # In the second head the dark voxels are cluster 1, which nnU-Net would not write there.
    assert (second[voxels == 0] == 1).mean() > 0.99
    assert (second[:, :3] == 1).all()
    assert (first[:, :3] == 0).all()
    inner = binary_erosion(bright & (voxels > 0))
    assert (first[inner] == 1).all()


@pytest.mark.parametrize(("head", "tap"), [("linear", -1), ("mlp", -1), ("linear", -2)])
def test_equal_to_the_network_itself_where_nothing_is_resampled(toy, head: str, tap: int, tmp_path: Path):
    """One window, the spacing of the plans, random weights: every voxel is what the heads say."""
    folder = make_model(toy, name=f"direct_{head}{tap}", head=head, tap=tap, count=5)
    model = load_cluster_model(folder, "0")
    configuration = PlansManager(model.plans).get_configuration("3d_fullres")
    file = tmp_path / "case_0000.nii.gz"
    voxels = np.random.default_rng(1).normal(100, 20, configuration.patch_size).astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(configuration.spacing[::-1])
    sitk.WriteImage(image, str(file))
    predictor = ClusterPredictor(model, CPU)
    voxels, properties = predictor.reader.read_images([str(file)])
    found = predictor.predict(voxels, properties, entropy=True)

    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, _ = preprocessor.run_case([str(file)], None, PlansManager(model.plans), configuration, model.dataset_json)
    for clusters, entropy, logits in zip(found.maps, found.entropies, direct(model, data), strict=True):
        p = logits.softmax(0)
        margin = p.log().topk(2, dim=0).values.diff(dim=0).abs()[0].numpy()
        same = clusters == logits.argmax(0).numpy()
        # In the corners nnU-Net's weight is half precision's smallest number, which rounds logits to 1/32.
        assert same[margin > 0.04].all()
        assert same.mean() > 0.99
        np.testing.assert_allclose(entropy, -(p * p.log()).sum(0).numpy() / np.log(5), atol=0.01)


def test_large_logits_do_not_overflow_half_precision(toy, tmp_path: Path):
    folder = make_model(toy, name="loud", intensity=True)
    model = load_cluster_model(folder, "0")
    with torch.no_grad():
        for head in model.heads:
            head.layers.weight *= 1e4
    bright = oblique(tmp_path / "case_0000.nii.gz")
    predictor = ClusterPredictor(model, CPU)
    image, properties = predictor.reader.read_images([str(tmp_path / "case_0000.nii.gz")])
    first = predictor.predict(image, properties, entropy=False).maps[0]
    assert ((first == 1) == bright).mean() > 0.97


@pytest.mark.parametrize("png", [False, True])
def test_2d_configurations(tmp_path: Path, png: bool):
    """Slices of a volume, and RGB pictures."""
    options = {"shape": (48, 56), "spacing": (1, 1), "channels": 3, "file_ending": ".png"} if png else {}
    workspace = make_workspace(tmp_path / "work", configurations=("2d",), n_unlabeled=1, **options)
    folder = make_model(workspace, configuration="2d", intensity=True)
    files = sorted((workspace.root / "raw" / DATASET / "imagesTs").iterdir())
    model = load_cluster_model(folder, "0")
    predictor = ClusterPredictor(model, CPU)
    image, properties = predictor.reader.read_images([str(file) for file in files])
    assert len(image) == model.channels
    found = predictor.predict(image, properties, entropy=True)
    channel = image[0]
    for clusters, entropy in zip(found.maps, found.entropies, strict=True):
        assert clusters.shape == entropy.shape == image.shape[1:]
    means = [channel[found.maps[0] == cluster].mean() for cluster in (0, 1)]
    assert means[1] > 1.5 * means[0]
    assert (found.maps[0] + found.maps[1] == 1).mean() > 0.99
