"""Rows 1, 2, 8, 9, 10 and 11 of the properties in methods/mi_bim.md 3.5, and what the kernel promises beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.local_joint import FORMULATIONS
from nnunetv2_semisup.losses import local_joint as kernel
from nnunetv2_semisup.losses.local_joint import local_joint
from tests.losses.references import brute_force_joint, displacements, maps, one_hot, pairs

pytestmark = pytest.mark.fast

CASES = [
    ((6, 5), (1, 1)),
    ((4, 7), (2, 0)),
    ((3, 2), (4, 3)),  # windows larger than the map
    ((5, 4, 3), (1, 1, 1)),
    ((4, 3, 5), (0, 1, 2)),
    ((3, 5, 4), (2, 0, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((9,), (2,)),
]


@pytest.fixture(params=["one tile", "many tiles"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps as small as the tests' fit one tile; small limits cut them along planes, rows and samples."""
    if request.param == "many tiles":
        monkeypatch.setattr(kernel, "_BLOCK_VOXELS", 5)
        monkeypatch.setattr(kernel, "_STACK_BYTES_PER_THREAD", 600)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize(("shape", "radius"), CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_row01_equals_brute_force(shape, radius, masked):
    z1, z2 = maps(2, 3, *shape), maps(2, 3, *shape, seed=1)
    mask = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(2)) > 0.4 if masked else None
    np.testing.assert_allclose(
        local_joint(z1, z2, radius, mask).numpy(), brute_force_joint(z1, z2, radius, mask), rtol=0, atol=1e-10
    )


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("name", [name for name in FORMULATIONS if name != "ours"])
@pytest.mark.parametrize(("shape", "radius"), [((6, 5), (1, 2)), ((5, 4, 3), (1, 2, 1)), ((4, 6, 5), (2, 0, 1))])
def test_row01_benchmarked_formulations_are_equal_with_gradients(name, shape, radius):
    z1, z2 = maps(2, 3, *shape).requires_grad_(), maps(2, 3, *shape, seed=1).requires_grad_()
    joint, ours = FORMULATIONS[name](z1, z2, radius), local_joint(z1, z2, radius)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(joint, ours, rtol=0, atol=1e-10)
    for other, mine in zip(
        torch.autograd.grad(joint, (z1, z2), upstream), torch.autograd.grad(ours, (z1, z2), upstream), strict=True
    ):
        torch.testing.assert_close(other, mine, rtol=0, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_row02_sums_count_the_valid_pairs(masked):
    shape, radius = (4, 3, 5), (1, 2, 1)
    z1, z2 = maps(2, 3, *shape), maps(2, 3, *shape, seed=1)
    mask = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(2)) > (0.4 if masked else -1)
    sums = local_joint(z1, z2, radius, mask if masked else None).sum((-2, -1))
    for index, displacement in displacements(radius):
        count = sum(
            (mask[(b, 0, *v)] & mask[(b, 0, *u)]).item() for b in range(2) for u, v in pairs(shape, displacement)
        )
        assert sums[index].item() == pytest.approx(count, abs=1e-12 * max(count, 1))


def test_row08_swapping_the_maps_reverses_and_transposes():
    z1, z2 = maps(2, 3, 5, 4, 3), maps(2, 3, 5, 4, 3, seed=1)
    swapped = local_joint(z2, z1, (1, 2, 1)).flip(0, 1, 2).mT
    torch.testing.assert_close(local_joint(z1, z2, (1, 2, 1)), swapped, rtol=0, atol=1e-12)


def test_row09_flips_permute_the_displacements():
    z1, z2 = maps(2, 3, 5, 4, 3), maps(2, 3, 5, 4, 3, seed=1)
    flipped = local_joint(z1.flip(2, 4), z2.flip(2, 4), (1, 2, 1)).flip(0, 2)
    torch.testing.assert_close(local_joint(z1, z2, (1, 2, 1)), flipped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -1, 0), (0, 0, 1), (-1, 1, 1)])
