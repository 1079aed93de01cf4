"""Rows 11 and 15 of the properties in methods/mi_bim.md 3.5, and what the losses promise beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses import boundary
from nnunetv2_semisup.losses.boundary import boundary_loss, released_boundary_loss
from nnunetv2_semisup.losses.edges import edge_map
from nnunetv2_semisup.losses.entropy import shannon_entropy
from tests.losses.references import maps, noise, one_hot, voxels

pytestmark = pytest.mark.fast

CASES = [
    ((9,), (2,)),
    ((6, 7), (1, 2)),
    ((4, 3), (5, 1)),  # a window larger than the map
    ((5, 4, 6), (1, 1, 2)),
    ((3, 6, 4), (0, 1, 1)),
    ((1, 5, 1), (1, 2, 1)),
]


def random_mask(*shape: int, seed: int = 2) -> torch.Tensor:
    return noise(*shape, seed=seed) > 0.3


def box(centre: Sequence[int], radius: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(max(v - r, 0), v + r + 1) for v, r in zip(centre, radius, strict=True))


def loss_of(
    entropy: torch.Tensor, edges: torch.Tensor, radius: Sequence[int], mask: torch.Tensor, flat: float
) -> float:
    """The formula window by window."""
    found = []
    for sample, edge, valid in zip(entropy.numpy()[:, 0], edges.numpy()[:, 0], mask.numpy()[:, 0], strict=True):
        scaled = (sample - sample[valid].min()) / (sample[valid].max() - sample[valid].min())
        for centre in voxels(valid.shape):
            if valid[centre]:
                inside = valid[box(centre, radius)]
                x, y = scaled[box(centre, radius)][inside], edge[box(centre, radius)][inside]
                covariance = ((x - x.mean()) * (y - y.mean())).mean()
                if y.std() > flat:
                    found.append(max(covariance, 0) ** 2 / (max(x.var(), 1e-6) * y.var()))
    return -np.mean(found)


def released_loss_of(entropy: np.ndarray, image: np.ndarray, gamma: float, window: int) -> float:
    """The released form voxel by voxel: windows reach into a border of zeros."""

    def unit(x: np.ndarray) -> np.ndarray:
        axes = tuple(range(1, x.ndim))
        low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
        return (x - low) / (high - low + 1e-6)

    axes = range(2, image.ndim)
    magnitude = np.sqrt(sum((image - np.roll(image, 1, axis)) ** 2 for axis in axes)).mean(1, keepdims=True)
    found, radius = [], [window // 2 for _ in axes]
    for x, y in zip(unit(entropy)[:, 0], unit(magnitude)[:, 0] ** gamma, strict=True):
        x, y = np.pad(x, window // 2), np.pad(y, window // 2)
        for v in voxels(entropy.shape[2:]):
            here = box([i + window // 2 for i in v], radius)
            dx, dy = x[here] - x[here].mean(), y[here] - y[here].mean()
            covariance = max((dx * dy).sum(), 1e-5)
            found.append(covariance**2 / (max((dx**2).sum(), 1e-5) * max((dy**2).sum(), 1e-5)))
    return -np.mean(found)


@pytest.fixture(params=["one slab", "many slabs"])
def slabs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slab, or one for every plane, of which each is then the halo of its neighbours."""
    monkeypatch.setattr(boundary, "_SLAB_SHARE", 100 if request.param == "one slab" else 0)


# Against the formula


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize(("shape", "radius"), CASES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.8])
def test_loss_equals_brute_force(shape, radius, masked, share):
    entropy = noise(2, 1, *shape)
    edges = (entropy + noise(2, 1, *shape, seed=1)) / 2
    mask = random_mask(2, 1, *shape) | (not masked)
    flat = share * edges.std().item()
    loss = boundary_loss(entropy, edges, radius, mask if masked else None, flat)
    assert loss.item() == pytest.approx(loss_of(entropy, edges, radius, mask, flat), abs=1e-10)
    assert -1 <= loss.item() < -0.01


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 6)])
@pytest.mark.parametrize("window", [3, 5])
def test_released_loss_equals_brute_force(shape, window):
    entropy, image = noise(2, 1, *shape), noise(2, 3, *shape, seed=1)
    expected = released_loss_of(entropy.numpy(), image.numpy(), 0.75, window)
    assert released_boundary_loss(entropy, image, 0.75, window).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("axes", [(2,), (3, 4), (2, 3, 4)])
