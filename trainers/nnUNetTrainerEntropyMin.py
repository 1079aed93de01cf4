"""nnU-Net with entropy minimisation on unlabelled images."""

from nnunetv2_semisup.regularizers.entropymin import EntropyMin
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerEntropyMin(SemiSupervisedTrainer):
    """Minimal entropy of the predictions on unlabelled images (Grandvalet & Bengio 2005)."""

    regularizers = (EntropyMin,)
