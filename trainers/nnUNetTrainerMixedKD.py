"""nnU-Net from dense, sparse and missing labels."""

from nnunetv2_semisup.regularizers.mixedkd import MixedKD
from nnunetv2_semisup.training.mixed_supervision import MixedSupervisionTrainer


class nnUNetTrainerMixedKD(MixedSupervisionTrainer):
    """Dense, sparse and missing labels: distillation from a second decoder, and confidence (Liu et al. 2023)."""

    regularizers = (MixedKD,)
