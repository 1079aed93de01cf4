"""Weak to strong: confident answers on a plain view are labels of a strong one with mixed patches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nnunetv2_semisup.regularizers.base import Facts, Step
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabels, PseudoLabelSettings, pseudo_label_terms


@dataclass(frozen=True)
class Learnt:
    """What the student learns from a plain view.

    Attributes:
        terms: unweighted, by the names of `pseudo_labels.TERMS`.
        logits: of the student on the mixed patches, [B, C, *spatial], with gradient.
        own: voxels that are the unlabelled patch's own and lie in its image, bool [B, 1, *spatial].
        confident: share of the answers that count.
    """

    terms: dict[str, Tensor]
    logits: Tensor
    own: Tensor
    confident: Tensor


def learn_from_plain_view(
    facts: Facts, step: Step, answered: Tensor, strong: Tensor, settings: PseudoLabelSettings, mixing: MixingSettings
) -> Learnt:
    """The student on the strong view, mixed with other patches, against what was answered on the plain one.

    Sohn et al., "FixMatch", NeurIPS 2020, equation 4, with mixed patches (Yun et al., CutMix, ICCV 2019; Bai et al.,
    BCP, CVPR 2023).

    Args:
        facts: of the training.
        step: with a labelled batch, from which boxes may come.
        answered: logits on the plain view, [B, C, *spatial]; no gradient flows into them.
        strong: the strong view of the same patches.
        settings: of the pseudo-labels, resolved.
        mixing: of the patches.
    """
    assert step.labeled is not None  # trains beside supervised training only
    labels = PseudoLabels.of(facts, answered, settings, step.valid)
    mix = mixing.draw(facts, step)
    truth, known = facts.truth(step.labeled.target, labels.target.shape[1])
    valid = mix.valid(step.valid, known)
    logits, _ = step.student(mix(strong, step.labeled.images), ())
    terms = pseudo_label_terms(facts, logits, labels.mixed(mix, truth), valid, step.reduce)
    return Learnt(terms, logits, valid & mix.own, labels.share(step.valid))
