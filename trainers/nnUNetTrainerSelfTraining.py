"""nnU-Net that trains on its own predictions of the unlabelled images, in rounds."""

from nnunetv2_semisup.regularizers.selftraining import SelfTraining
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerSelfTraining(SemiSupervisedTrainer):
    """Rounds of pseudo-labels of whole cases, trained on as labels (Lee 2013; FLARE 2022)."""

    regularizers = (SelfTraining,)
