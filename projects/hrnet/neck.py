"""HRNet's classification neck in the slot of an image classifier."""

from collections.abc import Mapping

from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec
from densekit.modeling.image_classifier import CLASSIFICATION_NECK_REGISTRY

from .backbone import NAMES, norm_maker
from .classification import ClassificationNeck


class HRNetNeck(nn.Module):
    """The neck on the branches by name.

    Args:
        neck: On the branches in a row.
        channels: Of the vector that it gives.
    """

    def __init__(self, neck: ClassificationNeck, channels: int) -> None:
        super().__init__()
        self.neck, self.channels = neck, channels

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns (N, channels) for the branches."""
        return self.neck([features[name] for name in NAMES])


@CLASSIFICATION_NECK_REGISTRY.register()
def build_hrnet_classification_neck(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> HRNetNeck:
    """The neck of HRNet's ImageNet models on the four branches of ``build_hrnet_backbone``.

    Raises:
        ValueError: The backbone does not give all branches.
    """
    if list(input_shape) != list(NAMES):
        raise ValueError(
            f"MODEL.CLASSIFIER.NECK build_hrnet_classification_neck needs the maps {', '.join(NAMES)} of "
            f"MODEL.BACKBONE.NAME build_hrnet_backbone, and the backbone gives {', '.join(input_shape)}."
        )
    norm = norm_maker(cfg.MODEL.HRNET.NORM, cfg.MODEL.HRNET.BN_MOMENTUM)
    neck = ClassificationNeck(in_channels=[input_shape[name].channels or 0 for name in NAMES], norm=norm)
    return HRNetNeck(neck, neck.out_channels)