def test_flips_commute(axes):
    image, mask, entropy = noise(2, 2, 5, 4, 6), noise(2, 1, 5, 4, 6, seed=2) > 0.1, noise(2, 1, 5, 4, 6, seed=1)
    edges, valid = edge_map(image, [3, 1, 1], 0.75, mask)
    flipped, flipped_valid = edge_map(image.flip(axes), [3, 1, 1], 0.75, mask.flip(axes))
    torch.testing.assert_close(flipped, edges.flip(axes), rtol=0, atol=1e-12)
    assert torch.equal(flipped_valid, valid.flip(axes))
    loss = boundary_loss(entropy, edges, (1, 1, 1), valid).item()
    assert boundary_loss(entropy.flip(axes), flipped, (1, 1, 1), flipped_valid).item() == pytest.approx(loss, abs=1e-12)


# Closed forms


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row15_a_map_correlates_fully_with_itself(dtype):
    edges = noise(2, 1, 6, 7, 5).to(dtype)
    for scale, shift in ((1, 0), (3.7, 11), (0.2, -5)):
        loss = boundary_loss(scale * edges + shift, edges, (1, 2, 1), random_mask(2, 1, 6, 7, 5))
        assert loss.item() == pytest.approx(-1, abs=1e-4 if dtype == torch.float32 else 1e-9)


def test_row15_positive_affine_changes_of_the_entropy_change_nothing():
    """At the border too, where the released form's padding varies."""
    entropy, edges = noise(2, 1, 6, 7), noise(2, 1, 6, 7, seed=1)
    loss = boundary_loss(entropy, edges, (2, 1)).item()
    assert boundary_loss(3 * entropy + 2, edges, (2, 1)).item() == pytest.approx(loss, abs=1e-12)


@pytest.mark.usefixtures("slabs")
def test_row15_what_runs_against_the_edges_earns_nothing():
    edges = noise(1, 1, 8, 8)
    assert boundary_loss(1 - edges, edges, (1, 1)).item() == 0
    image = noise(1, 1, 16, 16)
    magnitude = sum((image - image.roll(1, axis)).square() for axis in (2, 3)).sqrt()
    assert released_boundary_loss(magnitude, image, 1.0).item() < -0.9
    assert released_boundary_loss(-magnitude, image, 1.0).item() == pytest.approx(0, abs=0.2)  # the border


def test_row15_flat_regions_earn_nothing_here_and_everything_as_released():
    flat = torch.full((2, 1, 6, 6), 0.3)
    assert boundary_loss(flat, edge_map(flat, [1.0, 1.0], 0.75)[0], (1, 1)).item() == 0
    assert released_boundary_loss(flat, flat, 0.75).item() == -1


def test_row15_regions_with_noise_alone_earn_nothing_either():
    image = noise(1, 1, 24, 8) * 0.02
    image[:, :, 16:] += 1
    edges, valid = edge_map(image, [1.0, 1.0], 1.0)
    entropy = noise(1, 1, 24, 8, seed=1).requires_grad_()
    (everywhere,) = torch.autograd.grad(boundary_loss(entropy, edges, (1, 1), valid), entropy)
    (at_borders,) = torch.autograd.grad(boundary_loss(entropy, edges, (1, 1), valid, flat=0.1), entropy)
    assert everywhere[:, :, :12].abs().amax(-1).min() > 0
    assert not at_borders[:, :, :12].any()
    assert at_borders[:, :, 14:17].any()


def test_row15_depth_constant_volumes_are_their_slices():
    entropy, edges, mask = noise(2, 1, 6, 7), noise(2, 1, 6, 7, seed=1), random_mask(2, 1, 6, 7)
    deep = [x[:, :, None].expand(-1, -1, 9, -1, -1) for x in (entropy, edges, mask)]
    flat = boundary_loss(entropy, edges, (2, 1), mask).item()
    assert boundary_loss(*deep[:2], (0, 2, 1), deep[2]).item() == pytest.approx(flat, abs=1e-12)
    image = (4 * noise(1, 2, 6, 7)).round()  # of few levels, whose percentiles copies leave alone
    edges, _ = edge_map(image, [1.0, 2.0], 0.5)
    deep_edges, _ = edge_map(image[:, :, None].expand(-1, -1, 4, -1, -1), [5.0, 1.0, 2.0], 0.5)
    torch.testing.assert_close(deep_edges, edges[:, :, None].expand_as(deep_edges), rtol=0, atol=1e-9)


