"""Dilated ResNets for segmentation: output strides 8 and 16, multi-grid, and blocks of a system's own.

"Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587), section 3.1. Key names are those of
Detectron2's DeepLab project where it has them. The parameters have the names of the host's ResNet.
"""

from collections.abc import Callable, Sequence
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, ResNet
from densekit.d2.modeling.backbone.resnet import BasicStem, BottleneckBlock, make_stage
from densekit.modeling.resnet import DeepStem

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# From the index of a stage and its number of blocks to options of each block: name -> one value per block.
BlockOptions = Callable[[int, int], dict[str, list[Any]]]


def add_config(cfg: CfgNode) -> None:
    """Adds the keys of ``build_dilated_resnet_backbone`` beside those of the host's ResNet."""
    node = cfg.MODEL.RESNETS
    node.RES4_DILATION = 1  # 2: res4 keeps the stride of res3, and the maps end at stride 8 where res5 has 4
    node.RES5_MULTI_GRID = [1, 1, 1]  # factors on RES5_DILATION, which may be 4 here, block by block
    # The first block of a dilated stage sees the map of the stage before and has half the dilation, as in PyTorch's
    # models and those trained with PyTorch-Encoding; False: all of it, as in Detectron2's. A multi-grid says it itself.
    node.HALF_FIRST_DILATION = True
    node.DEEP_STEM = True  # three 3x3 convolutions in place of one 7x7


def dilations_of_stage(dilation: int, blocks: int, multi_grid: Sequence[int], half_first: bool) -> list[int]:
    """Returns the dilation of each block of a stage.

    Args:
        dilation: of the stage.
        blocks: their number.
        multi_grid: a factor for each block; a list of ones is no multi-grid.
        half_first: give the first block half the dilation where there is no multi-grid.

    Raises:
        ValueError: the multi-grid has another length.
    """
    if any(factor != 1 for factor in multi_grid):
        if len(multi_grid) != blocks:
            raise ValueError(
                f"MODEL.RESNETS.RES5_MULTI_GRID {list(multi_grid)} must have {blocks} values, one a block."
            )
        return [dilation * factor for factor in multi_grid]
    first = max(dilation // 2, 1) if half_first else dilation
    return [first] + [dilation] * (blocks - 1)


def dilated_resnet(
    cfg: CfgNode,
    input_shape: ShapeSpec,
    block: type[BottleneckBlock] = BottleneckBlock,
    options: BlockOptions = lambda stage, blocks: {},
) -> ResNet:
    """Builds a ResNet of bottlenecks from ``MODEL.RESNETS``, with a system's own blocks.

    Args:
        cfg: of the run.
        input_shape: of the images.
        block: class of the blocks.
        options: of each block, beside those of the host's bottleneck.

    Raises:
        ValueError: the depth has no bottlenecks, the dilations do not go together, or a stage is deformable.
    """
    keys = cfg.MODEL.RESNETS
    if keys.DEPTH not in _BLOCKS:
        raise ValueError(f"MODEL.RESNETS.DEPTH {keys.DEPTH}: a dilated ResNet has {', '.join(map(str, _BLOCKS))}.")
    dilations = (1, 1, keys.RES4_DILATION, keys.RES5_DILATION)
    if dilations[2:] not in ((1, 1), (1, 2), (2, 4)):
        raise ValueError(
            f"MODEL.RESNETS.RES4_DILATION {dilations[2]} and RES5_DILATION {dilations[3]}: they can be 1 and 1 (stride "
            "32), 1 and 2 (stride 16), or 2 and 4 (stride 8)."
        )
    if any(keys.DEFORM_ON_PER_STAGE):
        raise ValueError("MODEL.RESNETS.DEFORM_ON_PER_STAGE: a dilated ResNet is not deformable; set all False.")
    width, stem = keys.STEM_OUT_CHANNELS, DeepStem if keys.DEEP_STEM else BasicStem
    stages, in_channels, stride = [], width, 4
    for index, blocks in enumerate(_BLOCKS[keys.DEPTH]):
        halves = index > 0 and dilations[index] == 1
        bottleneck = keys.NUM_GROUPS * keys.WIDTH_PER_GROUP * 2**index
        out_channels = keys.RES2_OUT_CHANNELS * 2**index
        grid = keys.RES5_MULTI_GRID if index == 3 else [1]
        stages.append(
            make_stage(
                block,
                blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                bottleneck_channels=bottleneck,
                stride_per_block=[2 if halves else 1] + [1] * (blocks - 1),
                dilation_per_block=dilations_of_stage(dilations[index], blocks, grid, keys.HALF_FIRST_DILATION),
                num_groups=keys.NUM_GROUPS,
                stride_in_1x1=keys.STRIDE_IN_1X1,
                norm=keys.NORM,
                **{f"{name}_per_block": values for name, values in options(index, blocks).items()},
            )
        )
        in_channels, stride = out_channels, stride * (2 if halves else 1)
    return ResNet(
        stem(in_channels=input_shape.channels or 3, out_channels=width, norm=keys.NORM),
        stages,
        out_features=keys.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet-50, -101 or -152 whose last stages have dilations in place of strides; reads ``MODEL.RESNETS``."""
    return dilated_resnet(cfg, input_shape)
