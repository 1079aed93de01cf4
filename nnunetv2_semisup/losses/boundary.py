"""Boundaries between clusters where the image has edges: a local correlation of the entropy map with the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import check_mask, masked, valid_range
from nnunetv2_semisup.losses.precision import full_precision, without_autocast

_SLAB_SHARE = 1 / 8
"""Share of the batch's map that one slab and its halo may have. About 16 maps of a slab are alive at a time."""

_LEAST_SPAN = 1e-3
"""Nats. An entropy map that varies less is not stretched to [0, 1]: rounding errors would become boundaries."""


def boundary_loss(
    entropy: Tensor,
    edges: Tensor,
    radius: Sequence[int],
    mask: Tensor | None = None,
    flat: float = 1e-3,
    eps: float = 1e-6,
) -> Tensor:
    """Negative mean of the squared local correlation of an entropy map with edges, dimensionless, in [-1, 0].

    Peng et al., MedIA 2024 (10.1016/j.media.2024.103150): where clusters meet, assignments are uncertain, and that
    shall be at edges. In the window around each voxel, over its valid voxels: max(cov, 0)^2 / (var var). The gradient
    flows into the entropy map alone.

    Args:
        entropy: [B, 1, *S], in nats; scaled by the range of each sample's valid voxels, without gradient.
        edges: [B, 1, *S], in [0, 1], for instance from `edge_map`.
        radius: half the window per axis, in voxels: 2 radius + 1 wide. 0 leaves an axis out.
        mask: [B, 1, *S], bool or 0/1, `edge_map`'s for its edges; voxels outside have no influence. None: all count.
        flat: least standard deviation of the edges in a window that counts. A correlation has no scale: below it,
            noise would weigh as much as an organ's border.
        eps: least variance of the scaled entropy in a window; a flatter one is taken to have it.

    Returns:
        A scalar of at least float32, the mean over the windows that count. Without one a zero that is attached to the
        graph. Beyond the inputs it holds, forward and backward, less than four entropy maps: it runs slab by slab, and
        computes the gradient along with the value. It has no second derivative.

    Raises:
        ValueError: shapes, radius or mask do not fit together; `flat` is not above 0.

    Departures: variances are per valid voxel, so that neither padding nor a mask's border seems to vary; windows
    without edges are left out, where the released code rewards them in full if the entropy is flat too, and flattens
    it otherwise; no reward for negative covariance; an entropy map whose range is below 1e-3 nats is not stretched to
    [0, 1]; masks; windows per axis; three spatial axes.

    Example:
        >>> import torch
        >>> edges = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]])
        >>> [round(boundary_loss(entropy, edges, radius=[1]).item(), 2) for entropy in (3 * edges, edges.roll(1))]
        [-1.0, -0.13]
    """
    axes = entropy.ndim - 2
    if axes < 1 or entropy.shape[1] != 1 or entropy.shape != edges.shape:
        raise ValueError(
            f"entropy and edges must have one shape [B, 1, *S], got {tuple(entropy.shape)} and {tuple(edges.shape)}"
        )
    if len(radius) != axes or min(radius) < 0:
        raise ValueError(f"the radius needs {axes} numbers of at least 0, one per spatial axis, got {list(radius)}")
    if flat <= 0:
        raise ValueError(f"flat must be above 0, got {flat}")
    if mask is not None:
        check_mask(entropy, mask)
    # Slabs along the longest axis have the smallest halo.
    axis = max(range(axes), key=lambda i: entropy.shape[2 + i])
    radius = [radius[axis], *radius[:axis], *radius[axis + 1 :]]
    with without_autocast(entropy):
        entropy, edges = (full_precision(x).movedim(2 + axis, 2) for x in (entropy, edges.detach()))
        valid = torch.ones_like(entropy, dtype=torch.bool) if mask is None else mask.bool().movedim(2 + axis, 2)
        loss: Tensor = _MeanCorrelation.apply(entropy, edges, valid, radius, flat, eps)  # type: ignore[no-untyped-call]
        return loss


