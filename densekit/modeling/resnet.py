"""ResNets of the host's blocks with a stem of three 3x3 convolutions.

"Bag of Tricks for Image Classification" (arXiv 1812.01187) calls them ResNet-C; PyTorch-Encoding and
mmsegmentation ("ResNetV1c") train on it. Parameters have the names of Detectron2's own.
"""

from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import CNNBlockBase, ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, ResNet
from densekit.modeling.semantic_head import conv_norm_relu


class DeepStem(CNNBlockBase):
    """Three 3x3 convolutions, the first of stride 2 and the last of twice the others' width, and 3x3 max pooling.

    Args:
        in_channels: Of the images.
        out_channels: Even.
        norm: Name of the norm behind each convolution.

    Raises:
        ValueError: ``out_channels`` is odd.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        if out_channels % 2:
            raise ValueError(f"MODEL.RESNETS.STEM_OUT_CHANNELS={out_channels} must be even for a stem of three layers.")
        half = out_channels // 2
        self.conv1 = conv_norm_relu(in_channels, half, 3, norm, stride=2)
        self.conv2 = conv_norm_relu(half, half, 3, norm)
        self.conv3 = conv_norm_relu(half, out_channels, 3, norm)
        for conv in (self.conv1, self.conv2, self.conv3):
            weight_init.c2_msra_fill(conv)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / 4, W / 4)."""
        return self.pool(self.conv3(self.conv2(self.conv1(x))))


@BACKBONE_REGISTRY.register()
def build_deep_stem_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The host's ResNet of ``MODEL.RESNETS`` on a :class:`DeepStem`; 1 of ``MODEL.BACKBONE.FREEZE_AT`` is the stem."""
    keys = cfg.MODEL.RESNETS
    stem = DeepStem(input_shape.channels or 3, keys.STEM_OUT_CHANNELS, keys.NORM)
    resnet = BACKBONE_REGISTRY.get("build_resnet_backbone")(cfg, input_shape)
    stages = [list(stage.children()) for stage in resnet.stages]
    return ResNet(stem, stages, out_features=keys.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
