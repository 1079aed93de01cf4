"""nnU-Net with cross-level contrast and consistency on unlabelled images."""

from nnunetv2_semisup.regularizers.crosslevel import CrossLevel
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCrossLevel(SemiSupervisedTrainer):
    """Contrast and consistency between a patch and cells of it (Zhao et al. 2022)."""

    regularizers = (CrossLevel,)
