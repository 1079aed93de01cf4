"""FixMatch with a second regularizer in the same training, whose settings stand beside FixMatch's in the plans."""

from nnunetv2_semisup.trainers.nnUNetTrainerFixMatch import nnUNetTrainerFixMatch

from nnunetv2_semisup.regularizers.crosslevel import CrossLevel
from nnunetv2_semisup.regularizers.fixmatch import FixMatch
from nnunetv2_semisup.regularizers.localcontrast import LocalContrast


class nnUNetTrainerFixMatchLocalContrast(nnUNetTrainerFixMatch):
    """Pseudo-labels on mixed patches, and a contrast of voxels against class means."""

    regularizers = (FixMatch, LocalContrast)


class nnUNetTrainerFixMatchCrossLevel(nnUNetTrainerFixMatch):
    """Pseudo-labels on mixed patches, and contrast and consistency of cells with their patch."""

    regularizers = (FixMatch, CrossLevel)
