"""The reassembly operator as torch sees it: one opaque step with a backward pass of its own.

Registered with ``torch.library``, so that torch.compile keeps the call whole instead of tracing its loops.
"""

from typing import Any

import torch
from torch import Tensor

from densekit.ops.carafe import blocked, reference
from densekit.ops.carafe.geometry import check_inputs, new_output

PATHS = ("auto", "reference", "blocked", "triton")


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
    if path not in PATHS:
        raise ValueError(f"path={path!r} must be one of {PATHS}.")
    if path == "auto":
        path = _best_path(features)
    if path == "reference":
        with torch.autocast(features.device.type, enabled=False):
            return reference.reassemble(features, kernels, k_up, groups, scale)
    if path == "triton" and not _has_triton(features):
        raise ValueError(
            f"path='triton' needs CUDA tensors and the package triton; the features are on {features.device}."
        )
    return _carafe(features, kernels, k_up, groups, scale, path)


def _best_path(features: Tensor) -> str:
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():
        return "reference"
    return "triton" if _has_triton(features) else "blocked"


def _has_triton(features: Tensor) -> bool:
    return False


@torch.library.custom_op("densekit::carafe", mutates_args=())
def _carafe(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str) -> Tensor:
    return blocked.forward(features, kernels, k_up, groups, scale)


@_carafe.register_fake
def _(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str) -> Tensor:
    return new_output(features, scale)


@torch.library.custom_op("densekit::carafe_backward", mutates_args=())
def _carafe_backward(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str
) -> tuple[Tensor, Tensor]:
    return blocked.backward(grad, features, kernels, k_up, groups, scale)


@_carafe_backward.register_fake
def _(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, path: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), torch.empty_like(kernels)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.settings = inputs[2:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_carafe_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None)


_carafe.register_autograd(_gradients, setup_context=_keep_inputs)
