"""CARAFE: content-aware upsampling in the pyramid, the mask head, or both."""

import densekit.modeling  # noqa: F401 - registers build_fpn_backbone and UpsamplerMaskHead

from .config import add_config

__all__ = ["add_config"]
