"""Pre-training of nnU-Net's network by boundary-aware information maximisation."""

from nnunetv2_semisup.regularizers.bim import BIMPretrain
from nnunetv2_semisup.training.pretraining import PretrainingTrainer


class nnUNetTrainerBIMPretrain(PretrainingTrainer):
    """Boundary-aware information maximisation without any label (Peng et al. 2024), for `-pretrained_weights`."""

    regularizers = (BIMPretrain,)
