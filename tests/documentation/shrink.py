"""Make the plans of the documentation's dataset small: a training takes seconds."""

import json
import os
from pathlib import Path

from nnunetv2_semisup.evaluation.small_plans import small_plans

SHORT = {"training": {"num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}}

if __name__ == "__main__":
    file = Path(os.environ["nnUNet_preprocessed"]) / "Dataset004_Hippocampus" / "nnUNetPlans.json"
    plans = small_plans(json.loads(file.read_text()), "3d_fullres", "nnUNetPlans")
    file.write_text(json.dumps(plans | {"semisup": SHORT}))
