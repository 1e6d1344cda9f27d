"""Upsampling layers by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from densekit.layers.upsample import (
    Deconvolution,
    Interpolation,
    InterpolationConv,
    PixelShuffle,
    SpatialAttention,
    Upsampler,
)
from densekit.layers.upsample_carafe import CARAFE

# name -> maker, called with the channels, ``scale_factor`` and what the layer's own constructor takes
UPSAMPLERS: dict[str, Callable[..., Upsampler]] = {
    "nearest": partial(Interpolation, mode="nearest"),
    "bilinear": partial(Interpolation, mode="bilinear"),
    "nearest_conv": partial(InterpolationConv, mode="nearest"),
    "bilinear_conv": partial(InterpolationConv, mode="bilinear"),
    "deconv": Deconvolution,
    "pixel_shuffle": PixelShuffle,
    "spatial_attention": SpatialAttention,
    "carafe": CARAFE,
}


def build_upsampler(name: str, channels: int, *, scale_factor: int = 2, **options: Any) -> Upsampler:
    """Makes the upsampling layer called ``name``.

    Args:
        name: one of :data:`UPSAMPLERS`.
        channels: of the input and of the output.
        scale_factor: how many times larger each side becomes.
        **options: what the layer takes beside these, such as ``up_kernel`` of ``"carafe"``.

    Raises:
        ValueError: There is no layer of that name.
    """
    if name not in UPSAMPLERS:
        raise ValueError(f"There is no upsampler {name!r}; choose one of {', '.join(UPSAMPLERS)}.")
    return UPSAMPLERS[name](channels, scale_factor=scale_factor, **options)
