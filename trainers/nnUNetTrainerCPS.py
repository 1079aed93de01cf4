"""nnU-Net beside a second network: each labels the unlabelled images for the other."""

from nnunetv2_semisup.regularizers.cps import CPS
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCPS(SemiSupervisedTrainer):
    """Two networks that learn from each other's answers (Chen et al. 2021)."""

    regularizers = (CPS,)
