"""Stock nnU-Net that obeys a split file, a training length and a seed."""

from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerLabeledOnly(SemiSupervisedTrainer):
    """The baseline: no unlabelled images. With no settings it equals nnUNetTrainer bit for bit."""
