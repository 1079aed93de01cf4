"""A synthetic abdomen in nnU-Net's raw format: for the demo, and small and fast enough for tests.

Every patient is the same anatomy seen through its own deformation, contrast, texture, bias field and noise. Anatomy is
described in coordinates (z, y, x) of about -1 to 1, so one description serves any size; a 2D dataset is one slice.
Beside the labelled structures lie unlabelled ones of similar intensity (spleen, bowel, gall bladder): intensity alone
does not segment.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.errors import SemiSupervisedError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LABELS = {"background": 0, "liver": 1, "kidney": 2, "vessel": 3, "lesion": 4}
"""Names and values of the labels, as in dataset.json."""

_GROUPS = ("labeled", "unlabeled", "test")
# Mean intensity of each tissue in the first channel; further channels draw their own.
_TISSUES = {
    "air": 0.02, "fat": 0.75, "muscle": 0.28, "bone": 0.14, "liver": 0.48, "kidney": 0.64, "vessel": 0.82,
    "lesion": 0.32, "spleen": 0.60, "bowel": 0.58, "gallbladder": 0.34,
}  # fmt: skip
_FIELD_OF_VIEW = (1.0, 0.85, 1.0)  # the image shows -1 to 1 times this: bodies are wider than deep
_CODES = {tissue: code for code, tissue in enumerate(_TISSUES)}


def make_dataset(
    folder: Path,
    *,
    n_labeled: int = 3,
    n_unlabeled: int = 20,
    n_test: int = 6,
    shape: Sequence[int] = (40, 64, 64),
    spacing: Sequence[float] = (3.0, 2.5, 2.5),
    seed: int = 0,
    channels: int = 1,
    file_ending: str = ".nii.gz",
) -> None:
    """Writes a raw nnU-Net dataset: imagesTr, labelsTr, imagesUn, imagesTs, labelsTs (its truth), dataset.json.

    Args:
        folder: the dataset's folder, DatasetXXX_NAME; it may exist, empty.
        n_labeled: cases labeled_000, labeled_001, ... in imagesTr and labelsTr.
        n_unlabeled: cases unlabeled_000, ... in imagesUn; no label is written anywhere.
        n_test: cases test_000, ... in imagesTs, their truth in labelsTs.
        shape: voxels along (z, y, x), or (y, x) for a 2D dataset.
        spacing: millimetres along the same axes.
        seed: a case depends on the seed, its name, its shape and its number of channels, on nothing else.
        channels: images a case; of a PNG, 1 (grey) or 3 (RGB in one file).
        file_ending: ".nii.gz", or ".png" for a 2D dataset.

    Raises:
        SemiSupervisedError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SemiSupervisedError(f"{folder} is not empty; name a new folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    image_folders = {"labeled": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
    label_folders = {"labeled": "labelsTr", "test": "labelsTs"}
    for group, count in zip(_GROUPS, (n_labeled, n_unlabeled, n_test), strict=True):
        for index in range(count):
            case = f"{group}_{index:03d}"
            image, label = make_patient(shape, seed=seed, group=group, index=index, channels=channels)
            _write_image(partial / image_folders[group], case, image, spacing, file_ending)
            if group in label_folders:
                _write(partial / label_folders[group] / f"{case}{file_ending}", label, spacing)
    _write_dataset_json(partial, n_labeled, channels, file_ending)
    os.replace(partial, folder)


def make_patient(
    shape: Sequence[int], *, seed: int, group: str, index: int, channels: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """One patient: image [C, *shape], intensities from about 0 to 1000, and its label [*shape]."""
    rng = np.random.default_rng([seed, _GROUPS.index(group), index])
    tissue, label = _anatomy(tuple(shape), rng)
    image = np.stack([_acquire(tissue, first=channel == 0, rng=rng) for channel in range(channels)])
    return image.astype(np.float32), label


def _anatomy(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Tissue codes and labels [*shape] of one patient, painted from the outside to the inside."""
    lesion_level = rng.uniform(-0.3, 0.25)
    p = _coordinates(shape, lesion_level, rng)
    tissue = np.full(shape, _CODES["air"], np.uint8)

    def paint(name: str, where: Mask) -> Mask:
        inside: Mask = where & (tissue != _CODES["air"])
        tissue[inside] = _CODES[name]
        return inside

    body = _ellipsoid(p, (0, 0, 0), (3.0, 0.78, 0.94), rng, jitter=0.05)
    tissue[body] = _CODES["fat"]
    paint("muscle", _ellipsoid(p, (0, 0, 0), (3.0, 0.66, 0.83), rng, jitter=0.05))
    paint("bone", _ellipsoid(p, (0, 0.50, 0), (3.0, 0.15, 0.16), rng))
    liver = _ellipsoid(p, (-0.1, -0.02, -0.42), (0.62, 0.48, 0.32), rng)
    liver |= _ellipsoid(p, (-0.15, -0.28, -0.12), (0.4, 0.24, 0.36), rng)
    liver = paint("liver", liver)
    paint("spleen", _ellipsoid(p, (-0.25, 0.15, 0.58), (0.42, 0.26, 0.15), rng, jitter=0.2))
    paint("gallbladder", _ellipsoid(p, (0.22, -0.30, -0.22), (0.16, 0.13, 0.11), rng, jitter=0.2))
    for _ in range(rng.integers(2, 5)):
        start = np.array([rng.uniform(0.0, 0.8), rng.uniform(-0.45, -0.05), rng.uniform(-0.1, 0.5)])
        paint("bowel", _capsule(p, start, start + rng.normal(0, 0.25, 3), rng.uniform(0.07, 0.11)))

    aorta = np.array([0.0, 0.24, 0.06]) + rng.normal(0, 0.02, 3)
    kidneys = np.zeros(shape, bool)
    vessel = np.zeros(shape, bool)
    for side in (-1, 1):
        centre = np.array([rng.normal(0.12, 0.08), 0.30 + rng.normal(0, 0.03), side * (0.42 + rng.normal(0, 0.03))])
        hilum = centre - (0, 0.04, side * 0.17)
        kidneys |= _ellipsoid(p, centre, (0.38, 0.17, 0.16), rng) & ~_ellipsoid(p, hilum, (0.14, 0.1, 0.1), rng)
        branch_level = np.array([centre[0] + rng.normal(0, 0.06), 0, 0])
        vessel |= _capsule(p, aorta + branch_level, hilum, rng.uniform(0.045, 0.06))
    kidneys = paint("kidney", kidneys)
    bend, phase, radius = rng.uniform(0.02, 0.07), rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.12)
    centre_line = (aorta[1] + bend * np.cos(2 * p[0] + phase), aorta[2] + bend * np.sin(2 * p[0] + phase))
    vessel |= np.hypot(p[1] - centre_line[0], p[2] - centre_line[1]) < radius
    vessel = paint("vessel", vessel)
    lesion_centre = (lesion_level, rng.uniform(-0.15, 0.1), rng.uniform(-0.52, -0.3))
    lesion = paint("lesion", _ellipsoid(p, lesion_centre, (0.22, 0.16, 0.16), rng, jitter=0.2))

    label = np.zeros(shape, np.uint8)
    for name, mask in {"liver": liver, "kidney": kidneys, "vessel": vessel, "lesion": lesion}.items():
        label[mask] = LABELS[name]
    return tissue, label


def _acquire(tissue: npt.NDArray[np.uint8], *, first: bool, rng: np.random.Generator) -> Array:
    """One channel of a scan: this patient's contrast, tissue texture, partial volume, bias field and noise."""
    means = np.array(list(_TISSUES.values()))
    if not first:
        means = np.concatenate([means[:1], rng.permutation(means[1:])])
    means = means + rng.normal(0, 0.04, means.shape) * (means > 0.1)
    image = means[tissue] ** rng.uniform(0.8, 1.25)
    image += (tissue != _CODES["air"]) * (
        0.025 * _noise(tissue.shape, 1.0, rng) + 0.025 * _noise(tissue.shape, 2.5, rng)
    )
    image = _smooth(image, rng.uniform(0.5, 0.9))
    bias = 1 + rng.uniform(0.08, 0.16) * _noise(tissue.shape, max(tissue.shape) / 4, rng)
    noisy = np.abs(image * bias + rng.uniform(0.03, 0.06) * rng.standard_normal(tissue.shape))
    return 1000 * noisy


def _coordinates(shape: tuple[int, ...], level: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """The anatomical coordinates (z, y, x) of every voxel: a patient's pose, size and smooth deformation."""
    views = _FIELD_OF_VIEW[-len(shape) :]
    axes = [((np.arange(size) + 0.5) / size * 2 - 1) * view for size, view in zip(shape, views, strict=True)]
    if len(shape) == 2:
        axes = [np.array([level]), *axes]
    grid = np.meshgrid(*axes, indexing="ij")
    angle = rng.normal(0, 0.08)
    z, y, x = (axis + rng.normal(0, 0.04) for axis in grid)
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    deformed = [
        (axis / rng.uniform(0.9, 1.05)).reshape(shape) + 0.045 * _noise(shape, max(shape) / 9, rng)
        for axis in (z, y, x)
    ]
    return deformed[0], deformed[1], deformed[2]


def _ellipsoid(
    p: tuple[Array, Array, Array],
    centre: Sequence[float] | Array,
    radii: Sequence[float],
    rng: np.random.Generator,
    jitter: float = 0.1,
) -> Mask:
    """Inside of an axis-aligned ellipsoid whose radii differ by a factor of about 1 +- jitter between patients."""
    scaled = np.array(radii) * np.exp(rng.normal(0, jitter, 3))
    return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in zip(p, centre, scaled, strict=True)) < 1)


def _capsule(p: tuple[Array, Array, Array], start: Array, end: Array, radius: float) -> Mask:
    """Everything nearer than `radius` to the segment from start to end."""
    direction = end - start
    along = sum((axis - s) * d for axis, s, d in zip(p, start, direction, strict=True)) / (direction @ direction)
    along = np.clip(along, 0, 1)
    squared = sum((axis - s - along * d) ** 2 for axis, s, d in zip(p, start, direction, strict=True))
    return np.asarray(squared < radius**2)


def _noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """A smooth random field of standard deviation 1; `sigma` is its scale in voxels."""
    field = _smooth(rng.standard_normal(shape), sigma)
    return np.asarray(field / field.std())


def _smooth(field: Array, sigma: float) -> Array:
    """Gaussian smoothing in Fourier space (periodic at the borders); `sigma` in voxels."""
    spectrum = np.fft.fftn(field)
    for axis, size in enumerate(field.shape):
        transfer = np.exp(-2 * (np.pi * sigma * np.fft.fftfreq(size)) ** 2)
        spectrum *= transfer.reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    return np.fft.ifftn(spectrum).real


def _write_image(
    folder: Path, case: str, image: npt.NDArray[np.float32], spacing: Sequence[float], file_ending: str
) -> None:
    """nnU-Net's naming: one file a channel; an RGB PNG holds its three channels."""
    if file_ending == ".png":
        pixels = np.clip(image / 4, 0, 255).astype(np.uint8)
        _write(folder / f"{case}_0000.png", pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1), spacing)
        return
    for channel, volume in enumerate(image):
        _write(folder / f"{case}_{channel:04d}{file_ending}", np.rint(volume).astype(np.int16), spacing)


def _write(path: Path, voxels: npt.NDArray[np.generic], spacing: Sequence[float]) -> None:
    import SimpleITK

    path.parent.mkdir(exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels, isVector=voxels.ndim > len(spacing))
    image.SetSpacing([float(s) for s in reversed(spacing)])
    SimpleITK.WriteImage(image, str(path))


def _write_dataset_json(folder: Path, n_labeled: int, channels: int, file_ending: str) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    generate_dataset_json(
        str(folder),
        channel_names={str(channel): f"MRI{channel}" for channel in range(channels)},
        labels=LABELS,
        num_training_cases=n_labeled,
        file_ending=file_ending,
        license="CC0: synthetic",
        description="Synthetic abdomen made by nnunetv2_semisup",
    )
