"""RepOptimizer: plain convolutions that train as if they had branches. YOLOv6, arXiv 2209.02976, section 2.5.1.

"Re-parameterizing Your Optimizers rather than Architectures" (arXiv 2205.15242), sections 3.2 and 3.3. A network of
``scaled_sum`` units finds the scales of the branches; one of ``conv_relu`` units begins with the sum of scaled branches
and multiplies its gradients by what the branches would have done to them.

Plain torch. Shapes: C input and C' output channels of a 3x3 convolution.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the 3x3, the 1x1 and the identity branch, (C',) each; None without the last.
Scales = tuple[Tensor, Tensor, Tensor | None]


@torch.no_grad()
def start_from_branches(conv: nn.Conv2d, scales: Scales, point: Tensor | None = None) -> None:
    """Sets a 3x3 convolution to the sum of its scaled branches.

    Args:
        conv: its weight is that of the 3x3 branch.
        scales: of the branches.
        point: weight (C', C, 1, 1) of the 1x1 branch; drawn as torch draws one if None.
    """
    of_conv, of_point, of_identity = scales
    if point is None:
        drawn = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False, device=conv.weight.device)
        point = drawn.weight
    total = conv.weight * _each_output(of_conv) + F.pad(point * _each_output(of_point), [1, 1, 1, 1])
    if of_identity is not None:
        total = total + F.pad(torch.diag(of_identity)[:, :, None, None], [1, 1, 1, 1])
    conv.weight.copy_(total)


def gradient_mask(scales: Scales, shape: torch.Size) -> Tensor:
    """Factors (C', C, 3, 3) on the gradient of a convolution of this shape.

    Squares of the scales, for a branch's gradient and the change it makes are both scaled; the identity counts once.
    """
    of_conv, of_point, of_identity = scales
    mask = _each_output(of_conv.square()).expand(shape).clone()
    mask[:, :, 1, 1] += of_point.square()[:, None]
    if of_identity is not None:
        mask[:, :, 1, 1] += torch.eye(shape[0], device=mask.device, dtype=mask.dtype)
    return mask


def _each_output(scale: Tensor) -> Tensor:
    return scale[:, None, None, None]


def find_scales(weights: Mapping[str, Tensor]) -> dict[str, Scales]:
    """The scales of every unit of a trained network of ``scaled_sum`` units, by the unit's path."""
    ends = ".conv_scale"
    places = [name.removesuffix(ends) for name in weights if name.endswith(ends)]
    return {
        place: (weights[f"{place}{ends}"], weights[f"{place}.point_scale"], weights.get(f"{place}.identity_scale"))
        for place in places
    }


def take_scales(model: nn.Module, scales: Mapping[str, Scales]) -> dict[nn.Parameter, Tensor]:
    """Starts the units of a model from scaled branches and returns the factors of their gradients.

    Args:
        model: whose units at the same paths are plain convolutions.
        scales: of :func:`find_scales`.

    Raises:
        ValueError: a unit is not there or of another kind.
    """
    masks: dict[nn.Parameter, Tensor] = {}
    for place, own in scales.items():
        try:
            conv = model.get_submodule(f"{place}.conv")
        except AttributeError as error:
            raise ValueError(
                f"The scales are of another network: the model has no unit {place!r} ({error})."
            ) from error
        if not isinstance(conv, nn.Conv2d) or conv.out_channels != len(own[0]):
            raise ValueError(f"The scales are of another network: unit {place!r} has another width.")
        start_from_branches(conv, own)
        masks[cast(nn.Parameter, conv.weight)] = gradient_mask(own, conv.weight.shape)
    return masks


class MaskedSGD(torch.optim.SGD):
    """SGD that multiplies the gradients of some parameters before its step.

    Args:
        params: parameters or groups.
        masks: parameter -> factors of its shape; others keep their gradients.
        options: of SGD.
    """

    def __init__(self, params: Any, masks: Mapping[nn.Parameter, Tensor], **options: Any) -> None:
        super().__init__(params, **options)
        self._masks = dict(masks)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.no_grad():
            for parameter, mask in self._masks.items():
                if parameter.grad is not None:
                    parameter.grad.mul_(mask.to(parameter.grad))
        return super().step(closure)