# Windows that do not count


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_flat_image_regions_give_exactly_no_gradient(dtype, level):
    """Edges in the left half only: entropy beyond the reach of its windows is free."""
    edges = noise(1, 1, 8, 24, 5).to(dtype)
    edges[..., 12:, :] = level
    entropy = noise(1, 1, 8, 24, 5, seed=1).to(dtype).requires_grad_()
    boundary_loss(entropy, edges, (1, 2, 1)).backward()
    assert (entropy.grad[..., 12 + 2 * 2 :, :] == 0).all()
    assert (entropy.grad[..., :12, :] != 0).any()


def test_flat_windows_leave_the_mean_too():
    """Beside any amount of flat background the loss is that of the structure."""
    edges, entropy = noise(1, 1, 6, 24), noise(1, 1, 6, 24, seed=1)
    edges[..., 8:] = 0
    near, far = (boundary_loss(entropy[..., :n], edges[..., :n], (1, 1)).item() for n in (12, 24))
    scaled = boundary_loss(entropy[..., :12] * 5, edges[..., :12], (1, 1)).item()
    assert far == pytest.approx(near, abs=1e-12)
    assert scaled == pytest.approx(near, abs=1e-12)


def test_rounding_errors_of_a_constant_entropy_are_not_stretched_to_boundaries():
    entropy = (1.3 + 1e-6 * noise(1, 1, 16, 16)).requires_grad_()
    loss = boundary_loss(entropy, noise(1, 1, 16, 16, seed=1), (2, 2))
    loss.backward()
    assert -0.1 < loss.item() <= 0
    assert boundary_loss(1e5 * entropy, noise(1, 1, 16, 16, seed=1), (2, 2)).item() < 2 * loss.item()


# Masks


@pytest.mark.usefixtures("slabs")
def test_what_lies_outside_the_mask_has_no_influence():
    image, entropy = noise(2, 2, 7, 6, 5), noise(2, 1, 7, 6, 5, seed=1)
    mask = torch.ones(2, 1, 7, 6, 5)
    mask[0, ..., 4:] = 0
    mask[1, :, 5:] = 0
    outside = mask == 0
    edges, valid = edge_map(image, [1.0, 1.0, 1.0], 0.75, mask)
    nan_edges, nan_valid = edge_map(image.masked_fill(outside, torch.nan), [1.0, 1.0, 1.0], 0.75, mask)
    assert torch.equal(edges, nan_edges)
    assert torch.equal(valid, nan_valid)
    clean, poisoned = entropy.clone().requires_grad_(), entropy.masked_fill(~valid, torch.nan).requires_grad_()
    losses = [
        boundary_loss(clean, edges, (1, 1, 1), valid),
        boundary_loss(poisoned, edges.masked_fill(~valid, torch.nan), (1, 1, 1), valid.float()),
    ]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert torch.equal(clean.grad, poisoned.grad)
    assert (clean.grad.masked_fill(valid, 0) == 0).all()


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_masks_border_is_like_the_volumes(axis):
    """Masked away or cut off: the same windows, the same variances."""
    entropy, edges = (noise(2, 1, 7, 8, 6, seed=seed) for seed in (0, 1))
    mask = torch.ones(2, 1, 7, 8, 6, dtype=torch.bool)
    mask.narrow(axis, 4, mask.shape[axis] - 4).zero_()
    cut = [x.narrow(axis, 0, 4) for x in (entropy, edges)]
    expected = boundary_loss(*cut, (1, 2, 1)).item()
    assert boundary_loss(entropy, edges, (1, 2, 1), mask).item() == pytest.approx(expected, abs=1e-12)


def test_nothing_varies_at_a_border():
    """Constant maps have no windows that count, whatever their level and mask; padding would have made an edge."""
    ones = torch.ones(1, 1, 6, 6).requires_grad_()
    for mask in (None, random_mask(1, 1, 6, 6)):
        assert boundary_loss(ones, ones, (2, 2), mask).item() == 0
    assert released_boundary_loss(ones * noise(1, 1, 6, 6).float(), ones, 1.0).item() != 0


# Batches and slabs


def test_samples_count_by_their_windows():
    entropy, edges = noise(3, 1, 6, 7), noise(3, 1, 6, 7, seed=1)
    entropy[1] *= 9
    singles = [boundary_loss(entropy[i : i + 1], edges[i : i + 1], (1, 2)).item() for i in range(3)]
    assert boundary_loss(entropy, edges, (1, 2)).item() == pytest.approx(np.mean(singles), abs=1e-12)
    mask = torch.ones(3, 1, 6, 7, dtype=torch.bool)
    mask[2] = False
    assert boundary_loss(entropy, edges, (1, 2), mask).item() == pytest.approx(np.mean(singles[:2]), abs=1e-12)
    image = noise(3, 2, 6, 7)
    together, _ = edge_map(image, [1.0, 2.0], 0.5)
    alone = [edge_map(image[i : i + 1], [1.0, 2.0], 0.5)[0] for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "radius"), [((37,), (3,)), ((40, 7), (3, 1)), ((7, 40, 6), (1, 2, 1))])
@pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.6])
def test_slabs_equal_one_piece(monkeypatch, shape, radius, share):
    entropy, edges, mask = noise(2, 1, *shape), noise(2, 1, *shape, seed=1), random_mask(2, 1, *shape)
    results = []
    for limit in (100, share):
        monkeypatch.setattr(boundary, "_SLAB_SHARE", limit)
        leaf = entropy.clone().requires_grad_()
        loss = boundary_loss(leaf, edges, radius, mask)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


# Gradients and number formats


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize(("shape", "radius"), [((5, 4), (1, 2)), ((3, 2, 4), (1, 1, 1)), ((4, 3, 2), (1, 0, 1))])
@pytest.mark.parametrize("masked", [False, True])
def test_row11_gradcheck(shape, radius, masked):
    """The detached range has no gradient to miss: the correlation does not depend on it."""
    entropy, edges = noise(2, 1, *shape).requires_grad_(), noise(2, 1, *shape, seed=1)
    mask = random_mask(2, 1, *shape) if masked else None
    assert torch.autograd.gradcheck(lambda x: boundary_loss(x, edges, radius, mask), (entropy,))


def test_row11_released_gradient_is_that_of_the_formula_with_a_fixed_range():
    """Its zeros outside make it depend on the range, so the voxels that set it are held."""
    entropy, image = noise(1, 1, 5, 4), noise(1, 2, 5, 4, seed=1)
    entropy[0, 0, 0, 0], entropy[0, 0, 4, 3] = -0.5, 1.5
    free = torch.ones(1, 1, 5, 4)
    free[0, 0, 0, 0] = free[0, 0, 4, 3] = 0

    def loss(x):
        return released_boundary_loss(torch.where(free.bool(), x, entropy), image, 0.75, 3)

    assert torch.autograd.gradcheck(loss, (entropy.clone().requires_grad_(),))


EXTREMES = {
    "one-hot": one_hot(torch.arange(64).reshape(1, 8, 8) % 3, 3),
    "one cluster": one_hot(torch.zeros(1, 8, 8, dtype=torch.long), 3),
    "uniform": torch.full((1, 3, 8, 8), 1 / 3).double(),
    "sharp": maps(1, 3, 8, 8, sharpness=100),
}


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flat", [False, True])
def test_row11_loss_and_gradient_are_finite_at_extremes(name, dtype, flat):
    z = EXTREMES[name].to(dtype).requires_grad_()
    image = (torch.full((1, 2, 8, 8), 0.7) if flat else noise(1, 2, 8, 8)).to(dtype)
    edges, valid = edge_map(image, [1.0, 1.0], 0.5)
    entropy = shannon_entropy(z)[:, None]
    assert edges.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for loss in (boundary_loss(entropy, edges, (1, 1), valid), released_boundary_loss(entropy, image, 0.5)):
        assert loss.dtype == edges.dtype
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype):
    entropy, image = noise(2, 1, 8, 9).to(dtype), noise(2, 2, 8, 9, seed=1).to(dtype)
    edges, _ = edge_map(image, [1.0, 1.0], 0.75)
    torch.testing.assert_close(edges.double(), edge_map(image.double(), [1.0, 1.0], 0.75)[0], rtol=0, atol=1e-5)
    loss = boundary_loss(entropy, edges.to(dtype), (1, 1))
    assert loss.dtype == torch.float32
    expected = boundary_loss(entropy.double(), edges.to(dtype).double(), (1, 1)).item()
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_little_cancels_in_float32():
    """A small wave on a high level, as far from 0 as the voxels that set the range are from it."""
    entropy = 0.8 + 0.004 * noise(1, 1, 24, 24)
    entropy[..., 0, 0], entropy[..., 1, 0] = 0, 1
    edges = entropy + 0.004 * noise(1, 1, 24, 24, seed=1)
    loss = boundary_loss(entropy.float(), edges.float(), (2, 2)).item()
    assert loss == pytest.approx(boundary_loss(entropy, edges, (2, 2)).item(), abs=1e-4)


