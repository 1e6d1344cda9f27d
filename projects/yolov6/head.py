"""The efficient decoupled head. YOLOv6, arXiv 2209.02976, section 2.1.3.

The branches beside the plain one are of the later releases (arXiv 2301.05586, sections 2.2 and 2.3): anchors that aid
the training, and distances as distributions for the distillation of small models. Neither is there in deployment.

Plain torch. Shapes: N images, L levels of C channels and (Hl, Wl) cells, A cells of all levels, K classes, B bins of a
distance, R anchors at a cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from .points import Size, distances_to_boxes, mean_of_bins, positions
from .units import ConvNorm

# Width and height of the three anchors of a cell, image pixels, for stride 8, 16 and 32.
ANCHOR_SIZES = (
    ((10.0, 13.0), (19.0, 19.0), (33.0, 23.0)),
    ((30.0, 61.0), (59.0, 59.0), (59.0, 119.0)),
    ((116.0, 90.0), (185.0, 185.0), (373.0, 326.0)),
)


@dataclass
class HeadOutputs:
    """Outputs of the head for a batch.

    Attributes:
        logits: (N, A, K).
        distances: (N, A, 4) left, top, right, bottom, in strides; or (N, A, 4 B) logits of bins.
        sizes: of the maps, (Hl, Wl).
        objectness: (N, A, 1) logits, or None.
        bins: (N, A, 4 B), distances as distributions beside plain ones, or None.
        anchor_logits: (N, R A, K), level by level, in a level one anchor of all cells after the other; or None.
        anchor_boxes: (N, R A, 4) xyxy, image pixels, of the anchors, or None.
    """

    logits: Tensor
    distances: Tensor
    sizes: list[Size]
    objectness: Tensor | None = None
    bins: Tensor | None = None
    anchor_logits: Tensor | None = None
    anchor_boxes: Tensor | None = None

    def float(self) -> "HeadOutputs":
        """The same in float32."""
        tensors = {key: value.float() for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


class HeadLevel(nn.Module):
    """The head of one level: a stem, and a convolution and a prediction for each of class and box.

    Args:
        channels: C.
        num_classes: K.
        num_bins: B, 1 for plain distances.
        extra_bins: B of a second prediction of the box, 0 for none.
        anchors: R, 0 for none.
        objectness: whether there is a prediction of it.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_bins: int,
        extra_bins: int,
        anchors: int,
        objectness: bool,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, channels, kernel=1, activation="silu")
        self.class_conv = ConvNorm(channels, channels, activation="silu")
        self.box_conv = ConvNorm(channels, channels, activation="silu")
        self.classes = _predictor(channels, num_classes, _PRIOR)
        self.boxes = _predictor(channels, 4 * num_bins, 1.0)
        self.objectness = _predictor(channels, 1, _PRIOR) if objectness else None
        self.bins = _predictor(channels, 4 * extra_bins, 1.0) if extra_bins else None
        self.anchor_classes = _predictor(channels, anchors * num_classes, _PRIOR) if anchors else None
        self.anchor_boxes = _predictor(channels, anchors * 4, 1.0) if anchors else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of class and of box, (N, C, Hl, Wl) each."""
        x = self.stem(x)
        return self.class_conv(x), self.box_conv(x)

    def fuse(self) -> None:
        """Drops what only the training uses."""
        self.bins = self.anchor_classes = self.anchor_boxes = None


_PRIOR = -math.log((1 - 0.01) / 0.01)  # bias with which every class begins at a probability of .01


def _predictor(channels: int, outputs: int, bias: float) -> nn.Conv2d:
    conv = nn.Conv2d(channels, outputs, 1)
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


class EfficientDecoupledHead(nn.Module):
    """Classes and boxes of every cell of every level.

    Args:
        in_channels: C of each level.
        strides: of each level.
        num_classes: K.
        num_bins: B, 1 for plain distances.
        extra_bins: B of the second prediction of the box in training, 0 for none.
        anchor_sizes: of each level R pairs of width and height, image pixels, for anchors that aid the training; or ().
        objectness: whether a prediction of it multiplies the classes (the ablation of section 2.3.3).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        num_bins: int = 1,
        extra_bins: int = 0,
        anchor_sizes: Sequence[Sequence[tuple[float, float]]] = (),
        objectness: bool = False,
    ) -> None:
        super().__init__()
        if anchor_sizes and len(anchor_sizes) != len(strides):
            raise ValueError(f"There are anchors for {len(anchor_sizes)} levels and {len(strides)} levels.")
        self.strides, self.num_classes, self.num_bins = list(strides), num_classes, num_bins
        self.anchor_sizes = [list(sizes) for sizes in anchor_sizes]
        anchors = len(self.anchor_sizes[0]) if anchor_sizes else 0
        self.levels = nn.ModuleList(
            HeadLevel(
                channels,
                num_classes=num_classes,
                num_bins=num_bins,
                extra_bins=extra_bins,
                anchors=anchors,
                objectness=objectness,
            )
            for channels in in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> HeadOutputs:
        """Runs on the levels, finest first."""
        outputs: dict[str, list[Tensor]] = {}
        for index, (module, x) in enumerate(zip(self.levels, maps)):
            level = cast(Any, module)
            of_class, of_box = level(x)
            found = {"logits": _cells(level.classes(of_class)), "distances": _cells(level.boxes(of_box))}
            if level.objectness is not None:
                found["objectness"] = _cells(level.objectness(of_box))
            if self.training and level.bins is not None:
                found["bins"] = _cells(level.bins(of_box))
            if self.training and level.anchor_classes is not None and level.anchor_boxes is not None:
                found["anchor_logits"] = _cells(level.anchor_classes(of_class), self.num_classes)
                found["anchor_boxes"] = self._anchor_boxes(level.anchor_boxes(of_box), index)
            for name, value in found.items():
                outputs.setdefault(name, []).append(value)
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        return HeadOutputs(sizes=sizes, **{name: torch.cat(values, 1) for name, values in outputs.items()})

    def _anchor_boxes(self, raw: Tensor, level: int) -> Tensor:
        """Boxes (N, R Hl Wl, 4) of one level's anchors: the middle moves, and the size is up to 4 of the anchor's."""
        stride, sizes = self.strides[level], raw.new_tensor(self.anchor_sizes[level])
        points, _ = positions([(raw.shape[-2], raw.shape[-1])], [stride], raw)
        raw = _cells(raw, 4).unflatten(1, (len(sizes), -1))
        middle = points + raw[..., :2] * stride
        half = (2 * raw[..., 2:].sigmoid()).square() * sizes[:, None] / 2
        return torch.cat([middle - half, middle + half], -1).flatten(1, 2)

    @staticmethod
    def probabilities(logits: Tensor, objectness: Tensor | None) -> Tensor:
        """Scores (N, A, K) from logits (N, A, K) and those of the objectness (N, A, 1), if there is any."""
        scores = logits.sigmoid()
        return scores if objectness is None else scores * objectness.sigmoid()

    def decode(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Boxes (N, A, 4) xyxy, image pixels, and scores (N, A, K)."""
        points, strides = positions(outputs.sizes, self.strides, outputs.logits)
        distances = outputs.distances if self.num_bins == 1 else mean_of_bins(outputs.distances)
        return distances_to_boxes(distances * strides, points), self.probabilities(outputs.logits, outputs.objectness)


def _cells(x: Tensor, width: int = 0) -> Tensor:
    """(N, R w, H, W) to (N, R H W, w); R is 1 if no width is given."""
    width = width or x.shape[1]
    return x.flatten(2).unflatten(1, (-1, width)).transpose(2, 3).flatten(1, 2)
