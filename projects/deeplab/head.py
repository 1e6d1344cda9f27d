"""DeepLabV3+'s head: "Encoder-Decoder with Atrous Separable Convolution" (arXiv 1802.02611), section 3.

Parameters have the names of Detectron2's DeepLab project, whose registry name ``DeepLabV3PlusHead`` is left to it.
Departure from that project: the image pooling sees the whole map in inference too, as in the paper, and not a window
of the training crop's size; images may therefore have any size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ASPP, DepthwiseSeparableConv2d, ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.modeling.fcn_head import head_options
from densekit.modeling.semantic_head import Features, SemanticHead, conv_norm_relu


class DecoderStage(nn.Module):
    """One step of the decoder: a low-level map, narrowed, beside the enlarged map above, and both merged.

    Args:
        in_channels: Of the low-level map.
        project_channels: What it is narrowed to.
        above_channels: Of the map above.
        channels: Of the output.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        separable: One depthwise separable 5x5 convolution in place of two 3x3.
    """

    def __init__(
        self, in_channels: int, project_channels: int, above_channels: int, channels: int, *, norm: str, separable: bool
    ) -> None:
        super().__init__()
        self.project_conv = conv_norm_relu(in_channels, project_channels, 1, norm)
        weight_init.c2_xavier_fill(self.project_conv)
        merged = project_channels + above_channels
        self.fuse_conv: nn.Module
        if separable:
            self.fuse_conv = DepthwiseSeparableConv2d(
                merged, channels, 5, 2, norm1=norm, activation1=F.relu, norm2=norm, activation2=F.relu
            )
        else:
            self.fuse_conv = nn.Sequential(
                conv_norm_relu(merged, channels, 3, norm), conv_norm_relu(channels, channels, 3, norm)
            )
            for conv in self.fuse_conv:
                weight_init.c2_xavier_fill(conv)

    def forward(self, x: Tensor, above: Tensor) -> Tensor:
        x = self.project_conv(x)
        above = F.interpolate(above, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse_conv(torch.cat([x, above], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3PlusSemanticHead(SemanticHead):
    """Atrous spatial pyramid pooling on the coarsest map, and a decoder that brings in the finer ones.

    Args:
        input_shape: The maps, finest first.
        num_classes: Number of classes.
        channels: Of the decoder.
        project_channels: What each map but the coarsest is narrowed to, finest first.
        aspp_channels: Of the pyramid pooling.
        aspp_dilations: Of its three dilated convolutions.
        aspp_dropout: Probability on its output.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        separable: Depthwise separable convolutions in the pyramid pooling and the decoder.
        options: As :class:`~densekit.modeling.semantic_head.SemanticHead`.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 256,
        project_channels: Sequence[int] = (48,),
        aspp_channels: int = 256,
        aspp_dilations: Sequence[int] = (6, 12, 18),
        aspp_dropout: float = 0.1,
        norm: str = "BN",
        separable: bool = False,
        **options: Any,
    ) -> None:
        shapes: list[Any] = list(input_shape.values())
        super().__init__(stride=shapes[0].stride, **options)
        if len(project_channels) != len(shapes) - 1:
            raise ValueError(
                f"{len(project_channels)} project_channels do not fit {len(shapes)} maps; every map but the coarsest "
                "has one (MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS)."
            )
        self.in_features = list(input_shape)
        self.decoder = nn.ModuleDict()
        for k, width in enumerate(project_channels):
            above = aspp_channels if k == len(project_channels) - 1 else channels
            self.decoder[self.in_features[k]] = DecoderStage(
                shapes[k].channels, width, above, channels, norm=norm, separable=separable
            )
        pooling = ASPP(
            shapes[-1].channels,
            aspp_channels,
            list(aspp_dilations),
            norm=norm,
            activation=F.relu,
            dropout=aspp_dropout,
            use_depthwise_separable_conv=separable,
        )
        self.decoder[self.in_features[-1]] = nn.ModuleDict({"project_conv": pooling})
        self.predictor = nn.Conv2d(channels if project_channels else aspp_channels, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.get_parameter("bias"))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            **head_options(cfg, input_shape),
            "project_channels": node.PROJECT_CHANNELS,
            "aspp_channels": node.ASPP_CHANNELS,
            "aspp_dilations": node.ASPP_DILATIONS,
            "aspp_dropout": node.ASPP_DROPOUT,
            "separable": node.USE_DEPTHWISE_SEPARABLE_CONV,
        }

    def layers(self, features: Features) -> Tensor:
        """The scores, of the finest map's size."""
        *finer, coarsest = self.in_features
        x = self.decoder[coarsest]["project_conv"](features[coarsest])  # type: ignore[index]
        for name in reversed(finer):
            x = self.decoder[name](features[name], x)
        return self.predictor(x)
