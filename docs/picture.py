"""Draw docs/picture.svg, the picture of the README: python docs/picture.py."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from nnunetv2_semisup.data.synthetic import make_dataset

COLOURS = np.array([[0, 0, 0], [230, 97, 0], [93, 58, 155], [26, 133, 255], [212, 17, 89]])
N_LABELED, N_UNLABELED = 3, 12
WIDTH, HEIGHT, TILE, GAP = 860, 250, 62, 8


def main() -> None:
    """Make a small synthetic dataset and lay out its middle slices."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "Dataset001_Picture"
        make_dataset(folder, n_labeled=N_LABELED, n_unlabeled=N_UNLABELED, n_test=1, shape=(20, 64, 64), seed=2)
        labeled = [_tile(folder, "Tr", case) for case in sorted((folder / "labelsTr").iterdir())]
        unlabeled = [_tile(folder, "Un", case) for case in sorted((folder / "imagesUn").iterdir())]
        (test,) = (_tile(folder, "Ts", case) for case in sorted((folder / "labelsTs").iterdir()))
    Path(__file__).with_name("picture.svg").write_text(_svg(labeled, unlabeled, test), encoding="utf-8")


def _tile(folder: Path, group: str, file: Path) -> str:
    """The middle slice as a data URI, with its labels in colour where it has some."""
    case = file.name.removesuffix(".nii.gz").removesuffix("_0000")
    image = _middle(folder / f"images{group}" / f"{case}_0000.nii.gz")
    low, high = np.percentile(image, (1, 99))
    pixels = np.repeat(np.clip((image - low) / (high - low), 0, 1)[..., None] * 255, 3, axis=-1)
    if group != "Un":
        labels = _middle(folder / f"labels{group}" / f"{case}.nii.gz")
        inside = labels > 0
        pixels[inside] = 0.35 * pixels[inside] + 0.65 * COLOURS[labels[inside]]
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).quantize(48).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _middle(file: Path) -> np.ndarray:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return array[len(array) // 2]


def _svg(labeled: list[str], unlabeled: list[str], test: str) -> str:
    step = TILE + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14">',
        "<title>Few labelled and many unlabelled scans train one nnU-Net</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#444444"/></marker></defs>',
        _text(16, 26, "a few labelled scans"),
        *(_image(16 + i * step, 36, tile) for i, tile in enumerate(labeled)),
        _text(16, 128, "many without labels"),
        *(_image(16 + i % 6 * step * 0.72, 138 + i // 6 * step * 0.72, tile, 0.72) for i, tile in enumerate(unlabeled)),
        _arrow(330, 66, 394, 96),
        _arrow(330, 184, 394, 154),
        '<rect x="404" y="86" width="220" height="78" rx="8" fill="#eef3fa" stroke="#1a5fb4"/>',
        _text(514, 116, "nnUNetv2_train", "middle", "monospace"),
        _text(514, 140, "-tr nnUNetTrainerMIReg", "middle", "monospace"),
        _arrow(634, 125, 698, 125),
        _image(712, 64, test, 2),
        _text(774, 212, "stock nnU-Net predicts", "middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start", family: str = "") -> str:
    font = f' font-family="{family}"' if family else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#222222"{font}>{words}</text>'


def _image(x: float, y: float, uri: str, scale: float = 1) -> str:
    size = TILE * scale
    return f'<image x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}" href="{uri}"/>'


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    line = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {line} stroke="#444444" stroke-width="2" marker-end="url(#head)"/>'


if __name__ == "__main__":
    main()
