"""Convolutions that are trained with several branches and deployed as one. YOLOv6, arXiv 2209.02976, section 2.1.

- RepVGG: "RepVGG: Making VGG-style ConvNets Great Again" (arXiv 2101.03697), section 3.
- QARepVGG: "Make RepVGG Greater Again: A Quantization-aware Approach" (arXiv 2212.01593), section 4.
- RepOptimizer: "Re-parameterizing Your Optimizers rather than Architectures" (arXiv 2205.15242), section 3.

Plain torch. A unit maps (N, C, H, W) to (N, C', H / stride, W / stride). Its ``fuse`` makes it one convolution, in
evaluation mode and for good.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers.folding import folded, plain_convolution

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """The norm of every layer of the system."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def fuse(model: nn.Module) -> None:
    """Calls ``fuse`` of every module in a model that has it; those around others first."""
    for module in list(model.modules()):
        own = getattr(module, "fuse", None)
        if module is not model and callable(own):
            own()


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, activation.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: k, odd; the padding keeps the size.
        stride: of the convolution.
        activation: ``"relu"``, ``"silu"`` or ``""``.
        bias: a bias before the norm, which has no effect but is in some published weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activation: str = "relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.norm: nn.Module = batch_norm(out_channels)
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))

    def fuse(self) -> None:
        """Folds the norm into the convolution."""
        if isinstance(self.norm, nn.modules.batchnorm._BatchNorm):
            weight, bias = folded(self.conv.weight, self.conv.bias, self.norm)
            self.conv, self.norm = plain_convolution(weight, bias, self.conv), nn.Identity()


class RepVGGUnit(nn.Module):
    """The sum of a 3x3 convolution, a 1x1 convolution and the identity, each with its norm; then ReLU.

    Args:
        in_channels: C.
        out_channels: C'; there is an identity where it is C and the stride is 1.
        stride: of the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.dense = ConvNorm(in_channels, out_channels, stride=stride, activation="")
        self.point = ConvNorm(in_channels, out_channels, kernel=1, stride=stride, activation="")
        same = in_channels == out_channels and stride == 1
        self.identity: nn.Module | None = batch_norm(out_channels) if same else None
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(x).relu_()
        total = self.dense(x) + self.point(x)
        if self.identity is not None:
            total = total + self.identity(x)
        return total.relu_()

    def fuse(self) -> None:
        """Adds the branches up to one 3x3 convolution."""
        if self.fused is not None:
            return
        weight, bias = folded(self.dense.conv.weight, None, self.dense.norm)
        point, point_bias = folded(self.point.conv.weight, None, self.point.norm)
        weight, bias = weight + F.pad(point, [1, 1, 1, 1]), bias + point_bias
        if self.identity is not None:
            same, shift = folded(_delta(len(weight), weight), None, self.identity)
            weight, bias = weight + same, bias + shift
        self.fused = plain_convolution(weight, bias, self.dense.conv)
        del self.dense, self.point, self.identity
        self.identity = None


class QARepVGGUnit(nn.Module):
    """RepVGG whose branches quantise well: a norm on the 3x3 branch only, and one on the sum; then ReLU.

    Args:
        in_channels: C.
        out_channels: C'; there is an identity where it is C and the stride is 1.
        stride: of the convolutions.
        average: adds a 3x3 average as a fourth branch where there is an identity.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, average: bool = True) -> None:
        super().__init__()
        self.dense = ConvNorm(in_channels, out_channels, stride=stride, activation="")
        self.point = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.same = in_channels == out_channels and stride == 1
        self.average = average and self.same
        self.norm: nn.Module = batch_norm(out_channels)
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(x).relu_()
        total = self.dense(x) + self.point(x)
        if self.same:
            total = total + x
        if self.average:
            total = total + F.avg_pool2d(x, 3, stride=1, padding=1)
        return self.norm(total).relu_()

    def fuse(self) -> None:
        """Adds the branches up to one 3x3 convolution and folds the norm of the sum into it."""
        if self.fused is not None:
            return
        weight, bias = folded(self.dense.conv.weight, None, self.dense.norm)
        weight = weight + F.pad(self.point.weight.double(), [1, 1, 1, 1])
        if self.same:
            weight = weight + _delta(len(weight), weight)
        if self.average:
            weight = weight + torch.eye(len(weight)).to(weight)[:, :, None, None] / 9
        weight, bias = folded(weight, bias, self.norm)
        self.fused = plain_convolution(weight, bias, self.dense.conv)
        del self.dense, self.point, self.norm


class ScaledSumUnit(nn.Module):
    """The unit whose scales RepOptimizer searches: scaled 3x3, scaled 1x1, scaled identity, one norm, ReLU.

    Args:
        in_channels: C.
        out_channels: C'; there is an identity where it is C and the stride is 1.
        stride: of the convolutions.
        scale: what the scales start from.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.point = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.conv_scale = nn.Parameter(torch.full((out_channels,), scale))
        self.point_scale = nn.Parameter(torch.full((out_channels,), scale))
        same = in_channels == out_channels and stride == 1
        self.identity_scale = nn.Parameter(torch.full((out_channels,), scale)) if same else None
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv(x) * _along_channels(self.conv_scale) + self.point(x) * _along_channels(self.point_scale)
        if self.identity_scale is not None:
            total = total + x * _along_channels(self.identity_scale)
        return self.norm(total).relu_()

    def parameter_options(self, name: str, parameter: nn.Parameter) -> dict[str, float]:
        """Returns the parameter's options in the optimizer: scales are not decayed."""
        return {"weight_decay": 0.0} if name.endswith("_scale") else {}

    def scales(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of the 3x3, the 1x1 and the identity branch, (C',) each; None without the last."""
        same = self.identity_scale
        return self.conv_scale.detach(), self.point_scale.detach(), None if same is None else same.detach()


def _along_channels(scale: Tensor) -> Tensor:
    return scale[:, None, None]


def _delta(channels: int, like: Tensor) -> Tensor:
    """The identity as a 3x3 convolution (C, C, 3, 3), of the type and device of ``like``."""
    return F.pad(torch.eye(channels).to(like)[:, :, None, None], [1, 1, 1, 1])


Unit = Callable[..., nn.Module]
# What the network is made of; (in_channels, out_channels, stride=1).
UNITS: dict[str, Unit] = {
    "repvgg": RepVGGUnit,
    "qarepvgg": QARepVGGUnit,
    "conv_relu": ConvNorm,
    "conv_silu": lambda *channels, **options: ConvNorm(*channels, activation="silu", **options),
    "conv_silu_bias": lambda *channels, **options: ConvNorm(*channels, activation="silu", bias=True, **options),
    "scaled_sum": ScaledSumUnit,
}


def activation_of(unit: str) -> str:
    """The activation of the 1x1 convolutions around units of this name."""
    return "silu" if "silu" in unit else "relu"


def get_unit(name: str) -> Unit:
    """Looks a unit up.

    Raises:
        ValueError: it is unknown.
    """
    if name not in UNITS:
        raise ValueError(f"MODEL.YOLOV6.UNIT is {name!r}; it can be one of {', '.join(UNITS)}.")
    return UNITS[name]
