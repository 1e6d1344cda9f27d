"""The head of OCR (arXiv 1909.11065, Figure 3) on the maps of any backbone, in the host's slot for semantic heads.

Coarse scores, which learn beside the final ones, say which pixels belong to the region of each class; every pixel then
sees the regions. With several maps they stand side by side at the finest's size, as on HRNet.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec, get_norm
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.align_corners import AlignCorners
from densekit.layers.pixel_losses import PixelLoss
from densekit.modeling.fcn_head import head_options
from densekit.modeling.semantic_head import Features, Losses, SemanticHead, at_finest
from densekit.modeling.semantic_losses import auxiliary_criterion

from .context import Norm, ObjectContext, conv_norm_relu


@SEM_SEG_HEADS_REGISTRY.register()
class OCRHead(SemanticHead):
    """Scores of pixels from themselves and the regions of all classes.

    Args:
        input_shape: The maps, finest first.
        channels: Of a pixel, D.
        key_channels: Of a query or key, K.
        num_classes: C.
        norm: Makes the norms.
        dropout: Probability that a channel is dropped before the classifier.
        region_criterion: The loss of the coarse scores.
        region_loss_weight: Its factor.
        options: As :class:`~densekit.modeling.semantic_head.SemanticHead`; ``align_corners`` goes for the maps too.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        channels: int = 512,
        key_channels: int = 256,
        num_classes: int,
        norm: Norm,
        dropout: float = 0.05,
        region_criterion: PixelLoss,
        region_loss_weight: float = 0.4,
        **options: Any,
    ) -> None:
        shapes: list[Any] = list(input_shape.values())
        super().__init__(stride=shapes[0].stride, **options)
        self.in_features = list(input_shape)
        self.flavour = AlignCorners(self.align_corners)
        self.region_criterion = region_criterion
        self.region_loss_weight = region_loss_weight
        width = sum(shape.channels for shape in shapes)
        # These two have a bias although a norm follows, as in the authors' checkpoints.
        self.regions = nn.Sequential(
            conv_norm_relu(width, width, norm, bias=True), nn.Conv2d(width, num_classes, kernel_size=1)
        )
        self.pixels = conv_norm_relu(width, channels, norm, kernel_size=3, bias=True)
        self.context = ObjectContext(channels=channels, key_channels=key_channels, dropout=dropout, norm=norm)
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        options, node = head_options(cfg, input_shape), cfg.MODEL.OCR
        if options.pop("auxiliary") is not None:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.AUXILIARY.IN_FEATURE must be '' with OCRHead, which has coarse scores of its own."
            )
        if (norm := options["norm"]) == "":
            raise ValueError("OCRHead needs a norm, such as BN: most of its convolutions have no bias.")
        return {
            **options,
            "norm": lambda channels: get_norm(norm, channels),
            "key_channels": node.KEY_CHANNELS,
            "dropout": node.DROPOUT,
            "align_corners": cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS,
            "region_criterion": auxiliary_criterion(cfg),
            "region_loss_weight": node.REGION_LOSS_WEIGHT,
        }

    def layers(self, features: Features) -> Tensor:
        """The scores (N, C, H, W) from the maps by name."""
        return self.both_scores(features)[1]

    def both_scores(self, features: Features) -> tuple[Tensor, Tensor]:
        """The coarse scores and the final ones, (N, C, H, W) each."""
        x = at_finest([features[name] for name in self.in_features], self.align_corners)
        coarse = self.regions(x)
        return coarse, self.predictor(self.context(self.pixels(x), coarse))

    def scores_and_losses(self, features: Features, targets: Tensor) -> tuple[Tensor, Losses]:
        coarse, scores = self.both_scores(features)
        regions = self.region_loss_weight * self.loss(coarse, targets, self.region_criterion)
        return scores, {**self.losses(scores, targets), "loss_sem_seg_regions": regions}
