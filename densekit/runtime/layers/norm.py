"""Normalisation layers by name.

Shapes: N = images, C = channels, H, W = feature map.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn

BatchNorm2d = nn.BatchNorm2d


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and affine parameters are constants.

    All four vectors are buffers. It starts as the identity, and weights that hold only ``weight`` and ``bias`` (their
    statistics merged into them) load as they are.
    """

    _version = 3

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # A batch norm that was frozen later keeps its counter, and with it the keys of its checkpoint.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # F.batch_norm would keep x to differentiate by constants; an affine map keeps nothing.
        scale, shift = affine_of(self)
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:
            # Files of then, and plain arrays, may come without statistics.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replaces every BatchNorm2d and SyncBatchNorm below a module.

        Returns:
            The module itself, or its replacement where it is a batch norm.
        """
        if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for name, child in module.named_children():
                frozen_child = cls.convert_frozen_batchnorm(child)
                if frozen_child is not child:
                    setattr(module, name, frozen_child)
            return module
        if module.running_mean is None or module.running_var is None:
            raise ValueError(f"{module} keeps no running statistics, so there is nothing to freeze it with.")
        frozen = cls(module.num_features, module.eps).to(module.running_mean.device)
        if module.affine:
            frozen.weight = module.weight.detach().clone()
            frozen.bias = module.bias.detach().clone()
        frozen.running_mean = module.running_mean.detach()
        frozen.running_var = module.running_var.detach()
        frozen.num_batches_tracked = module.num_batches_tracked
        return frozen


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, from an all-reduce of each one's moments; runs on the CPU too.

    With ``stats_mode=""`` all processes weigh the same. With ``"N"`` they weigh by their number of images, so that a
    process may have none.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        if stats_mode not in ("", "N"):
            raise ValueError(f"stats_mode={stats_mode!r} is neither '' nor 'N'.")
        super().__init__(*args, **kwargs)
        self._stats_mode = stats_mode

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()  # half precision is too coarse for a difference of squares
        mean, mean_square, momentum = self._moments(x)
        var = mean_square - mean * mean
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean += momentum * (mean.detach() - self.running_mean)
            self.running_var += momentum * (var.detach() - self.running_var)
        scale = (var + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | float]:
        """First and second moment over all processes, (C,) each, and the momentum of the running averages."""
        images, channels = x.shape[:2]
        momentum = 0.1 if self.momentum is None else self.momentum
        if self._stats_mode == "":
            if images == 0:
                raise ValueError("NaiveSyncBatchNorm got no images on this process; stats_mode='N' allows that.")
            local = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))))
            mean, mean_square = (differentiable_all_reduce(local) / dist.get_world_size()).split(channels)
            return mean, mean_square, momentum
        if images == 0:
            # The sum of nothing: no numbers, but every process must take part in the backward pass.
            local = x.new_zeros(2 * channels + 1) + x.sum()
        else:
            local = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3)), x.new_ones(1))) * images
        total = differentiable_all_reduce(local)
        count = total[-1].detach()
        mean, mean_square = (total[:-1] / count.clamp(min=1)).split(channels)
        return mean, mean_square, momentum * count.clamp(max=1)


class LayerNorm(nn.Module):
    """Normalises each pixel over its channels; (N, C, H, W) to the same."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        var, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Builds a normalisation layer.

    Args:
        norm: One of the names above, a callable that takes the number of channels, or None or ``""`` for none.
        out_channels: Number of channels.

    Raises:
        ValueError: An unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise ValueError(f"norm {norm!r} is not one of {', '.join(_NORMS)} (or '' for none).")
        norm = _NORMS[norm]
    return norm(out_channels)


def affine_of(norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, (C,) each, that a batch norm with fixed statistics amounts to."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


def fold_norm(
    weight: torch.Tensor, bias: torch.Tensor | None, norm: nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Merges a batch norm with fixed statistics into the convolution before it.

    A kernel is far smaller than the map that it makes, so this saves one or two passes over the map. Gradients reach
    the kernel through the product.

    Args:
        weight: (C, ...) kernel.
        bias: (C,) or None.
        norm: What follows the convolution; None for nothing.

    Returns:
        Kernel and bias that include the norm, or None where it has to run by itself: another kind or a subclass, batch
        statistics, parameters that learn, or hooks that wait for its input or output.
    """
    if norm is None:
        return weight, bias
    if not _is_fixed(norm) or has_hooks(norm):
        return None
    scale, shift = affine_of(norm)
    weight = weight * scale.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1))
    if bias is not None:
        shift = shift + bias * scale
    return weight, shift.to(weight.dtype)


def _is_fixed(norm: nn.Module | None) -> TypeGuard[FrozenBatchNorm2d | nn.BatchNorm2d]:
    if type(norm) is nn.BatchNorm2d:
        return not norm.training and norm.running_mean is not None and not torch.is_grad_enabled()
    return type(norm) is FrozenBatchNorm2d


def has_hooks(module: nn.Module) -> bool:
    """Tells whether a call of the module does more than its ``forward``."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
