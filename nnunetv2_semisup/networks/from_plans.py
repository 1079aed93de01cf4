"""The network that nnU-Net builds from plans, outside a training."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_semisup.data.folders import resolve_configuration


def network_from_plans(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> nn.Module:
    """Without deep supervision, and with weights that mean nothing yet.

    Raises SemiSupervisedError for a configuration that the plans lack, ImportError for a network class that is not
    installed.
    """
    resolved = resolve_configuration(plans, configuration)
    manager = PlansManager(plans)
    with redirect_stdout(StringIO()):
        network: nn.Module = get_network_from_plans(
            resolved.network_arch_class_name,
            resolved.network_arch_init_kwargs,
            resolved.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, resolved, dataset_json),
            manager.get_label_manager(dataset_json).num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
    return network
