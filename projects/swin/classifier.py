"""Swin Transformer as a classifier of images: "Swin Transformer" (arXiv 2103.14030), section 4.1.

Unlike the backbone it is built for one image size, and a stage whose map is not larger than a window has one window of
the map's size and shifts nothing. Parameters have the authors' names.

Shapes: N images, H x W map, C channels, L = H * W tokens, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .blocks import PatchEmbed, init_weights
from .resizing import fit_positions
from .trunk import Stage, make_stages, windows_of


class SwinClassifier(nn.Module):
    """Class scores of images of one size.

    Args:
        img_size: Height and width of the images in pixels, multiples of the patch times 2 to the stages less one.
        patch_size: Side of a patch in pixels.
        in_channels: Of the images.
        num_classes: K; 0 for features alone.
        embed_dim: C of the first stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: M, side of a window, where the map is larger than that.
        mlp_ratio: Width of the MLPs over C.
        qkv_bias: Give queries, keys and values a bias.
        drop_path_rate: Of the last block.
        ape: Add a learned position to each token.
        patch_norm: Normalise the embedded patches.
        recompute: Compute the blocks' activations again in the backward pass.
    """

    def __init__(
        self,
        *,
        img_size: tuple[int, int] = (224, 224),
        patch_size: int = 4,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            patch_size=patch_size, in_channels=in_channels, channels=embed_dim, norm=patch_norm
        )
        height, width = img_size[0] // patch_size, img_size[1] // patch_size
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            table = torch.empty(1, height * width, embed_dim)
            self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        windows, shifted = windows_of((height, width), window_size, len(depths))
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
        channels = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, num_classes) if num_classes else None
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The mean token (N, C) of images (N, in_channels, height, width)."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            x = x + self.absolute_pos_embed.view(1, *x.shape[1:])
        for layer in self.layers:
            stage = cast(Stage, layer)
            x = stage(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return self.norm(x).mean(dim=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, K) before the softmax, or features (N, C) where there is no head."""
        x = self.forward_features(x)
        return x if self.head is None else self.head(x)

    def parameter_options(self, name: str, parameter: nn.Parameter) -> Mapping[str, float]:
        """Returns the parameter's options in the optimizer: no decay of biases, of vectors and of positions."""
        free = parameter.dim() == 1 or "relative_position_bias_table" in name or "absolute_pos_embed" in name
        return {"weight_decay": 0.0} if free else {}

    def fit_weights(self, weights: dict[str, Tensor], prefix: str = "") -> None:
        """Resizes positions; a head of other classes is of no use here and becomes zero, as published, not random."""
        fit_positions(self, weights, prefix)
        for name, parameter in self.named_parameters():
            value = weights.get(prefix + name)
            if name.startswith("head.") and value is not None and value.shape != parameter.shape:
                weights[prefix + name] = torch.zeros_like(parameter)
