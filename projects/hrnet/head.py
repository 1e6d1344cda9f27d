"""HRNetV2's head for semantic segmentation (arXiv 1908.07919, section 4.2), on the maps of any backbone.

Shapes: N images, C classes, H x W the finest map.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.align_corners import AlignCorners
from densekit.modeling.fcn_head import head_options
from densekit.modeling.semantic_head import Features, SemanticHead, at_finest

from .backbone import norm_maker
from .network import Norm, init_weights


@SEM_SEG_HEADS_REGISTRY.register()
class HRNetV2Head(SemanticHead):
    """All maps side by side at the size of the finest, a 1x1 convolution, and the classifier.

    Args:
        input_shape: The maps, finest first.
        num_classes: C.
        norm: Makes the norm between the two convolutions.
        final_kernel: Side of the classifier's kernel, odd.
        options: As :class:`~densekit.modeling.semantic_head.SemanticHead`; ``align_corners`` goes for the maps too.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        norm: Norm,
        final_kernel: int = 1,
        **options: Any,
    ) -> None:
        shapes: list[Any] = list(input_shape.values())
        super().__init__(stride=shapes[0].stride, **options)
        self.in_features = list(input_shape)
        self.flavour = AlignCorners(self.align_corners)
        width = sum(shape.channels for shape in shapes)
        # Under the authors' names: the convolution has a bias although a norm follows.
        self.last_layer = nn.Sequential(
            nn.Conv2d(width, width, 1),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, num_classes, final_kernel, padding=final_kernel // 2),
        )
        init_weights(self.last_layer, "normal")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        options = head_options(cfg, input_shape)
        del options["channels"]  # the width is that of the maps
        node = cfg.MODEL.HRNET
        return {
            **options,
            "norm": norm_maker(options["norm"], node.BN_MOMENTUM),
            "final_kernel": node.FINAL_KERNEL,
            "align_corners": cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS,
        }

    def layers(self, features: Features) -> Tensor:
        """The scores (N, C, H, W) from the maps by name."""
        return self.last_layer(at_finest([features[name] for name in self.in_features], self.align_corners))