@pytest.mark.usefixtures("slabs")
def test_autocast_changes_nothing_forward_or_backward():
    entropy, image = noise(2, 1, 8, 9).float().requires_grad_(), noise(2, 2, 8, 9, seed=1).float()

    def run():
        edges, valid = edge_map(image, [1.0, 1.0], 0.75)
        loss = boundary_loss(entropy, edges, (1, 1), valid) + released_boundary_loss(entropy, image, 0.75)
        return loss, torch.autograd.grad(loss, entropy)[0]

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run()
    assert torch.equal(cast[0], plain[0])
    assert torch.equal(cast[1], plain[1])


# What the callers rely on


@pytest.mark.usefixtures("slabs")
def test_descent_finds_the_edges():
    """From noise, a map of logits ends with its uncertainty at the step of the image."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 1
    edges, valid = edge_map(image, [1.0, 1.0], 1.0)
    logits = (0.5 * torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        entropy = shannon_entropy(logits.softmax(1))[:, None]
        loss = boundary_loss(entropy, edges, (2, 2), valid)
        loss.backward()
        optimizer.step()
    assert loss.item() < -0.9
    assert entropy[..., 7:9].mean() > entropy[..., 5:7].mean() + 0.3


@pytest.mark.usefixtures("slabs")
def test_empty_input_gives_a_zero_attached_to_the_graph():
    entropy, image = noise(2, 1, 5, 6).requires_grad_(), noise(2, 1, 5, 6, seed=1)
    nothing = torch.zeros(2, 1, 5, 6)
    edges, valid = edge_map(image, [1.0, 1.0], 0.5, nothing)
    assert not valid.any()
    assert (edges == 0).all()
    for loss in (boundary_loss(entropy, image, (1, 1), nothing), boundary_loss(entropy[:0], image[:0], (1, 1))):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, entropy)
        assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (boundary_loss, (torch.rand(1, 1, 4), torch.rand(1, 1, 5), (1,)), "one shape"),
        (boundary_loss, (torch.rand(1, 2, 4), torch.rand(1, 2, 4), (1,)), "one shape"),
        (boundary_loss, (torch.rand(2, 1), torch.rand(2, 1), ()), "one shape"),
        (boundary_loss, (torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4), (1,)), "2 numbers"),
        (boundary_loss, (torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4), (1, -1)), "at least 0"),
        (boundary_loss, (torch.rand(2, 1, 4), torch.rand(2, 1, 4), (1,), torch.ones(1, 1, 4)), "mask"),
        (boundary_loss, (torch.rand(2, 1, 4), torch.rand(2, 1, 4), (1,), None, 0.0), "flat"),
        (released_boundary_loss, (torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), 0.5), "entropy map"),
        (released_boundary_loss, (torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 5), 0.5), "entropy map"),
        (released_boundary_loss, (torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), 0.5, 4), "odd"),
    ],
)
def test_what_does_not_fit_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


MEMORY = """
import torch
from pathlib import Path
from nnunetv2_semisup.losses.boundary import boundary_loss

torch.set_num_threads(1)

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def peak(size):
    entropy = torch.rand(1, 1, size, size, size).requires_grad_()
    edges, mask = torch.rand_like(entropy), torch.rand(entropy.shape) > 0.1
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    boundary_loss(entropy, edges, (2, 2, 2), mask).backward()
    return (resident("VmHWM") - before) / (4 * size**3)

peak(32)  # libraries load, and keep buffers, at first use
print(peak(64), peak(128))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
def test_memory_beyond_the_inputs_is_less_than_four_maps():
    """Forward and backward, the gradient included; in one piece it would be more than 20."""
    # A fixed threshold makes glibc return every larger block at once, so that the resident size is what is in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "16384"}
    command = [sys.executable, "-c", MEMORY]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    assert all(1 < float(ratio) < 4 for ratio in answer.split()), answer


@pytest.mark.gpu
def test_cuda_under_autocast_equals_cpu():
    entropy, image = noise(2, 1, 20, 24, 28).requires_grad_(), noise(2, 2, 20, 24, 28, seed=1)
    edges, valid = edge_map(image, [1.0, 1.0, 1.0], 0.75)
    expected = boundary_loss(entropy, edges, (2, 1, 2), valid)
    expected.backward()
    there = entropy.detach().float().cuda().requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        found, found_valid = edge_map(image.float().cuda(), [1.0, 1.0, 1.0], 0.75)
        loss = boundary_loss(there, found, (2, 1, 2), found_valid)
    loss.backward()
    torch.testing.assert_close(found.double().cpu(), edges, rtol=0, atol=1e-4)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    torch.testing.assert_close(there.grad.double().cpu(), entropy.grad, rtol=1e-2, atol=1e-7)
