"""nnU-Net with a mean teacher's consistency on unlabelled images."""

from nnunetv2_semisup.regularizers.meanteacher import MeanTeacher
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMeanTeacher(SemiSupervisedTrainer):
    """Consistency with an EMA teacher's predictions (Tarvainen & Valpola 2017)."""

    regularizers = (MeanTeacher,)