def released_boundary_loss(entropy: Tensor, image: Tensor, gamma: float, window: int = 5) -> Tensor:
    """The boundary loss as the authors released it, dimensionless, in [-1, 0]; for comparison with `boundary_loss`.

    Peng et al., MedIA 2024 (10.1016/j.media.2024.103150). Backward differences that wrap around, min-max per sample,
    sums over windows padded with zeros, and 1e-5 as the least covariance and variance of such a sum: a window in which
    both maps are flat earns the full -1, and borders seem to vary. The gradient flows into the entropy map alone.

    Args:
        entropy: [B, 1, *S], in nats.
        image: [B, C, *S], in any unit.
        gamma: exponent of the edges.
        window: its width along every axis in voxels, odd.

    Returns:
        A scalar of at least float32, the mean over all voxels.

    Raises:
        ValueError: the shapes do not fit together, or the window is even.

    Departures: float32 always; three spatial axes, where a window has more voxels to each of these constants.

    Example:
        >>> import torch
        >>> released_boundary_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), gamma=0.75).item()
        -1.0
    """
    if entropy.ndim < 3 or entropy.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ValueError(
            f"an entropy map [B, 1, *S] and an image [B, C, *S] are needed, got {tuple(entropy.shape)} and "
            f"{tuple(image.shape)}"
        )
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window must be odd, got {window}")
    with without_autocast(entropy):
        entropy, image = full_precision(entropy), full_precision(image.detach())
        axes = range(2, image.ndim)
        squares = torch.stack([(image - image.roll(1, axis)).square() for axis in axes]).sum(0)
        x, y = _unit_range(entropy), _unit_range(squares.sqrt().mean(1, keepdim=True)) ** gamma
        size: int = window ** len(axes)
        radius = [window // 2 for _ in axes]
        sum_x, sum_y, sum_xx, sum_yy, sum_xy = (size * _box_mean(s, radius) for s in (x, y, x * x, y * y, x * y))
        covariance = (sum_xy - sum_x * sum_y / size).clamp_min(1e-5)
        variances = [(sum_xx - sum_x * sum_x / size).clamp_min(1e-5), (sum_yy - sum_y * sum_y / size).clamp_min(1e-5)]
        return -(covariance.square() / (variances[0] * variances[1])).mean()


class _MeanCorrelation(torch.autograd.Function):
    """The loss with its gradient, which is computed along with it: one map is kept, and nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any, entropy: Tensor, edges: Tensor, valid: Tensor, radius: Sequence[int], flat: float, eps: float
    ) -> Tensor:
        span = valid_range(entropy, valid)[1].clamp_min(_LEAST_SPAN)
        centres = _mean(entropy, valid), _mean(edges, valid)
        gradient = torch.zeros_like(entropy) if ctx.needs_input_grad[0] else None
        total, windows = entropy.new_zeros(()), valid.new_zeros((), dtype=torch.long)
        depth, halo = entropy.shape[2], radius[0]
        thickness = max(int(_SLAB_SHARE * len(entropy) * depth) - 2 * halo, 1)
        for b in range(len(entropy)):
            for start in range(0, depth, thickness):
                first, last = max(start - halo, 0), start + thickness + halo
                here = (slice(b, b + 1), slice(None), slice(first, last))
                # Centred, so that little cancels where a squared mean is taken from a mean square.
                x = masked((entropy[here] - centres[0][b]) / span[b], valid[here])
                y = masked(edges[here] - centres[1][b], valid[here])
                rows = slice(start - first, start - first + thickness)
                values, counts, slab = _correlations(x, y, valid[here], radius, rows, flat, eps, gradient is not None)
                total, windows = total + values, windows + counts
                if gradient is not None and slab is not None:
                    gradient[here] += slab
        if gradient is not None:
            gradient.mul_(valid).div_(-span * windows.clamp_min(1))
            ctx.save_for_backward(gradient)
        return -total / windows.clamp_min(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None


def _correlations(
    x: Tensor,
    y: Tensor,
    valid: Tensor,
    radius: Sequence[int],
    rows: slice,
    flat: float,
    eps: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the windows centred in some rows of a slab: sum of the squared correlations, their number, gradient for x."""
    share = _box_mean(valid.to(x.dtype), radius, rows)
    share = torch.where(share > 0, share, 1)
    mean_x, mean_y = (_box_mean(m, radius, rows) / share for m in (x, y))
    variance_x = _box_mean(x * x, radius, rows) / share - mean_x * mean_x
    variance_y = _box_mean(y * y, radius, rows) / share - mean_y * mean_y
    covariance = (_box_mean(x * y, radius, rows) / share - mean_x * mean_y).clamp_min(0)
    counts = valid[:, :, rows] & (variance_y > flat * flat)
    varies = variance_x > eps
    slope = torch.where(counts, covariance / (variance_x.clamp_min(eps) * variance_y.clamp_min(flat * flat)), 0)
    total = (slope * covariance).sum()
    if not with_gradient:
        return total, counts.sum(), None
    # Of c^2 / (vx vy) by a voxel's x: sums over the windows that it is in of a (y - mean_y) - b (x - mean_x).
    a = 2 * slope / share
    b = torch.where(varies, a * covariance / variance_x.clamp_min(eps), 0)
    shift = b * mean_x - a * mean_y
    spread_a, spread_b, spread_shift = (_box_mean(_at_rows(m, rows, x.shape[2]), radius) for m in (a, b, shift))
    return total, counts.sum(), y * spread_a - x * spread_b + spread_shift


def _at_rows(x: Tensor, rows: slice, depth: int) -> Tensor:
    """Maps of some rows of a slab among the slab's other rows, which are 0."""
    whole = x.new_zeros((*x.shape[:2], depth, *x.shape[3:]))
    whole[:, :, rows] = x
    return whole


def _box_mean(x: Tensor, radius: Sequence[int], rows: slice = slice(None)) -> Tensor:
    """Mean over windows of maps [B, C, *S] with zeros outside, at some rows of the first spatial axis."""
    for axis, r in enumerate(radius, start=2):
        # As a 2D map with one axis of its own the same call serves any number of axes.
        matrices = x.reshape(x.shape[:axis].numel(), 1, x.shape[axis], x.shape[axis + 1 :].numel())
        means: Tensor = F.avg_pool2d(matrices, (2 * r + 1, 1), stride=1, padding=(r, 0))
        x = means.reshape(x.shape)[:, :, rows if axis == 2 else slice(None)]
    return x


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    """Per sample the mean of the valid values; 0 without one."""
    axes = tuple(range(1, x.ndim))
    return masked(x, valid).sum(axes, keepdim=True) / valid.sum(axes, keepdim=True).clamp_min(1)


def _unit_range(x: Tensor) -> Tensor:
    """The authors' min-max scaling per sample; the range has no gradient."""
    axes = tuple(range(1, x.ndim))
    low, high = x.detach().amin(axes, keepdim=True), x.detach().amax(axes, keepdim=True)
    return (x - low) / (high - low + 1e-6)
