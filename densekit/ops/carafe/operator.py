"""The reassembly operator as torch sees it: one opaque step with a backward pass of its own.

Registered with ``torch.library``, so that torch.compile keeps the call whole instead of tracing its loops.
"""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from densekit.ops.carafe import reference
from densekit.ops.carafe.geometry import check_inputs, new_output

PATHS = ("auto", "reference", "blocked", "triton")
_MODULES = {"blocked": "blocked", "triton": "triton_kernels"}
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def carafe(
    features: Tensor, kernels: Tensor, k_up: int, groups: int = 1, scale: int = 2, *, path: str = "auto"
) -> Tensor:
    """Content-aware reassembly (arXiv 1905.02188, equation 5).

    Output pixel (i, j) is the weighted sum of the ``k_up`` x ``k_up`` window around source pixel
    (i // scale, j // scale), with the weights at (i, j). Beyond the border the features are zero; the weights are not
    renormalised there. An even window reaches one pixel further to the right and down.

    Args:
        features: (N, C, H, W), of any floating type; their C channels are ``groups`` runs of C / groups.
        kernels: (N, groups * k_up * k_up, scale * H, scale * W); channel (g * k_up + dy) * k_up + dx is group g's
            weight for the source pixel dy rows below and dx columns right of the window's corner.
        k_up: side of the window.
        groups: runs of channels with kernels of their own.
        scale: how many times larger the output is, on each side.
        path: ``"reference"`` (plain operators), ``"blocked"`` (any device), ``"triton"`` (CUDA), or ``"auto"``: plain
            operators while exporting, else the fastest that the device has.

    Returns:
        (N, C, scale * H, scale * W), with the features' type and memory format. Sums are taken in float32 at least.

    Raises:
        ValueError: The inputs do not belong together, or there is no such path here.
    """
    check_inputs(features, kernels, k_up, groups, scale)
    if path == "auto":
        path = _best_path(features)
    if path not in PATHS or (path == "triton" and not (features.is_cuda and _HAS_TRITON)):
        raise ValueError(
            f"path={path!r} must be one of {PATHS}; 'triton' needs CUDA tensors and the package triton, and the "
            f"features are on {features.device}."
        )
    if path == "reference":
        return reference.reassemble(features, kernels, k_up, groups, scale)
    return _forward(features, kernels, k_up, groups, scale, path)


def _best_path(features: Tensor) -> str:
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():
        return "reference"
    return "triton" if features.is_cuda and _HAS_TRITON else "blocked"


def _module(path: str) -> Any:
    """Returns the module with a path's ``forward`` and ``backward``; Triton is imported only when it is used."""
    return importlib.import_module(f"densekit.ops.carafe.{_MODULES[path]}")


@torch.library.custom_op("densekit::carafe", mutates_args=())
def _forward(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return _module(path).forward(features, kernels, k_up, groups, scale)


@torch.library.custom_op("densekit::carafe_backward", mutates_args=())
def _backward(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str
) -> tuple[Tensor, Tensor]:
    with torch.autocast(features.device.type, enabled=False):
        return _module(path).backward(grad, features, kernels, k_up, groups, scale)


@_forward.register_fake
def _(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str) -> Tensor:
    return new_output(features, scale)


@_backward.register_fake
def _(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), torch.empty_like(kernels)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.settings = inputs[2:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None)


_forward.register_autograd(_gradients, setup_context=_keep_inputs)


@register_flop_formula([torch.ops.densekit.carafe])
def _flops(features: Any, kernels: Any, k_up: int, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two for each output value and weight of its kernel."""
    n, c = features[:2]
    return 2 * n * c * kernels[2] * kernels[3] * k_up**2


@register_flop_formula([torch.ops.densekit.carafe_backward])
def _backward_flops(grad: Any, features: Any, kernels: Any, k_up: int, *args: Any, **kwargs: Any) -> int:
    """As many for the features' gradient, and as many for the kernels'."""
    return 2 * _flops(features, kernels, k_up)
