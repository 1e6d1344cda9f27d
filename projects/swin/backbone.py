"""Swin Transformer (arXiv 2103.14030) in the host's slot for backbones, as its authors use it for detection.

Maps of any size are padded to whole windows; each stage's output has a norm of its own, before the merging. Parameters
have the authors' names.

Shapes: N images, H x W map, C channels. Inside, maps keep their channels last: (N, H, W, C).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone

from .blocks import PatchEmbed, init_weights
from .resizing import fit_positions
from .trunk import Stage, make_stages, windows_of

# Names of the maps, those of a ResNet with the same strides, so that every recipe's IN_FEATURES fit.
NAMES = ("res2", "res3", "res4", "res5")


class SwinTransformer(Backbone):
    """A pyramid of maps at strides 4, 8, 16 and 32.

    Args:
        patch_size: Side of a patch in pixels, the stride of the first map.
        in_channels: Of the images.
        embed_dim: C of the first stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: M, side of a window.
        mlp_ratio: Width of the MLPs over C.
        qkv_bias: Give queries, keys and values a bias.
        drop_path_rate: Of the last block; see :func:`.trunk.drop_path_rates`.
        ape: Add a learned position to each token, resized to the map.
        pretrain_img_size: Height and width in pixels of the images that those positions belong to.
        patch_norm: Normalise the embedded patches.
        out_features: Which maps to return, of :data:`NAMES`.
        frozen_stages: 0: the patch embedding learns nothing; 1: nor do the positions; k: nor do the first k - 1 stages;
            -1: all learn.
        layer_decay: Factor on the learning rate from each block to the one before it.
        recompute: Compute the blocks' activations again in the backward pass instead of keeping them.
        image_size: Height and width in pixels of the only images that it will see, whose last maps may be smaller than
            a window; None for images of any size. See :func:`.trunk.windows_of`.

    Raises:
        ValueError: Heads, depths, features or frozen stages do not fit.
    """

    @configurable
    def __init__(
        self,
        *,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.2,
        ape: bool = False,
        pretrain_img_size: tuple[int, int] = (224, 224),
        patch_norm: bool = True,
        out_features: Sequence[str] = NAMES,
        frozen_stages: int = -1,
        layer_decay: float = 1.0,
        recompute: bool = False,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        count = len(depths)
        unknown = [name for name in out_features if name not in NAMES[:count]]
        if unknown or not out_features:
            raise ValueError(f"MODEL.SWIN.OUT_FEATURES {list(out_features)} must be among {list(NAMES[:count])}.")
        if not -1 <= frozen_stages <= count + 1:
            raise ValueError(f"MODEL.SWIN.FROZEN_STAGES {frozen_stages} is not in -1 to {count + 1}.")
        self.patch_embed = PatchEmbed(
            patch_size=patch_size, in_channels=in_channels, channels=embed_dim, norm=patch_norm
        )
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            table = torch.empty(1, embed_dim, *(size // patch_size for size in pretrain_img_size))
            self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        windows, shifted = [window_size] * count, [True] * count
        if image_size is not None:
            first = (image_size[0] // patch_size, image_size[1] // patch_size)
            windows, shifted = windows_of(first, window_size, count)
        self.layers = make_stages(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            windows=windows,
            shifted=shifted,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path_rate=drop_path_rate,
            recompute=recompute,
        )
        self._out_features = [name for name in NAMES[:count] if name in out_features]
        self._out_feature_channels = {name: embed_dim * 2**i for i, name in enumerate(NAMES[:count])}
        self._out_feature_strides = {name: patch_size * 2**i for i, name in enumerate(NAMES[:count])}
        for name in self._out_features:
            self.add_module(f"norm{NAMES.index(name)}", nn.LayerNorm(self._out_feature_channels[name]))
        self._frozen_stages, self._layer_decay, self._depths = frozen_stages, layer_decay, list(depths)
        init_weights(self)
        for part in self._frozen():
            part.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.SWIN
        side, only = node.PRETRAIN_IMG_SIZE, node.IMAGE_SIZE
        return {
            "patch_size": node.PATCH_SIZE,
            "in_channels": input_shape.channels,
            "embed_dim": node.EMBED_DIM,
            "depths": node.DEPTHS,
            "num_heads": node.NUM_HEADS,
            "window_size": node.WINDOW_SIZE,
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "drop_path_rate": node.DROP_PATH_RATE,
            "ape": node.APE,
            "pretrain_img_size": (side, side),
            "patch_norm": node.PATCH_NORM,
            "out_features": node.OUT_FEATURES,
            "frozen_stages": node.FROZEN_STAGES,
            "layer_decay": node.LAYER_DECAY,
            "recompute": node.USE_CHECKPOINT,
            "image_size": (only, only) if only else None,
        }

    def _frozen(self) -> list[Any]:
        """The modules and parameters that learn nothing."""
        parts: list[Any] = [self.patch_embed] if self._frozen_stages >= 0 else []
        if self._frozen_stages >= 1 and self.absolute_pos_embed is not None:
            parts.append(self.absolute_pos_embed)
        return [*parts, *self.layers[: max(self._frozen_stages - 1, 0)]]

    def train(self, mode: bool = True) -> "SwinTransformer":
        """Switches to training or evaluation; what is frozen stays in evaluation and drops no paths."""
        super().train(mode)
        for part in self._frozen():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, in_channels, height, width), each (N, C, H, W), sides rounded up."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            size = (x.shape[1], x.shape[2])
            positions = F.interpolate(self.absolute_pos_embed, size=size, mode="bicubic", align_corners=False)
            x = x + positions.permute(0, 2, 3, 1)
        outputs: dict[str, Tensor] = {}
        for index, (name, layer) in enumerate(zip(NAMES, self.layers)):
            stage = cast(Stage, layer)
            x = stage(x)
            if name in self._out_features:
                outputs[name] = self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}

    def parameter_options(self, name: str, parameter: nn.Parameter) -> Mapping[str, float]:
        """Returns the parameter's options in the optimizer: no decay of norms and positions; a lower rate further down.

        The published recipes for detection and segmentation do decay the other biases.
        """
        options = {"lr_factor": self._layer_decay ** (sum(self._depths) + 1 - self._depth_of(name))}
        if any(part in name for part in ("norm", "relative_position_bias_table", "absolute_pos_embed")):
            options["weight_decay"] = 0.0
        return options

    def fit_weights(self, weights: dict[str, Tensor], prefix: str = "") -> None:
        """Brings tables of other windows and positions of other images to this module's sizes; see :mod:`.resizing`."""
        fit_positions(self, weights, prefix)

    def _depth_of(self, name: str) -> int:
        """0 for the patches, then the number of the block; a merging counts with the block before it."""
        if name.startswith(("patch_embed", "absolute_pos_embed")):
            return 0
        match = re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)", name)
        if match is None:  # the norms of the outputs, which are new in every detector
            return sum(self._depths) + 1
        stage = int(match[1])
        inside = self._depths[stage] if match[2] is None else int(match[2]) + 1
        return sum(self._depths[:stage]) + inside


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """The Swin Transformer of ``MODEL.SWIN``."""
    return SwinTransformer(cfg, input_shape)
