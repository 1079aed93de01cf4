"""nnU-Net with an uncertainty-aware mean teacher on unlabelled images."""

from nnunetv2_semisup.regularizers.uamt import UAMT
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerUAMT(SemiSupervisedTrainer):
    """Consistency with an EMA teacher where it is certain (Yu et al. 2019)."""

    regularizers = (UAMT,)
