"""ResNet and its relatives: "Deep Residual Learning for Image Recognition" (arXiv:1512.03385).

Also ResNeXt (arXiv:1611.05431) through groups, dilated res5 (DC5), and deformable convolution v1 / v2
(arXiv:1703.06211, arXiv:1811.11168) in chosen stages. ``stride_in_1x1`` selects the original placement of the stride,
which the MSRA weights need; torchvision's weights have it in the 3x3.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.runtime.config import CfgNode
from densekit.runtime.layers import CNNBlockBase, Conv2d, DeformConv, ModulatedDeformConv, ShapeSpec, get_norm
from densekit.runtime.layers.norm import fold_norm, has_hooks
from densekit.runtime.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone

# What users call the base class of blocks that they pass to `make_stage`.
ResNetBlockBase = CNNBlockBase

_BAND_BYTES = 2**23  # of what a block adds at a time where it overwrites its input

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: Any, **options: Any) -> Conv2d:
    """A bias-free convolution that keeps the size at stride 1, followed by its norm."""
    padding = kernel_size // 2 * options.get("dilation", 1)
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=padding,
        bias=False,
        norm=get_norm(norm, out_channels),
        **options,
    )


class _ResidualBlock(CNNBlockBase):
    """``relu(residual(x) + shortcut(x))``; subclasses supply ``residual``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Any) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)

    def _init_weights(self, *convs: nn.Module) -> None:
        for conv in (*convs, self.shortcut):
            if conv is not None:
                weight_init.c2_msra_fill(conv)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self.residual(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions: the block of ResNet-18 and 34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Any = "BN") -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        self._init_weights(self.conv1, self.conv2)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3, 1x1 convolutions: the block of ResNet-50 and deeper, and of ResNeXt.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bottleneck_channels: Channels of the 3x3 convolution.
        stride: Stride of the block.
        num_groups: Groups of the 3x3 convolution.
        norm: Name or factory of the norm behind each convolution.
        stride_in_1x1: Put the stride into the first 1x1 rather than the 3x3 convolution.
        dilation: Dilation of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Any = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self._add_conv2(bottleneck_channels, norm, stride=stride_3x3, groups=num_groups, dilation=dilation)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        self._init_weights(self.conv1, self.conv2, self.conv3)

    def _add_conv2(self, channels: int, norm: Any, **options: Any) -> None:
        self.conv2: nn.Module = _conv(channels, channels, 3, norm, **options)

    def _apply_conv2(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    def forward(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """As every residual block.

        Args:
            x: (N, C, H, W).
            overwrite: ``x`` may become the output. In inference on the CPU the last convolution is then added band by
                band: of the widest maps there is one at a time and not two, and each band is still in the cache.
        """
        kernel = fold_norm(self.conv3.weight, self.conv3.bias, self.conv3.norm) if overwrite else None
        if kernel is None:
            return super().forward(x)
        narrow = self._narrow(x)
        out = x if self.shortcut is None else self.shortcut(x)
        if not all(t.is_contiguous(memory_format=torch.channels_last) for t in (narrow, out)):
            out += self.conv3(narrow)
            return F.relu_(out)
        lines, narrow_lines = (t.permute(0, 2, 3, 1).view(-1, t.shape[3], t.shape[1]) for t in (out, narrow))
        count = max(1, _BAND_BYTES // max(1, out.shape[1] * out.shape[3] * out.element_size()))  # of (N * H, W, C)
        for band, source in zip(lines.split(count), narrow_lines.split(count)):
            band += F.conv2d(source[None].permute(0, 3, 1, 2), *kernel)[0].permute(1, 2, 0)
            F.relu_(band)
        return out

    def residual(self, x: Tensor) -> Tensor:
        return self.conv3(self._narrow(x))

    def _narrow(self, x: Tensor) -> Tensor:
        """Computes the narrow map that the block's last convolution widens."""
        x = F.relu_(self.conv1(x))
        return F.relu_(self._apply_conv2(x))


class DeformBottleneckBlock(BottleneckBlock):
    """A bottleneck whose 3x3 convolution is deformable; its offsets start at zero.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        deform_modulated: Also predict a mask per sample point (version 2).
        deform_num_groups: Groups of channels with offsets of their own.
        options: As :class:`BottleneckBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        **options: Any,
    ) -> None:
        # Before the constructor of nn.Module, which allows it for plain values: `_add_conv2` needs them.
        self.deform_modulated = deform_modulated
        self.deform_num_groups = deform_num_groups
        super().__init__(in_channels, out_channels, **options)

    def _add_conv2(self, channels: int, norm: Any, **options: Any) -> None:
        per_point = 3 if self.deform_modulated else 2
        place: dict[str, Any] = {
            "stride": options["stride"],
            "dilation": options["dilation"],
            "padding": options["dilation"],
        }
        self.conv2_offset = Conv2d(channels, 9 * per_point * self.deform_num_groups, 3, **place)
        layer = ModulatedDeformConv if self.deform_modulated else DeformConv
        self.conv2 = layer(
            channels,
            channels,
            3,
            bias=False,
            groups=options["groups"],
            deformable_groups=self.deform_num_groups,
            norm=get_norm(norm, channels),
            **place,
        )
        for parameter in self.conv2_offset.parameters():
            nn.init.zeros_(parameter)

    def _apply_conv2(self, x: Tensor) -> Tensor:
        offset = self.conv2_offset(x)
        if not self.deform_modulated:
            return self.conv2(x, offset)
        points = offset.shape[1] // 3
        offset, mask = offset.split((2 * points, points), dim=1)
        return self.conv2(x, offset, mask.sigmoid())


class BasicStem(CNNBlockBase):
    """7x7 convolution of stride 2 and 3x3 max pooling: stride 4 in all."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Any = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages named ``res2``, ``res3``, ...

    Args:
        stem: The first layers.
        stages: Blocks of each stage. Stages behind the last one in ``out_features`` are dropped.
        num_classes: If given, a pooled linear layer ``linear`` follows the last stage.
        out_features: What :meth:`forward` returns: of ``stem``, ``res2`` ..., ``linear``; the last layer if None.
        freeze_at: See :meth:`freeze`.

    Raises:
        ValueError: ``out_features`` is empty or names a layer that does not exist, or a stage has no blocks.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: list[list[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: list[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        if out_features is not None and "linear" not in out_features:
            # A stage that nothing reads would cost memory, and its gradient would never come.
            wanted = [int(name[3:]) - 1 for name in out_features if name[:3] == "res" and name[3:].isdigit()]
            stages = stages[: max(wanted, default=0)]

        stride, channels = stem.stride, stem.out_channels
        self._out_feature_strides = {"stem": stride}
        self._out_feature_channels = {"stem": channels}
        self.stages: list[nn.Sequential] = []
        for index, blocks in enumerate(stages):
            name = f"res{index + 2}"
            if not blocks or not all(isinstance(block, CNNBlockBase) for block in blocks):
                raise ValueError(f"Stage {name} must be a non-empty list of CNNBlockBase, got {blocks!r}.")
            for block in blocks:
                stride, channels = stride * block.stride, block.out_channels
            self.stages.append(nn.Sequential(*blocks))
            self.add_module(name, self.stages[-1])
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, channels
        self.stage_names = tuple(self._out_feature_strides)[1:]

        self.linear: nn.Linear | None = None
        if num_classes is not None:
            self.linear = nn.Linear(channels, num_classes)
            # "Accurate, Large Minibatch SGD" (arXiv:1706.02677), section 5.1.
            nn.init.normal_(self.linear.weight, std=0.01)

        layers = ["stem", *self.stage_names] + (["linear"] if num_classes is not None else [])
        self._out_features = layers[-1:] if out_features is None else list(out_features)
        unknown = [name for name in self._out_features if name not in layers]
        if unknown or not self._out_features:
            raise ValueError(f"out_features={self._out_features} must name some of {', '.join(layers)}.")
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the feature maps in ``out_features`` for images (N, C, H, W).

        Raises:
            ValueError: ``x`` is not a batch of images.
        """
        if x.dim() != 4:
            raise ValueError(f"ResNet takes images of shape (N, C, H, W), got {tuple(x.shape)}.")
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            x = _run_sparingly(stage, x) if _is_plain_inference(stage, x) else stage(x)
            if name in self._out_features:
                outputs[name] = x
        if self.linear is not None and "linear" in self._out_features:
            outputs["linear"] = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return outputs

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Stops training of the first parts: 1 is the stem, 2 the stem and res2, and so on. Returns self."""
        if freeze_at >= 1:
            self.stem.freeze()
        for stage in self.stages[: max(freeze_at - 1, 0)]:
            for block in stage.children():
                cast(CNNBlockBase, block).freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs: Any
    ) -> list[CNNBlockBase]:
        """The blocks of one stage.

        Args:
            block_class: What to build.
            num_blocks: How many.
            in_channels: Channels of the first block's input.
            out_channels: Channels of every block's output.
            kwargs: Passed to every block; ``x_per_block=[...]`` passes its i-th value as ``x`` to the i-th block.

        Raises:
            ValueError: A ``_per_block`` list has another length, or its argument is given twice.
        """
        suffix = "_per_block"
        shared = {key: value for key, value in kwargs.items() if not key.endswith(suffix)}
        varying = {key.removesuffix(suffix): value for key, value in kwargs.items() if key.endswith(suffix)}
        for key, values in varying.items():
            if key in shared:
                raise ValueError(f"make_stage got both {key} and {key}{suffix}; give one of them.")
            if len(values) != num_blocks:
                raise ValueError(f"make_stage needs {num_blocks} values in {key}{suffix}, got {values}.")
        return [
            block_class(
                in_channels=in_channels if index == 0 else out_channels,
                out_channels=out_channels,
                **shared,
                **{key: values[index] for key, values in varying.items()},
            )
            for index in range(num_blocks)
        ]

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """The four stages of ResNet-18, 34, 50, 101 or 152; ``kwargs`` go to :meth:`make_stage`."""
        basic = depth < 50
        width = 64 if basic else 256
        stages, in_channels = [], 64
        for index, num_blocks in enumerate(_blocks_per_stage(depth)):
            out_channels = width * 2**index
            extra = {} if basic else {"bottleneck_channels": out_channels // 4}
            stages.append(
                ResNet.make_stage(
                    block_class or (BasicBlock if basic else BottleneckBlock),
                    num_blocks,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    stride_per_block=_strides(num_blocks, first=1 if index == 0 else 2),
                    **{**kwargs, **extra},
                )
            )
            in_channels = out_channels
        return stages


def _is_plain_inference(stage: nn.Module, x: Tensor) -> bool:
    """Tells whether nothing but the next block reads the maps between two blocks."""
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and not recorded and not any(has_hooks(module) for module in stage.modules())


def _run_sparingly(stage: nn.Sequential, x: Tensor) -> Tensor:
    """Runs a stage whose blocks may overwrite each other's output, but not ``x``."""
    fresh = False
    for block in stage:
        known = type(block).forward is BottleneckBlock.forward  # a user's block may return what it got
        overwrite = known and (fresh or block.shortcut is not None)
        x = block(x, overwrite=True) if overwrite else block(x)
        fresh = known
    return x


def make_stage(*args: Any, **kwargs: Any) -> list[CNNBlockBase]:
    """The same as :meth:`ResNet.make_stage`."""
    return ResNet.make_stage(*args, **kwargs)


def _blocks_per_stage(depth: int) -> Sequence[int]:
    if depth not in _BLOCKS_PER_STAGE:
        raise ValueError(f"There is no ResNet of depth {depth}; choose one of {sorted(_BLOCKS_PER_STAGE)}.")
    return _BLOCKS_PER_STAGE[depth]


def _strides(num_blocks: int, first: int) -> list[int]:
    return [first] + [1] * (num_blocks - 1)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds a ResNet from ``cfg.MODEL.RESNETS``; ``MODEL.BACKBONE.FREEZE_AT`` stages are frozen.

    Raises:
        ValueError: The depth is unknown, or a key cannot be combined with it.
    """
    keys = cfg.MODEL.RESNETS
    blocks = _blocks_per_stage(keys.DEPTH)
    basic = keys.DEPTH < 50
    if keys.RES5_DILATION not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION={keys.RES5_DILATION} must be 1 or 2.")
    if basic:
        _refuse_for_basic_blocks(keys)

    stem = BasicStem(in_channels=input_shape.channels or 3, out_channels=keys.STEM_OUT_CHANNELS, norm=keys.NORM)
    stages, in_channels = [], keys.STEM_OUT_CHANNELS
    for index, num_blocks in enumerate(blocks):
        # With a dilated res5 the stride of 2 becomes the dilation of 2, as in R-FCN and Deformable ConvNets.
        dilation = keys.RES5_DILATION if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        out_channels = keys.RES2_OUT_CHANNELS * 2**index
        block_class, options = _bottleneck_options(keys, index, dilation) if not basic else (BasicBlock, {})
        stages.append(
            ResNet.make_stage(
                block_class,
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                stride_per_block=_strides(num_blocks, first_stride),
                norm=keys.NORM,
                **options,
            )
        )
        in_channels = out_channels
    return ResNet(stem, stages, out_features=keys.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _bottleneck_options(keys: CfgNode, index: int, dilation: int) -> tuple[type[CNNBlockBase], dict[str, Any]]:
    options = {
        "bottleneck_channels": keys.NUM_GROUPS * keys.WIDTH_PER_GROUP * 2**index,
        "stride_in_1x1": keys.STRIDE_IN_1X1,
        "num_groups": keys.NUM_GROUPS,
        "dilation": dilation,
    }
    if not keys.DEFORM_ON_PER_STAGE[index]:
        return BottleneckBlock, options
    deform = {"deform_modulated": keys.DEFORM_MODULATED, "deform_num_groups": keys.DEFORM_NUM_GROUPS}
    return DeformBottleneckBlock, options | deform


def _refuse_for_basic_blocks(keys: CfgNode) -> None:
    needed = {"RES2_OUT_CHANNELS": 64, "RES5_DILATION": 1, "NUM_GROUPS": 1, "DEFORM_ON_PER_STAGE": [False] * 4}
    for key, value in needed.items():
        found = list(keys[key]) if isinstance(value, list) else keys[key]
        if found != value:
            raise ValueError(f"MODEL.RESNETS.{key} must be {value} for ResNet-{keys.DEPTH}, got {found}.")
