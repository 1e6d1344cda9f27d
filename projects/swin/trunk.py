"""The stages of "Swin Transformer" (arXiv 2103.14030), for the classifier and for the backbone alike.

Shapes: N images, H x W map, C channels, M side of a window. Maps keep their channels last: (N, H, W, C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import PatchMerging, SwinBlock
from .windows import missing, shift_mask


class Stage(nn.Module):
    """Blocks of one resolution, every second one with shifted windows, and the merging behind them.

    Args:
        channels: C.
        heads: Heads of the attention.
        window: M.
        shifted: Whether every second block shifts its windows.
        drop_paths: Of each block; their number is the depth.
        mlp_ratio: Width of the MLPs over C.
        qkv_bias: Give queries, keys and values a bias.
        merges: Whether a :class:`PatchMerging` follows.
        recompute: Keep no activations of the blocks, and compute them again in the backward pass.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        window: int,
        shifted: bool = True,
        drop_paths: Sequence[float],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        merges: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.window, self.recompute = window, recompute
        self.shift = window // 2 if shifted and len(drop_paths) > 1 else 0
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels=channels,
                heads=heads,
                window=window,
                shift=self.shift if index % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=drop_path,
            )
            for index, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """The blocks alone, (N, H, W, C) to the same."""
        mask = None
        if self.shift:
            padded = [size + missing(size, self.window) for size in x.shape[1:3]]
            mask = shift_mask(padded[0], padded[1], self.window, self.shift, like=x)
        for block in self.blocks:
            if self.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates from 0 in the first block to ``rate`` in the last, in equal steps through all stages; per stage."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [[rate * (start + index) / last for index in range(depth)] for start, depth in zip(starts, depths)]


def windows_of(map_size: tuple[int, int], window: int, stages: int) -> tuple[list[int], list[bool]]:
    """The window and whether it is shifted, by stage, of a network for images of one size (the authors' classifier).

    A map that is not larger than a window is one window of the map's size, which nothing shifts.

    Args:
        map_size: Height and width of the first map, in tokens.
        window: M, where the map is larger than that.
        stages: How many there are; each halves the map.
    """
    shorter = [min(map_size) // 2**index for index in range(stages)]
    return [min(window, side) for side in shorter], [side > window for side in shorter]


def make_stages(
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    windows: Sequence[int],
    shifted: Sequence[bool],
    mlp_ratio: float,
    qkv_bias: bool,
    drop_path_rate: float,
    recompute: bool = False,
) -> nn.ModuleList:
    """All stages, each of twice the channels of the one before; the last one merges nothing.

    Raises:
        ValueError: Depths and heads are not given for the same stages.
    """
    if len(depths) != len(num_heads):
        raise ValueError(f"Swin: DEPTHS {list(depths)} and NUM_HEADS {list(num_heads)} name different stages.")
    rates = drop_path_rates(drop_path_rate, depths)
    return nn.ModuleList(
        Stage(
            channels=embed_dim * 2**index,
            heads=num_heads[index],
            window=windows[index],
            shifted=shifted[index],
            drop_paths=rates[index],
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            merges=index < len(depths) - 1,
            recompute=recompute,
        )
        for index in range(len(depths))
    )
