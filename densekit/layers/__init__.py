"""Blocks of networks: plain torch modules that know no host and no configuration."""

from densekit.layers.upsample import Upsampler
from densekit.layers.upsample_build import UPSAMPLERS, build_upsampler
from densekit.layers.upsample_carafe import CARAFE

__all__ = ["CARAFE", "UPSAMPLERS", "Upsampler", "build_upsampler"]
