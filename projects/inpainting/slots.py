"""The generators and discriminators that a configuration names."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import get_norm
from densekit.d2.utils.registry import Registry
from densekit.modeling.upsampling import upsampler_from_config

from .discriminators import GlobalLocalDiscriminator, PatchDiscriminator
from .generators import OUTPUTS
from .global_local import GlobalLocal
from .partial_unet import PartialUNet

GENERATORS = Registry("INPAINTING_GENERATORS")
GENERATORS.__doc__ = """Called as ``obj(cfg)``; returns a generator as :mod:`.generators` describes it."""
DISCRIMINATORS = Registry("INPAINTING_DISCRIMINATORS")
DISCRIMINATORS.__doc__ = """Called as ``obj(cfg)``; returns a module from images and holes to ``Scores``."""

_UPSAMPLER = "MODEL.INPAINTING.GENERATOR.UPSAMPLER"


@GENERATORS.register()
def build_global_local_generator(cfg: CfgNode) -> nn.Module:
    """Global&Local; ``UPSAMPLER`` "deconv" stands for its own deconvolutions."""
    node = cfg.MODEL.INPAINTING.GENERATOR
    upsampler = None if node.UPSAMPLER == "deconv" else upsampler_from_config(cfg, _UPSAMPLER)
    return GlobalLocal(
        widths=node.WIDTHS or (64, 128, 256, 32), upsampler=upsampler, output=_output(cfg), norm=_norm(cfg)
    )


@GENERATORS.register()
def build_partial_unet_generator(cfg: CfgNode) -> nn.Module:
    """The U-Net of partial convolutions."""
    node = cfg.MODEL.INPAINTING.GENERATOR
    return PartialUNet(
        widths=node.WIDTHS or (64, 128, 256, 512, 512, 512, 512),
        upsampler=upsampler_from_config(cfg, _UPSAMPLER),
        rescale=node.RESCALE,
        mask_threshold=node.MASK_THRESHOLD,
        output=_output(cfg),
        norm=_norm(cfg),
        freeze_encoder_norm=node.FREEZE_ENCODER_NORM,
    )


@DISCRIMINATORS.register()
def build_patch_discriminator(cfg: CfgNode) -> nn.Module:
    """A score for each patch."""
    node = cfg.MODEL.INPAINTING.DISCRIMINATOR
    return PatchDiscriminator(widths=node.WIDTHS or (64, 128, 256, 256), spectral=node.SPECTRAL_NORM)


@DISCRIMINATORS.register()
def build_global_local_discriminator(cfg: CfgNode) -> nn.Module:
    """The whole picture and a square around the hole."""
    node = cfg.MODEL.INPAINTING.DISCRIMINATOR
    options: dict[str, Any] = {"norm": _norm(cfg)}
    if node.WIDTHS:
        options["global_widths"] = node.WIDTHS
    if node.LOCAL_WIDTHS:
        options["local_widths"] = node.LOCAL_WIDTHS
    return GlobalLocalDiscriminator(size=node.SIZE, local_size=node.LOCAL_SIZE, features=node.FEATURES, **options)


def _norm(cfg: CfgNode) -> Callable[[int], nn.Module]:
    name = cfg.MODEL.INPAINTING.NORM
    return cast(Callable[[int], nn.Module], partial(get_norm, name)) if name else lambda channels: nn.Identity()


def _output(cfg: CfgNode) -> str:
    name = cfg.MODEL.INPAINTING.GENERATOR.OUTPUT
    if name not in OUTPUTS:
        raise ValueError(f"MODEL.INPAINTING.GENERATOR.OUTPUT is {name!r}; it can be {', '.join(OUTPUTS)}.")
    return name
