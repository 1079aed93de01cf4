"""nnU-Net with boundary-aware information maximisation on unlabelled images."""

from nnunetv2_semisup.regularizers.bim import BIM
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerBIM(SemiSupervisedTrainer):
    """Boundary-aware information maximisation beside supervised training (Peng et al. 2024)."""

    regularizers = (BIM,)
