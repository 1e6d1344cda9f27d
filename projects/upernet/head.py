"""UPerNet's head: "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221), for pixels of classes.

Pyramid pooling on the backbone's last map, a feature pyramid from there down, and all its levels side by side. Two
conventions are in use, with different numbers. The authors' ("csail") pools, enlarges and then convolves, and has its
loss at the stride of the scores; mmsegmentation's ("mmseg") pools, convolves and then enlarges, and has its loss at
every pixel. Departures: the loss is the mean over labelled pixels in both, norms keep the host's momentum, and only
the semantic task of the paper is here.

With other upsampling layers as in "CARAFE" (arXiv 1905.02188), section 5.2.

Shapes: N images, C classes, D channels, Hk x Wk the k-th map, finest first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.grid_pooling import grid_mean
from densekit.modeling.fcn_head import classifier, head_options
from densekit.modeling.semantic_head import Features, SemanticHead, conv_norm_relu
from densekit.modeling.upsampling import upsampler_from_config

CONVENTIONS = ("mmseg", "csail")

Size = tuple[int, ...]
# From channels to a layer that doubles the size; None interpolates to the size that is needed.
UpsamplerMaker = Callable[[int], nn.Module] | None


class PyramidPooling(nn.Module):
    """A map beside its means over grids of several sizes: PSPNet (arXiv 1612.01105), section 3.2.

    Args:
        in_channels: Of the map.
        channels: D, of each pooled branch and of the output.
        scales: Sides of the grids.
        enlarge_first: Enlarge what was pooled before its 1x1 convolution, not after it.
        upsampler: A layer for the last doubling, one for each grid (CARAFE: bilinear to half the size before it).
        norm: Norm behind the convolutions; with "" they have a bias instead.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        scales: Sequence[int],
        enlarge_first: bool,
        upsampler: UpsamplerMaker,
        norm: str,
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.enlarge_first = enlarge_first
        self.branches = nn.ModuleList(conv_norm_relu(in_channels, channels, 1, norm) for _ in scales)
        self.upsamplers: nn.ModuleList | None = None
        if upsampler is not None:
            self.upsamplers = nn.ModuleList(upsampler(in_channels if enlarge_first else channels) for _ in scales)
        self.project = conv_norm_relu(in_channels + len(scales) * channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, D, H, W) for (N, in_channels, H, W)."""
        parts = [x]
        for k, (scale, branch) in enumerate(zip(self.scales, self.branches)):
            pooled = grid_mean(x, scale)
            if self.enlarge_first:
                parts.append(branch(self._enlarge(pooled, x.shape[-2:], k)))
            else:
                parts.append(self._enlarge(branch(pooled), x.shape[-2:], k))
        return self.project(torch.cat(parts, dim=1))

    def _enlarge(self, x: Tensor, size: Size, k: int) -> Tensor:
        if self.upsamplers is None:
            return resize(x, size)
        half = resize(x, tuple((side + 1) // 2 for side in size))
        return grow(half, size, self.upsamplers[k])


@SEM_SEG_HEADS_REGISTRY.register()
class UPerHead(SemanticHead):
    """UPerNet's head on any backbone with several maps.

    Args:
        input_shape: The maps, finest first, each of twice the stride of the one before.
        channels: D.
        num_classes: C.
        convention: One of :data:`CONVENTIONS`.
        pool_scales: Sides of the pooling grids.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        dropout: Probability that a channel is dropped before the classifier.
        ppm_upsampler: Of the pooled maps.
        fpn_upsampler: Of the steps of the top-down path.
        fuse_upsampler: Of the levels before they are put side by side. A layer works its way down: the coarsest level
            is doubled and joins the next finer one, both are doubled and join the next. None interpolates each level
            to the finest size.
        options: As :class:`~densekit.modeling.semantic_head.SemanticHead`.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        channels: int,
        num_classes: int,
        convention: str = "mmseg",
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "BN",
        dropout: float = 0.0,
        ppm_upsampler: UpsamplerMaker = None,
        fpn_upsampler: UpsamplerMaker = None,
        fuse_upsampler: UpsamplerMaker = None,
        **options: Any,
    ) -> None:
        shapes: list[Any] = list(input_shape.values())
        stride, csail = shapes[0].stride, convention == "csail"
        super().__init__(stride=stride, loss_stride=stride if csail else 1, **options)
        if convention not in CONVENTIONS:
            raise ValueError(f"convention={convention!r} must be one of {CONVENTIONS}.")
        self.in_features = list(input_shape)
        *finer, coarsest = [shape.channels for shape in shapes]
        self.ppm = PyramidPooling(
            coarsest, channels, scales=pool_scales, enlarge_first=csail, upsampler=ppm_upsampler, norm=norm
        )
        self.laterals = nn.ModuleList(conv_norm_relu(width, channels, 1, norm) for width in finer)
        self.outputs = nn.ModuleList(conv_norm_relu(channels, channels, 3, norm) for _ in finer)
        self.fuse = conv_norm_relu(channels * len(input_shape), channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(channels, num_classes)
        self._init_weights(csail)
        # After the others, whose start is not theirs.
        self.fpn_upsamplers: nn.ModuleList | None = None
        self.fuse_upsamplers: nn.ModuleList | None = None
        if fpn_upsampler is not None:
            self.fpn_upsamplers = nn.ModuleList(fpn_upsampler(channels) for _ in finer)
        if fuse_upsampler is not None:  # the finest step carries all the levels above it
            self.fuse_upsamplers = nn.ModuleList(fuse_upsampler(channels * count) for count in range(len(finer), 0, -1))

    def _init_weights(self, csail: bool) -> None:
        """He's normal weights, by the outputs of a layer or, as the authors', by its inputs; see their recipes."""
        convs = [*self.ppm.branches, self.ppm.project, *self.laterals, *self.outputs, self.fuse]
        for conv in convs:
            weight_init.c2_msra_fill(conv)
        if csail:
            for conv in [*convs, self.predictor]:
                nn.init.kaiming_normal_(conv.weight)
                if isinstance(norm := getattr(conv, "norm", None), nn.Module):
                    nn.init.constant_(norm.get_parameter("bias"), 1e-4)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.UPERNET
        if node.CONVENTION not in CONVENTIONS:
            raise ValueError(
                f"MODEL.UPERNET.CONVENTION is {node.CONVENTION!r}; it must be one of {', '.join(CONVENTIONS)}."
            )
        makers = {
            f"{part}_upsampler": upsampler_from_config(cfg, f"MODEL.UPERNET.{part.upper()}_UPSAMPLER")
            for part in ("ppm", "fpn", "fuse")
            if node[f"{part.upper()}_UPSAMPLER"] != "bilinear"
        }
        return {
            **head_options(cfg, input_shape),
            "convention": node.CONVENTION,
            "pool_scales": node.POOL_SCALES,
            "dropout": cfg.MODEL.SEM_SEG_HEAD.DROPOUT,
            **makers,
        }

    @staticmethod
    def norms_of_single_values(cfg: CfgNode) -> dict[str, str]:
        """The norms, by key, that see one value of a channel for each image: behind a grid of 1 x 1."""
        one = 1 in cfg.MODEL.UPERNET.POOL_SCALES
        # The authors enlarge what was pooled before its convolution, so that equal values fill a map.
        pools = one and cfg.MODEL.UPERNET.CONVENTION != "csail"
        return {"MODEL.SEM_SEG_HEAD.NORM": cfg.MODEL.SEM_SEG_HEAD.NORM} if pools else {}

    def layers(self, features: Features) -> Tensor:
        """The scores (N, C, H0, W0) from the maps of a batch by name."""
        *finer, coarsest = [features[name] for name in self.in_features]
        levels = self._pyramid(finer, self.ppm(coarsest))
        return self.predictor(self.dropout(self.fuse(self._side_by_side(levels))))

    def _pyramid(self, finer: list[Tensor], above: Tensor) -> list[Tensor]:
        """The levels (N, D, Hk, Wk), finest first; the coarsest is the pooled map as it is."""
        levels = [above]
        for k in reversed(range(len(finer))):
            lateral = self.laterals[k](finer[k])
            upsampler = None if self.fpn_upsamplers is None else self.fpn_upsamplers[k]
            above = lateral + grow(above, lateral.shape[-2:], upsampler)
            levels.insert(0, self.outputs[k](above))
        return levels

    def _side_by_side(self, levels: list[Tensor]) -> Tensor:
        """All levels at the finest size, (N, D * levels, H0, W0), finest first."""
        if self.fuse_upsamplers is None:
            return torch.cat([levels[0], *(resize(level, levels[0].shape[-2:]) for level in levels[1:])], dim=1)
        joined = levels[-1]
        for level, upsampler in reversed(list(zip(levels[:-1], self.fuse_upsamplers))):
            joined = torch.cat([level, grow(joined, level.shape[-2:], upsampler)], dim=1)
        return joined


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation to a size, half-pixel centres."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def grow(x: Tensor, size: Size, upsampler: nn.Module | None) -> Tensor:
    """Brings a map to a size of about twice its own, by a layer that doubles it, or by interpolation for None."""
    if upsampler is None:
        return resize(x, size)
    return upsampler(x)[..., : size[0], : size[1]]  # smaller than twice a map that was rounded up
