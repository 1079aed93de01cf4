"""Contrast of voxel embeddings against the mean embeddings of classes, of one image or of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.precision import full_precision, without_autocast

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, with gradient, so that N processes equal one that sees all samples."""

_CHUNK = 2**22
"""Entries of the membership matrix that class sums hold at a time."""
_EPS = 1e-6
"""Norm below which an embedding has no direction."""


@dataclass(frozen=True)
class ClassVoxels:
    """The voxels of each sample, sorted by class.

    Attributes:
        classes: [B, V], int64, class of each voxel; negative where it has none.
        order: [B, V], the voxels class by class, those without a class first.
        first: [B, K], where in `order` each class begins.
        size: [B, K], voxels of each class.
    """

    classes: Tensor
    order: Tensor
    first: Tensor
    size: Tensor


class Contrast(NamedTuple):
    """A contrast, and what it is made of: detached, nan where no term is valid.

    Attributes:
        loss: scalar.
        positive: mean cosine of an anchor and the means of its own class.
        negative: the same of the other classes' means.
        excess: mean term above its floor, as a share of what it is where all embeddings are equal: 0 where every
            anchor lies on its class means and far from the others, 1 where nothing is told apart.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor
    excess: Tensor


def class_voxels(classes: Tensor, count: int) -> ClassVoxels:
    """Sort the voxels of each sample by class.

    Args:
        classes: [B, *S], integer; in [0, count), negative where a voxel belongs to no class.
        count: K, of classes.

    Example:
        >>> import torch
        >>> voxels = class_voxels(torch.tensor([[1, -1, 0, 1]]), 3)
        >>> voxels.size.tolist(), voxels.order.tolist()
        ([[1, 2, 0]], [[1, 2, 0, 3]])
    """
    flat = classes.flatten(1).long()
    ordered, order = flat.sort(dim=1, stable=True)
    edges = torch.arange(count + 1, device=flat.device).expand(len(flat), -1).contiguous()
    bounds = torch.searchsorted(ordered, edges)
    return ClassVoxels(flat, order, bounds[:, :-1], bounds.diff(dim=1))


def draw_anchors(voxels: ClassVoxels, count: int, generator: torch.Generator) -> Tensor:
    """Draw voxels of every class of every sample, uniformly and with replacement.

    Chaitanya et al., MedIA 2023, as released.

    Args:
        voxels: from `class_voxels`.
        count: N, for each class.
        generator: on the CPU; the only source of randomness. It is asked for equally many numbers whatever there is.

    Returns:
        Indices into the flattened voxels [B, K, N], int64; arbitrary where a class has no voxel.

    Example:
        >>> import torch
        >>> voxels = class_voxels(torch.tensor([[1, -1, 0, -1]]), 2)
        >>> draw_anchors(voxels, 3, torch.Generator()).tolist()
        [[[2, 2, 2], [0, 0, 0]]]
    """
    shares = torch.rand(*voxels.size.shape, count, generator=generator, dtype=torch.float64).to(voxels.size.device)
    size = voxels.size.unsqueeze(-1)
    within = torch.minimum((shares * size).long(), size - 1)
    position = (voxels.first.unsqueeze(-1) + within).clamp(0, voxels.order.shape[1] - 1)
    return voxels.order.gather(1, position.flatten(1)).view_as(position)


def voxel_vectors(features: Tensor, index: Tensor) -> Tensor:
    """Features [B, C, *S] at voxels [B, K, N] of the flattened space, as vectors [B, K, N, C].

    Example:
        >>> import torch
        >>> voxel_vectors(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1]]])).tolist()
        [[[[2.0, 4.0]]]]
    """
    channels = features.shape[1]
    found = features.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, channels, -1))
    return found.transpose(1, 2).reshape(*index.shape, channels)


def class_means(features: Tensor, voxels: ClassVoxels) -> Tensor:
    """Mean feature of each class in each sample.

    Chaitanya et al., MedIA 2023, as released: over all voxels of the class, features not normalised, with gradient. A
    product with the matrix of memberships, chunk by chunk, and a look-up in the backward: neither keeps more than the
    voxels' classes in between.

    Args:
        features: [B, C, *S].
        voxels: from `class_voxels`. What stands at voxels without a class has no influence.

    Returns:
        [B, K, C] of at least float32; 0 where a class has no voxel.

    Example:
        >>> import torch
        >>> voxels = class_voxels(torch.tensor([[0, 0, -1]]), 2)
        >>> class_means(torch.tensor([[[1.0, 3.0, 9.0]]]), voxels).tolist()
        [[[2.0], [0.0]]]
    """
    with without_autocast(features):
        sums: Tensor = _ClassSums.apply(features.flatten(2), voxels.classes, voxels.size.shape[1])  # type: ignore[no-untyped-call]
        return sums / voxels.size.clamp_min(1).unsqueeze(-1)


def intra_contrast(
    anchors: Tensor, means: Tensor, present: Tensor, temperature: float, reduce: Reduce | None = None
) -> Contrast:
    """Cross-entropy of a cosine classifier of each image's voxels whose weights are that image's own class means.

    Chaitanya et al., MedIA 2023, arXiv 2112.09645, within an image, with s(a, b) = cos(a, b) / temperature:
    l(z; k) = -log(exp s(z, m_k) / sum over present c of exp s(z, m_c)). An image's terms are averaged; the loss is
    twice the mean over images, as in the paper, which adds the two images of a pair.

    Args:
        anchors: embeddings of voxels [M, K, N, D], N of each class, of M images.
        means: embeddings of the classes [M, K, D].
        present: bool [M, K]; a class that is not has neither anchors nor a mean.
        temperature: above 0.
        reduce: sums over all processes, so that the images are those of all; None: one process.

    Returns:
        The loss, a scalar of at least float32 that is 2 log K where all embeddings are equal, and its parts. Where no
        class is present a zero that is attached to the graph.

    Departures: an absent class is left out of the sums; the released code uses images that hold all classes.

    Example:
        >>> import torch
        >>> equal = torch.ones(2, 3, 4, 5)
        >>> found = intra_contrast(equal, equal[:, :, 0], torch.ones(2, 3, dtype=torch.bool), 0.1)
        >>> round(found.loss.item() / 2, 4), round(found.excess.item(), 4)
        (1.0986, 1.0)
    """
    return _contrast(anchors, means.unsqueeze(1), present.unsqueeze(1), present, temperature, reduce)


def inter_contrast(
    anchors: Tensor,
    means: Tensor,
    present: Tensor,
    pairs: Sequence[tuple[int, int]],
    temperature: float,
    reduce: Reduce | None = None,
) -> Contrast:
    """The same for pairs of images: voxels of each against the class means of both.

    Chaitanya et al., MedIA 2023, arXiv 2112.09645, between images x and x', in the released code the default:
    D(z) = sum over c of exp s(z, m_c(x)) + exp s(z, m_c(x')), and for an anchor z of class k two terms,
    -log(exp s(z, m_k(x)) / D(z)) and -log(exp s(z, m_k(x')) / D(z)). As 1 / (2 N K) times the sum over the anchors of
    both images, which is twice the mean term; then the mean over pairs. Both positives stand in D, so the mean of an
    anchor's two terms is at least log 2.

    Args:
        anchors: embeddings of voxels [M, K, N, D], N of each class, of M images.
        means: embeddings of the classes [M, K, D].
        present: bool [M, K]; a class that is not has neither anchors nor a mean.
        pairs: indices of two images each.
        temperature: above 0.
        reduce: sums over all processes, so that the pairs are those of all; None: one process.

    Returns:
        The loss, a scalar of at least float32 that is 2 log 2K where all embeddings are equal, and its parts. Where no
        class is present in both images of any pair a zero that is attached to the graph.

    Departures: a class has anchors in a pair where both images hold it, and a mean in D where an image holds it; pairs
    without such a class do not count. The released code uses images that hold all classes, and divides its running sum
    after every pair, so that the last one makes up nearly all of it.

    Example:
        >>> import torch
        >>> equal = torch.ones(2, 3, 4, 5)
        >>> found = inter_contrast(equal, equal[:, :, 0], torch.ones(2, 3, dtype=torch.bool), [(0, 1)], 0.1)
        >>> round(found.loss.item() / 2, 4), round(found.excess.item(), 4)
        (1.7918, 1.0)
    """
    both = torch.tensor(pairs, device=means.device).view(-1, 2)
    here, there = torch.cat([both, both.flip(1)]).unbind(1)
    prototypes = torch.stack([means[here], means[there]], dim=1)
    exists = torch.stack([present[here], present[there]], dim=1)
    return _contrast(anchors[here], prototypes, exists, exists.all(dim=1), temperature, reduce)


def _contrast(
    anchors: Tensor, prototypes: Tensor, exists: Tensor, valid: Tensor, temperature: float, reduce: Reduce | None
) -> Contrast:
    """Twice the mean over rows of each row's mean term.

    Args:
        anchors: [P, K, N, D], a row for each image and what it is compared with.
        prototypes: [P, R, K, D], the means of R images.
        exists: [P, R, K], which of them there are.
        valid: [P, K], the classes whose anchors count; all R means of theirs exist.
        temperature: above 0.
        reduce: over processes, or None.
    """
    with without_autocast(anchors):
        directions = F.normalize(full_precision(anchors), dim=-1, eps=_EPS)
        cosines = torch.einsum(
            "pknd,prcd->pknrc", directions, F.normalize(full_precision(prototypes), dim=-1, eps=_EPS)
        )
        counted = valid[:, :, None, None]
        # Classes that do not count keep everything, since a sum over nothing has no logarithm.
        kept = (exists[:, None] | ~counted).unsqueeze(2)
        total = (cosines / temperature).masked_fill(~kept, -torch.inf).flatten(-2).logsumexp(-1)
        own = cosines.diagonal(dim1=1, dim2=4).movedim(-1, 1)
        terms = (total.unsqueeze(-1) - own / temperature).masked_fill(~counted, 0)
        positives = own.shape[2] * own.shape[3]
        rows = terms.sum((1, 2, 3)) / (valid.sum(1) * positives).clamp_min(1)
        sums = torch.stack([rows.sum(), valid.any(1).sum().to(rows)])
        if reduce is not None:
            sums = reduce(sums)
        loss = 2 * sums[0] / sums[1].clamp_min(1)
    return Contrast(loss, *_parts(cosines.detach(), own.detach(), terms.detach(), exists, valid))


def _parts(cosines: Tensor, own: Tensor, terms: Tensor, exists: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines to own and to other classes, and the excess, over all valid anchors."""
    counted = valid[:, :, None, None]
    other = exists[:, None] & ~torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)[:, None]
    other = (other & counted).unsqueeze(2).expand_as(cosines)
    images = exists.shape[1]
    chance = torch.where(valid, exists.sum((1, 2)).clamp_min(1)[:, None].log() - math.log(images), 0).sum()
    floors = valid.sum() * math.log(images)
    per_class = own.shape[2] * own.shape[3]
    return (
        own.masked_fill(~counted, 0).sum() / (valid.sum() * per_class),
        (cosines * other).sum() / other.sum(),
        (terms.sum() / per_class - floors) / chance.where(chance > 0, torch.nan),
    )


class _ClassSums(torch.autograd.Function):
    """Sums of features [B, C, V] over the voxels of each class: [B, K, C]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, classes: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(classes)
        ctx.dtype = features.dtype
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        numbers = torch.arange(count, device=classes.device).unsqueeze(1)
        sums = torch.zeros(len(features), count, features.shape[1], dtype=dtype, device=features.device)
        chunk = max(_CHUNK // max(len(features) * count, 1), 1)
        for values, members in zip(torch.split(features, chunk, 2), torch.split(classes, chunk, 1), strict=True):
            inside = values.to(dtype).masked_fill((members < 0).unsqueeze(1), 0)
            sums.baddbmm_((members.unsqueeze(1) == numbers).to(dtype), inside.transpose(1, 2))
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (classes,) = ctx.saved_tensors
        # A voxel's gradient is that of its class's sum; those without a class get the 0 in front.
        table = F.pad(gradients[0].transpose(1, 2).to(ctx.dtype), (1, 0))
        index = (classes.clamp_min(-1) + 1).unsqueeze(1)
        return table.gather(2, index.expand(-1, table.shape[1], -1)), None, None
