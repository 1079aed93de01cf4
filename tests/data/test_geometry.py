from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from torch.nn.functional import max_pool3d

from nnunetv2_semisup.data.geometry import AffineRange, Geometry, Move, draw_geometry

pytestmark = pytest.mark.fast

SMALL = AffineRange(rotation=20, scale=(0.8, 1.25), translation=0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(shape: Sequence[int], batch_size: int = 4, seed: int = 0) -> Geometry:
    return draw_geometry(batch_size, shape, generator(seed), range(len(shape)), turns=True)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(99))


def in_voxels(geometry: Geometry, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The affine part as linear maps [B, d, d] and offsets [B, d] from output to input voxel indices.

    Written from torch's definition of normalised coordinates: index i of n sits at (2 i + 1) / n - 1.
    """
    assert geometry.matrix is not None
    size = np.array(shape, float)
    matrix = geometry.matrix.numpy()
    dims = len(shape)
    axes = list(range(dims))[::-1]
    linear = matrix[:, axes][:, :, axes] * size[:, None] / size
    shift = matrix[:, axes, dims]
    centre = (size - 1) / 2
    return linear, shift * size / 2 + centre - linear @ centre


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (4, 4, 4), (3, 6, 6), (3, 4, 5)])
def test_flips_and_turns_equal_numpy(shape: tuple[int, ...]) -> None:
    x = noise(4, 2, *shape)
    for seed in range(10):
        geometry = exact(shape, seed=seed)
        for sample, moved, move in zip(x.numpy(), geometry(x).numpy(), geometry.moves, strict=True):
            expected = np.rot90(np.flip(sample, move.flips), move.turns, move.plane)
            np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize("shape", [(6, 6), (4, 4, 4), (3, 6, 6)])
def test_flips_and_turns_are_undone_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (noise(4, 2, *shape) * 100 % 2).to(dtype)
    for seed in range(10):
        geometry = exact(shape, seed=seed)
        assert torch.equal(geometry.inverse(geometry(x)), x)
        assert torch.equal(geometry(geometry.inverse(x)), x)
        assert geometry.valid(x).shape == (4, 1, *shape)
        assert geometry.valid(x).all()


def test_allowed_flips_come_half_of_the_time_and_others_never() -> None:
    moves = draw_geometry(4000, (4, 5, 6), generator(), (0, 2)).moves
    flips = [axis for move in moves for axis in move.flips]
    assert set(flips) == {-3, -1}
    # 5 standard deviations of 4,000 coins
    assert abs(flips.count(-3) - 2000) < 160
    assert abs(flips.count(-1) - 2000) < 160
    both = sum(len(move.flips) == 2 for move in moves)
    assert abs(both - 1000) < 140
    assert all(move.turns == 0 for move in moves)


@pytest.mark.parametrize(
    ("shape", "spacing", "planes"),
    [
        ((4, 4, 4), None, {(-3, -2), (-3, -1), (-2, -1)}),
        ((4, 6, 6), (3, 1, 1), {(-2, -1)}),
        ((6, 6, 6), (3, 1, 1), {(-2, -1)}),
        ((6, 6, 6), (3, 1, 1.2), set()),
        ((5, 6), None, set()),
        ((6, 6), (0.5, 0.5), {(-2, -1)}),
    ],
)
def test_turns_only_where_patch_and_spacing_are_square(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None, planes: set[tuple[int, int]]
) -> None:
    moves = draw_geometry(400, shape, generator(), None, turns=True, spacing=spacing).moves
    assert {move.plane for move in moves if move.turns} == planes
    assert {move.turns for move in moves} == ({0, 1, 2, 3} if planes else {0})


def test_what_is_not_moved_is_not_copied() -> None:
    x = noise(2, 1, 4, 4)
    assert draw_geometry(2, (4, 4), generator(), None)(x) is x
    assert draw_geometry(2, (4, 4), generator(), ()).inverse(x) is x


def test_the_generator_decides_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, second = (draw_geometry(3, (8, 8, 8), generator(4), (0, 1, 2), True, SMALL) for _ in range(2))
    other = draw_geometry(3, (8, 8, 8), generator(5), (0, 1, 2), True, SMALL)
    assert first.moves == second.moves
    assert torch.equal(first.matrix, second.matrix)
    assert not torch.equal(first.matrix, other.matrix)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_flips_and_turns_commute_with_pooling() -> None:
    x = noise(4, 3, 8, 16, 16)
    for seed in range(10):
        geometry = exact((8, 16, 16), seed=seed)
        assert torch.equal(max_pool3d(geometry(x), 2), geometry(max_pool3d(x, 2)))


def test_an_equivariant_network_agrees_with_itself() -> None:
    x = noise(4, 3, 8, 8, 8)
    network = torch.nn.Sequential(torch.nn.Conv3d(3, 5, 1), torch.nn.ReLU(), torch.nn.Conv3d(5, 2, 1))
    for seed in range(5):
        geometry = exact((8, 8, 8), seed=seed)
        torch.testing.assert_close(network(geometry(x)), geometry(network(x)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 12), (1.0, 1.0)), ((9, 12), (2.0, 0.7)), ((6, 9, 8), (3.0, 1.0, 0.5))]
)
def test_the_affine_part_interpolates_as_scipy_does(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    x = noise(3, 2, *shape).double()
    geometry = draw_geometry(3, shape, generator(2), None, affine=SMALL, spacing=spacing)
    linear, offset = in_voxels(geometry, shape)
    ours = geometry(x).numpy()
    for sample in range(3):
        for channel in range(2):
            reference = affine_transform(
                x[sample, channel].numpy(), linear[sample], offset[sample], order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(ours[sample, channel], reference, atol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)])
def test_the_affine_part_is_rigid_up_to_scale_in_millimetres(spacing: tuple[float, ...]) -> None:
    shape = (6, 9, 8)
    geometry = draw_geometry(200, shape, generator(2), None, affine=SMALL, spacing=spacing)
    linear, offset = in_voxels(geometry, shape)
    physical = linear * np.array(spacing)[:, None] / np.array(spacing)
    scale = np.linalg.det(physical) ** (-1 / 3)
    assert 0.8 <= scale.min() < 0.83
    assert 1.22 < scale.max() <= 1.25
    identity = np.broadcast_to(np.eye(3), physical.shape)
    np.testing.assert_allclose(physical @ physical.transpose(0, 2, 1) * scale[:, None, None] ** 2, identity, atol=1e-9)
    # The patch's centre goes to within a tenth of the patch of itself.
    centre = (np.array(shape) - 1) / 2
    image_of_centre = np.linalg.solve(linear, (centre - offset)[..., None])[..., 0]
    shift = np.abs(image_of_centre - centre) / np.array(shape)
    assert shift.max() <= 0.1 + 1e-9
    assert (shift.max(0) > 0.09).all()


def test_the_largest_angle_is_the_one_asked_for() -> None:
    affine = AffineRange(rotation=20, scale=(1, 1), translation=0)
    linear, _ = in_voxels(draw_geometry(300, (8, 8), generator(), None, affine=affine), (8, 8))
    angles = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert -20 <= angles.min() < -19
    assert 19 < angles.max() <= 20


def test_scale_two_doubles_an_object() -> None:
    x = torch.zeros(1, 1, 16, 16)
    x[..., 6:10, 6:10] = 1
    twice = draw_geometry(1, (16, 16), generator(), None, affine=AffineRange(0, (2, 2), 0))(x)
    assert (twice[0, 0, 5:11, 5:11] > 0.99).all()
    assert twice.sum() == pytest.approx(4 * 16, rel=1e-5)


def test_in_plane_leaves_the_slices_alone() -> None:
    affine = AffineRange(20, (0.8, 1.25), 0.1, in_plane=True)
    linear, offset = in_voxels(draw_geometry(50, (5, 9, 9), generator(), None, affine=affine), (5, 9, 9))
    np.testing.assert_allclose(linear[:, 0], np.broadcast_to([1, 0, 0], (50, 3)), atol=1e-12)
    np.testing.assert_allclose(linear[:, :, 0], np.broadcast_to([1, 0, 0], (50, 3)), atol=1e-12)
    np.testing.assert_allclose(offset[:, 0], 0, atol=1e-12)
    assert np.abs(linear[:, 1, 2]).max() > 0.2


def test_valid_marks_exactly_the_voxels_that_see_only_the_patch() -> None:
    shape = (10, 12, 9)
    geometry = draw_geometry(6, shape, generator(3), (0, 1, 2), affine=SMALL)
    x = noise(6, 1, *shape)
    valid = geometry.valid(x)
    linear, offset = in_voxels(geometry, shape)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for sample in range(6):
        source = index @ linear[sample].T + offset[sample]
        outside = np.maximum(np.maximum(-source, source - (np.array(shape) - 1)), 0).max(-1)
        expected = outside < 1e-4
        clear = (outside < 1e-4) | (outside > 0.01)
        np.testing.assert_array_equal(valid[sample, 0].numpy()[clear], expected[clear])
    assert 0 < valid.sum() < valid.numel()
    # Filling the outside with something else cannot change a valid voxel: 1 - T(1 - x) is T with ones outside.
    torch.testing.assert_close((1 - geometry(1 - x))[valid], geometry(x)[valid], rtol=0, atol=1.1e-3)


def test_a_mask_stays_true_only_where_nothing_false_contributes() -> None:
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    mask[..., :4] = False
    geometry = draw_geometry(1, (12, 12), generator(3), (0, 1), affine=SMALL)
    moved = geometry(mask)
    assert moved.dtype == torch.bool
    assert torch.equal(moved, geometry(mask.float()) > 0.999)
    assert 0 < moved.sum() < geometry.valid(mask).sum()


@pytest.mark.parametrize("shape", [(40, 48), (24, 28, 32)])
def test_the_affine_part_is_undone_up_to_interpolation(shape: tuple[int, ...]) -> None:
    axes = torch.meshgrid(*(torch.linspace(0, 3, size) for size in shape), indexing="ij")
    x = torch.stack([torch.sin(axis) for axis in axes])[None].repeat(3, 1, *[1] * len(shape))
    geometry = draw_geometry(3, shape, generator(1), (0, 1), True, SMALL)
    back = geometry.inverse(geometry(x))
    seen = geometry.inverse(geometry.valid(x)).expand_as(x)
    assert seen.float().mean() > 0.4
    assert (back - x).abs()[seen].max() < 0.02
    linear, _ = in_voxels(geometry, shape)
    assert np.abs(linear - np.eye(len(shape))).max() > 0.1


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_gradients(shape: tuple[int, ...]) -> None:
    x = noise(2, 1, *shape).double().requires_grad_()
    for affine in (None, SMALL):
        geometry = draw_geometry(2, shape, generator(7), range(len(shape)), True, affine)
        assert geometry.moves[0] != geometry.moves[1]
        assert torch.autograd.gradcheck(geometry, (x,))
        assert torch.autograd.gradcheck(geometry.inverse, (x,))


def test_the_gradient_of_a_move_is_its_inverse() -> None:
    x = noise(4, 2, 6, 6, 6).requires_grad_()
    weight = noise(4, 2, 6, 6, 6) - 0.5
    geometry = exact((6, 6, 6))
    (geometry(x) * weight).sum().backward()
    assert torch.equal(x.grad, geometry.inverse(weight))


def test_half_precision_is_interpolated_in_float32() -> None:
    x = noise(1, 1, 64, 64).half()
    geometry = draw_geometry(1, (64, 64), generator(), None, affine=SMALL)
    assert geometry(x).dtype == torch.float16
    assert torch.equal(geometry(x), geometry(x.float()).half())


def test_autocast_leaves_the_grid_in_float32() -> None:
    x = noise(1, 1, 128, 128)
    geometry = draw_geometry(1, (128, 128), generator(), None, affine=SMALL)
    expected = geometry(x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(geometry(x), expected)


def test_wrong_tensors_are_refused() -> None:
    geometry = exact((6, 6), batch_size=2)
    with pytest.raises(ValueError, match="2 samples in 2D"):
        geometry(noise(3, 1, 6, 6))
    with pytest.raises(ValueError, match="2 samples in 2D"):
        geometry.inverse(noise(2, 1, 6, 6, 6))
    quarter = Geometry(2, (Move(turns=1),))
    with pytest.raises(ValueError, match="quarter turn"):
        quarter(noise(1, 1, 3, 4))


@pytest.mark.gpu
def test_the_device_agrees_with_the_cpu() -> None:
    x = noise(3, 2, 16, 20, 20)
    for affine in (None, SMALL):
        geometry = draw_geometry(3, (16, 20, 20), generator(), (0, 1, 2), True, affine, (2, 1, 1))
        tolerance = 0 if affine is None else 1e-5
        torch.testing.assert_close(geometry(x.cuda()).cpu(), geometry(x), rtol=0, atol=tolerance)
        torch.testing.assert_close(geometry.inverse(x.cuda()).cpu(), geometry.inverse(x), rtol=0, atol=tolerance)
        with torch.autocast("cuda"):
            torch.testing.assert_close(geometry(x.cuda()).cpu(), geometry(x), rtol=0, atol=tolerance)
