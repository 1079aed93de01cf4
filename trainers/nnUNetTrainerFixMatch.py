"""nnU-Net with confident pseudo-labels of a weak view on a strong, mixed one."""

from nnunetv2_semisup.regularizers.fixmatch import FixMatch
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerFixMatch(SemiSupervisedTrainer):
    """Confidence-masked weak-to-strong learning with mixed patches (Sohn et al. 2020)."""

    regularizers = (FixMatch,)
