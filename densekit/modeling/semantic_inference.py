"""Inference of semantic models as published: in windows, at several scales, with the mirror image.

A panoptic model's semantic branch does so, too; its detector sees the whole picture.

A view is a part of the picture at one scale, as it is or mirrored. The scores of all views of a pixel are averaged.

C classes; (h, w) the picture as the model's input, (H, W) the frame of the result, in pixels.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.modeling import PanopticFPN, SemanticSegmentor
from densekit.modeling.panoptic_inference import PanopticInference, SemanticBranch, detector_of

Size = tuple[int, int]
AVERAGES = ("softmax", "logits")


def add_config(cfg: CfgNode) -> None:
    """Adds ``TEST.SEMANTIC``: how the scores of pixels are had in evaluations and predictions."""
    node = cfg.TEST.SEMANTIC = CfgNode()
    node.WINDOW = []  # height and width of sliding windows, in pixels of the model's input; []: the whole picture
    node.STRIDE = []  # from a window to the next, down and across; []: two thirds of the window, rounded up
    # A side that is shorter than the window is padded with MODEL.PIXEL_MEAN, half of it in front; False: it is taken as
    # it is.
    node.PAD = False
    node.SCALES = [1.0]  # the picture is seen at each of these multiples of the model's input
    node.FLIP = False  # every window is seen mirrored, too
    node.AVERAGE = "softmax"  # what is averaged over all of these: "softmax", probabilities, or "logits"


class SemanticInference(nn.Module):
    """Wraps a semantic model, with whose inputs it is called in inference: one result of all views of a picture.

    Views are seen one window at a time, and their scores summed up as they come: beside the model's own, the memory is
    that of the result and of the scores at the largest scale, whatever the number of windows and scales.

    Args:
        model: From dictionaries with ``image`` (3, h, w) to dictionaries with ``sem_seg`` (C, h, w), logits; padding
            needs its ``pixel_mean``.
        sizes: From the size of an input to the sizes at which it is seen.
        window: Height and width of the windows; None for the whole picture.
        stride: From a window to the next, down and across; None for two thirds of the window, rounded up. The last
            window ends with the picture.
        pad: Whether sides shorter than the window are padded with the mean colour, the smaller half in front.
        flip: Whether every window is seen mirrored, too.
        average: "softmax", probabilities, or "logits".

    Raises:
        ValueError: A window or a stride that is not two positive numbers, a stride that leaves gaps or has no window,
            or an unknown ``average``.
    """

    output_kinds = ("sem_seg",)

    def __init__(
        self,
        model: nn.Module,
        *,
        sizes: Callable[[Size], Sequence[Size]] = lambda size: [size],
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        pad: bool = False,
        flip: bool = False,
        average: str = "softmax",
    ) -> None:
        super().__init__()
        if average not in AVERAGES:
            raise ValueError(f"TEST.SEMANTIC.AVERAGE is {average!r}; it can be {' or '.join(map(repr, AVERAGES))}.")
        self.model = model
        self.training = model.training
        self.sizes, self.pad, self.flip, self.average = sizes, pad, flip, average
        self.window, self.stride = _window(window, stride)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Per image ``{"sem_seg": (C, height, width)}``, averaged probabilities or logits in float32."""
        return [{"sem_seg": self._one_image(item)} for item in batched_inputs]

    def _one_image(self, item: dict[str, Any]) -> Tensor:
        image: Tensor = item["image"]
        size = (image.shape[-2], image.shape[-1])
        frame = (item.get("height", size[0]), item.get("width", size[1]))
        first, *others = self.sizes(size)
        total = self._at_size(image, first, frame)
        for other in others:
            total += self._at_size(image, other, frame)
        return total / (1 + len(others)) if others else total

    def _at_size(self, image: Tensor, size: Size, frame: Size) -> Tensor:
        return _resize(self._one_scale(_resize(image, size, antialias=True)), frame)

    def _one_scale(self, image: Tensor) -> Tensor:
        """Scores (C, h, w) of an image (3, h, w), the average over the windows that see a pixel."""
        if self.window is None or self.stride is None:
            return self._one_window(image)
        height, width = image.shape[-2:]
        image, (top, left) = self._padded(image, self.window) if self.pad else (image, (0, 0))
        rows = _spans(image.shape[-2], self.window[0], self.stride[0])
        columns = _spans(image.shape[-1], self.window[1], self.stride[1])
        if len(rows) == len(columns) == 1:
            total = self._one_window(image)
        else:
            total = self._sum(image, rows, columns)
            total /= _cover(rows, total.shape[-2]).to(total)[:, None] * _cover(columns, total.shape[-1]).to(total)
        return total[:, top : top + height, left : left + width]

    def _sum(self, image: Tensor, rows: list[slice], columns: list[slice]) -> Tensor:
        (row, column), *others = product(rows, columns)
        scores = self._one_window(image[:, row, column])
        total = scores.new_zeros(len(scores), *image.shape[-2:])
        total[:, row, column] = scores
        for row, column in others:
            total[:, row, column] += self._one_window(image[:, row, column])
        return total

    def _one_window(self, image: Tensor) -> Tensor:
        """Scores (C, h, w); the mirror image comes after the picture, whose logits are gone by then."""
        scores = self._scores(image)
        if not self.flip:
            return scores
        mirrored = self._scores(image.flip(-1)).flip(-1)  # a copy, and so no tensor of the model's
        mirrored += scores
        mirrored /= 2
        return mirrored

    def _scores(self, image: Tensor) -> Tensor:
        [output] = self.model([{"image": image}])
        logits = output["sem_seg"].float()
        return logits.softmax(dim=0) if self.average == "softmax" else logits

    def _padded(self, image: Tensor, window: Size) -> tuple[Tensor, Size]:
        """The image, no smaller than the window, and where it begins in there."""
        height, width = image.shape[-2:]
        missing = [max(0, wanted - side) for wanted, side in zip(window, (height, width))]
        if not any(missing):
            return image, (0, 0)
        top, left = missing[0] // 2, missing[1] // 2
        mean = torch.as_tensor(self.model.pixel_mean).to(image.device, torch.float32).reshape(-1, 1, 1)
        padded = mean.repeat(1, height + missing[0], width + missing[1])
        padded[:, top : top + height, left : left + width] = image
        return padded, (top, left)


