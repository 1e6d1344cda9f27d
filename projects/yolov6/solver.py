"""The slot of RepOptimizer: what ``SOLVER.OPTIMIZER`` ``"RepOptimizer"`` builds."""

from typing import Any

import torch
from torch import nn

from densekit.d2.config import CfgNode
from densekit.solver import OPTIMIZER_REGISTRY

from .rep_optimizer import MaskedSGD


@OPTIMIZER_REGISTRY.register()
def RepOptimizer(  # noqa: N802 - a name in configs
    solver: CfgNode, groups: list[dict[str, Any]], model: nn.Module, **common: Any
) -> torch.optim.Optimizer:
    """SGD with the gradient factors that the model has from ``MODEL.YOLOV6.REP_SCALES``.

    Raises:
        ValueError: it has none.
    """
    masks = getattr(model, "gradient_masks", None)
    if not masks:
        raise ValueError(
            "SOLVER.OPTIMIZER RepOptimizer needs the scales of its branches: set MODEL.YOLOV6.REP_SCALES to the "
            "checkpoint of a training with MODEL.YOLOV6.UNIT scaled_sum, and MODEL.YOLOV6.UNIT conv_relu."
        )
    options = {"lr": common["lr"], "weight_decay": common["weight_decay"]}
    return MaskedSGD(groups, masks, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **options)