def test_row10_a_shifted_copy_has_its_diagonal_at_the_shift(shift):
    """z2(v) = z1(v + d): at d, and only there, all pairs agree."""
    labels = torch.randint(4, (1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    moved = labels.roll([-d for d in shift], dims=(1, 2, 3))
    inside = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    inside[..., 2:-2, 2:-2, 2:-2] = True  # rolled-in voxels never meet
    joint = local_joint(one_hot(labels, 4), one_hot(moved, 4), (1, 1, 1), inside)
    agreement = joint.diagonal(dim1=-2, dim2=-1).sum(-1) / joint.sum((-2, -1))
    assert agreement[tuple(d + 1 for d in shift)] == 1
    assert agreement.flatten().sort().values[-2] < 0.6


@pytest.mark.parametrize(("shape", "radius"), [((3, 4), (1, 2)), ((3, 2, 3), (1, 1, 2)), ((2, 3, 2), (0, 1, 1))])
@pytest.mark.parametrize("masked", [False, True])
def test_row11_gradcheck(shape, radius, masked):
    z1, z2 = maps(2, 2, *shape).requires_grad_(), maps(2, 2, *shape, seed=1).requires_grad_()
    mask = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(2)) > 0.4 if masked else None
    upstream = torch.randn((*(2 * r + 1 for r in radius), 2, 2), generator=torch.Generator().manual_seed(3)).double()
    assert torch.autograd.gradcheck(lambda a, b: (local_joint(a, b, radius, mask) * upstream).sum(), (z1, z2))


def test_gradient_of_one_map_only():
    """A teacher's map has no gradient, and costs none."""
    z1, z2 = maps(1, 3, 4, 4), maps(1, 3, 4, 4, seed=1).requires_grad_()
    both = z1.clone().requires_grad_()
    local_joint(z1, z2, (1, 1)).square().sum().backward()
    (expected,) = torch.autograd.grad(local_joint(both, z2, (1, 1)).square().sum(), z2)
    assert torch.equal(z2.grad, expected)
    assert z1.grad is None


def test_what_lies_outside_the_mask_has_no_influence():
    z1, z2 = maps(1, 3, 4, 4, 4).requires_grad_(), maps(1, 3, 4, 4, 4, seed=1)
    mask = torch.ones(1, 1, 4, 4, 4)
    mask[..., 2:] = 0
    poisoned = z1.detach().clone()
    poisoned[..., 2:] = float("nan")
    poisoned.requires_grad_()
    clean, other = (local_joint(z, z2, (1, 1, 1), mask) for z in (z1, poisoned))
    assert torch.equal(clean, other)
    clean.square().sum().backward()
    other.square().sum().backward()
    assert torch.equal(z1.grad, poisoned.grad)
    assert (z1.grad[..., 2:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype):
    z1, z2 = maps(2, 3, 4, 4, 4).to(dtype), maps(2, 3, 4, 4, 4, seed=1).to(dtype)
    joint = local_joint(z1, z2, (1, 1, 1))
    assert joint.dtype == torch.float32
    np.testing.assert_allclose(joint.numpy(), brute_force_joint(z1.double(), z2.double(), (1, 1, 1)), rtol=0, atol=1e-4)


def test_autocast_changes_nothing_forward_or_backward():
    z1, z2 = maps(2, 3, 4, 4, 4).float().requires_grad_(), maps(2, 3, 4, 4, 4, seed=1).float()
    plain = local_joint(z1, z2, (1, 1, 1))
    (expected,) = torch.autograd.grad(plain.square().sum(), z1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = local_joint(z1, z2, (1, 1, 1))
        (gradient,) = torch.autograd.grad(cast.square().sum(), z1)
    assert torch.equal(cast, plain)
    assert torch.equal(gradient, expected)


def test_layouts_give_the_same():
    z1, z2 = maps(2, 3, 4, 5, 6), maps(2, 3, 4, 5, 6, seed=1)
    last = z1.to(memory_format=torch.channels_last_3d)
    turned = z2.transpose(2, 4).contiguous().transpose(2, 4)
    assert torch.equal(local_joint(last, turned, (1, 1, 1)), local_joint(z1, z2, (1, 1, 1)))


def test_operators_keep_torchs_contracts():
    """Schema, fake tensors, autograd registration, tracing with dynamic shapes."""
    z1, z2, mask = maps(2, 3, 4, 3, 2), maps(2, 3, 4, 3, 2, seed=1), torch.rand(2, 1, 4, 3, 2) > 0.3
    operators = torch.ops.nnunetv2_semisup
    torch.library.opcheck(operators.local_joint.default, (z1.requires_grad_(), z2, mask, [1, 0, 1]))
    torch.library.opcheck(operators.local_joint_gradient.default, (z1.detach(), maps(3, 1, 3, 3, 3), mask, [1, 0, 1]))


def test_compiles_without_a_graph_break():
    z1, z2 = maps(2, 3, 4, 4, 4).requires_grad_(), maps(2, 3, 4, 4, 4, seed=1)

    def loss(a, b):
        return local_joint(a.square(), b, (1, 1, 1)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(z1, z2), z1)
    (gradient,) = torch.autograd.grad(compiled(z1, z2), z1)
    torch.testing.assert_close(gradient, expected)


def test_no_sample_gives_zeros_attached_to_the_graph():
    z = torch.rand(0, 3, 4, 4).requires_grad_()
    joint = local_joint(z, z, (1, 1))
    assert (joint == 0).all()
    joint.sum().backward()
    assert z.grad.shape == z.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 3, 4, 4), (1, 1)), "one shape"),
        ((torch.rand(4, 2), torch.rand(4, 2), ()), "one shape"),
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), (1, 1, 1)), "2 numbers"),
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), (1, -1)), "at least 0"),
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), (1, 1), torch.ones(1, 4, 4)), "mask"),
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), (1, 1), torch.ones(1, 2, 4, 4)), "mask"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        local_joint(*arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
def test_memory_beyond_maps_and_gradients_is_a_fraction_of_the_maps():
    """The benchmark's measure at 64^3, K = 20, radius 1; 0.08 at one thread, where formulation C takes 1.1."""
    script = Path(__file__).parents[2] / "benchmarks" / "local_joint.py"
    command = [sys.executable, str(script), "--measure-memory", "ours", "--sizes", "64", "--clusters", "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    assert float(answer) < 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("shape", "radius"), [((40, 36), (2, 1)), ((20, 24, 28), (1, 2, 1))])
def test_cuda_equals_cpu(shape, radius, autocast):
    z1, z2 = maps(2, 10, *shape), maps(2, 10, *shape, seed=1)
    mask = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(2)) > 0.2
    upstream = torch.rand(*(2 * r + 1 for r in radius), 10, 10, dtype=torch.float64)
    a, b = z1.requires_grad_(), z2.requires_grad_()
    expected = local_joint(a, b, radius, mask)
    gradients = torch.autograd.grad(expected, (a, b), upstream)
    c, d = (z.detach().float().cuda().requires_grad_() for z in (z1, z2))
    with torch.autocast("cuda", enabled=autocast):
        joint = local_joint(c, d, radius, mask.cuda())
        found = torch.autograd.grad(joint, (c, d), upstream.float().cuda())
    torch.testing.assert_close(joint.double().cpu(), expected.detach(), rtol=1e-5, atol=1e-4)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one.double().cpu(), other, rtol=1e-5, atol=1e-4)
