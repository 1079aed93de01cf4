"""nnU-Net with global and local mutual-information regularisation on unlabelled images."""

from nnunetv2_semisup.regularizers.mireg import MIReg
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMIReg(SemiSupervisedTrainer):
    """Mutual-information regularisation and output consistency (Peng et al. 2021)."""

    regularizers = (MIReg,)