def semantic_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model as ``TEST.SEMANTIC`` has it see pictures; itself where the node asks for nothing.

    Raises:
        ValueError: As :func:`check_semantic_inference`, or as :class:`SemanticInference`.
    """
    if not asks_for_views(cfg):
        return model
    inner = getattr(model, "module", model)
    _check_model(type(inner))
    sizes, flip = Scales(cfg.TEST.SEMANTIC.SCALES), cfg.TEST.SEMANTIC.FLIP
    if not isinstance(inner, PanopticFPN):
        return SemanticInference(inner, sizes=sizes, flip=flip, **_views(cfg))
    branch = SemanticInference(SemanticBranch(inner), sizes=sizes, flip=flip, **_views(cfg))
    return PanopticInference(inner, branch, detector_of(inner))


def augmented_semantic_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model with the sizes and the mirror image of ``TEST.AUG``, in the windows of ``TEST.SEMANTIC``.

    A panoptic model's detector sees these sizes and mirror images whole, as a detector alone does.

    Raises:
        ValueError: As :func:`semantic_inference`.
    """
    inner = getattr(model, "module", model)
    _check_model(type(inner))
    node = cfg.TEST.AUG
    sizes = ShortSides(node.MIN_SIZES, node.MAX_SIZE)
    if not isinstance(inner, PanopticFPN):
        return SemanticInference(inner, sizes=sizes, flip=node.FLIP, **_views(cfg))
    branch = SemanticInference(SemanticBranch(inner), sizes=sizes, flip=node.FLIP, **_views(cfg))
    return PanopticInference(inner, branch, detector_of(inner, cfg))


