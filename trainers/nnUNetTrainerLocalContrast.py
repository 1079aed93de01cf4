"""nnU-Net with a contrast of voxels against class means of labelled and pseudo-labelled patches."""

from nnunetv2_semisup.regularizers.localcontrast import LocalContrast
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerLocalContrast(SemiSupervisedTrainer):
    """Local contrastive loss with pseudo-labels (Chaitanya et al. 2023)."""

    regularizers = (LocalContrast,)