def asks_for_views(cfg: CfgNode) -> bool:
    """Tells whether ``TEST.SEMANTIC`` asks for more than the whole picture once."""
    node = cfg.TEST.SEMANTIC
    return bool(node.WINDOW or node.STRIDE or node.FLIP or list(node.SCALES) != [1.0])


def check_semantic_inference(cfg: CfgNode, model_class: type) -> None:
    """Refuses a ``TEST.SEMANTIC`` that the model cannot follow, before anything is trained.

    Raises:
        ValueError: The model has no semantic branch, or a value of the node is wrong.
    """
    if asks_for_views(cfg):
        _check_model(model_class)
        Scales(cfg.TEST.SEMANTIC.SCALES)
        SemanticInference(nn.Identity(), **_views(cfg))


class Scales:
    """Sizes that are multiples of an input's, each side rounded and at least 1.

    Raises:
        ValueError: There is none, or one that is not positive.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"TEST.SEMANTIC.SCALES {list(scales)}: there must be one at least, all of them above 0.")
        self._scales = tuple(scales)

    def __call__(self, size: Size) -> list[Size]:
        return [_scaled(size, scale) for scale in self._scales]


class ShortSides:
    """Sizes with these short sides, as long as the long side is not above ``longest``."""

    def __init__(self, sides: Sequence[int], longest: int) -> None:
        self._sides, self._longest = tuple(sides), longest

    def __call__(self, size: Size) -> list[Size]:
        return [_scaled(size, min(side / min(size), self._longest / max(size))) for side in self._sides]


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _views(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.TEST.SEMANTIC
    return {"window": node.WINDOW or None, "stride": node.STRIDE or None, "pad": node.PAD, "average": node.AVERAGE}


def _check_model(model_class: type) -> None:
    if not issubclass(model_class, (SemanticSegmentor, PanopticFPN)):
        raise ValueError(
            f"TEST.SEMANTIC: windows, scales and flips average the scores of pixels, and {model_class.__name__} is no "
            "SemanticSegmentor or PanopticFPN, which have such scores. Segments of queries, as DETR's, cannot be "
            "averaged over views, in which they have no common order. Take TEST.SEMANTIC out of the configuration."
        )


def _window(window: Sequence[int] | None, stride: Sequence[int] | None) -> tuple[Size | None, Size | None]:
    if window is None:
        if stride is not None:
            raise ValueError(f"TEST.SEMANTIC.STRIDE {list(stride)} needs TEST.SEMANTIC.WINDOW.")
        return None, None
    stride = [math.ceil(side * 2 / 3) for side in window] if stride is None else stride
    for name, pair in (("WINDOW", window), ("STRIDE", stride)):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"TEST.SEMANTIC.{name} is {list(pair)}; it must be a height and a width in pixels.")
    if any(step > side for step, side in zip(stride, window)):
        raise ValueError(f"TEST.SEMANTIC.STRIDE {list(stride)} leaves gaps between windows of {list(window)}.")
    return (window[0], window[1]), (stride[0], stride[1])


def _spans(length: int, window: int, stride: int) -> list[slice]:
    """The windows along a side: ``stride`` apart, the last one at its end; the whole side where it is not longer."""
    if length <= window:
        return [slice(0, length)]
    starts = [min(k * stride, length - window) for k in range(math.ceil((length - window) / stride) + 1)]
    return [slice(start, start + window) for start in starts]


def _cover(spans: list[slice], length: int) -> Tensor:
    """(length,) how many spans hold each pixel of a side."""
    count = torch.zeros(length)
    for span in spans:
        count[span] += 1
    return count


def _resize(x: Tensor, size: Size, *, antialias: bool = False) -> Tensor:
    """(C, h, w) to (C, *size), bilinear with half-pixel centres; as it is where it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x[None].float(), size=tuple(size), mode="bilinear", antialias=antialias)[0]
