"""Axis-aligned boxes of one image, conversions between box formats, and overlaps of all pairs.

Shapes: N, M = numbers of boxes. Boxes are xyxy in continuous pixel coordinates: a box that covers exactly the pixel in
the top left corner is (0, 0, 1, 1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, unique
from typing import Any, TypeVar

import numpy as np
import torch

RawBox = TypeVar("RawBox", list, tuple, np.ndarray, torch.Tensor)


@unique
class BoxMode(IntEnum):
    """Meanings of the four (or five) numbers of a box; JSON files hold the integers as ``bbox_mode``."""

    XYXY_ABS = 0  # left, top, right, bottom in pixels
    XYWH_ABS = 1  # left, top, width, height in pixels: COCO's format
    XYXY_REL = 2  # as XYXY_ABS, as fractions of the image size
    XYWH_REL = 3  # as XYWH_ABS, as fractions of the image size
    XYWHA_ABS = 4  # centre x, centre y, width, height in pixels, counter-clockwise angle in degrees

    @staticmethod
    def convert(box: RawBox, from_mode: "BoxMode", to_mode: "BoxMode") -> RawBox:
        """Rewrites boxes in another format.

        Args:
            box: One box as a list or tuple of 4 or 5 numbers, or an (N, 4) or (N, 5) array or tensor. Not modified.
            from_mode: The format of ``box``.
            to_mode: The wanted format.

        Returns:
            The boxes, in a container of the type that came in (the very same object where the formats are equal).

        Raises:
            ValueError: A wrong number of values, or a relative format (it needs the image size).
            NotImplementedError: There is no conversion between the two formats.
        """
        if from_mode == to_mode:
            return box
        from_mode, to_mode = BoxMode(from_mode), BoxMode(to_mode)
        if {from_mode, to_mode} & {BoxMode.XYXY_REL, BoxMode.XYWH_REL}:
            raise ValueError(
                f"cannot convert boxes from {from_mode.name} to {to_mode.name}: relative boxes need the image size. "
                "Multiply them by it first."
            )
        rule = _CONVERSIONS.get((from_mode, to_mode))
        if rule is None:
            raise NotImplementedError(f"there is no conversion of boxes from {from_mode.name} to {to_mode.name}.")
        values = torch.as_tensor(box)
        width = 5 if from_mode == BoxMode.XYWHA_ABS else 4
        if values.ndim == 0 or values.shape[-1] != width:
            raise ValueError(
                f"a box in {from_mode.name} has {width} values; got {box!r} of shape {tuple(values.shape)}."
            )
        converted = rule(values)
        if isinstance(box, torch.Tensor):
            return converted
        if isinstance(box, np.ndarray):
            return converted.numpy()
        return type(box)(converted.tolist())


def _xywh_to_xyxy(box: torch.Tensor) -> torch.Tensor:
    corner, size = box[..., :2], box[..., 2:]
    return torch.cat((corner, corner + size), dim=-1)


def _xyxy_to_xywh(box: torch.Tensor) -> torch.Tensor:
    first, second = box[..., :2], box[..., 2:]
    return torch.cat((first, second - first), dim=-1)


def _xywha_to_xyxy(box: torch.Tensor) -> torch.Tensor:
    """Bounds a rotated box; in float64, since the angle is in degrees."""
    x, y, w, h, degrees = box.double().unbind(dim=-1)
    radians = degrees * math.pi / 180.0
    cos, sin = radians.cos().abs(), radians.sin().abs()
    bound_w, bound_h = cos * w + sin * h, cos * h + sin * w
    left, top = x - bound_w / 2, y - bound_h / 2
    return torch.stack((left, top, left + bound_w, top + bound_h), dim=-1).to(box.dtype)


def _xywh_to_xywha(box: torch.Tensor) -> torch.Tensor:
    corner, size = box.double().split(2, dim=-1)
    return torch.cat((corner + size / 2, size, torch.zeros_like(size[..., :1])), dim=-1).to(box.dtype)


_CONVERSIONS: dict[tuple[BoxMode, BoxMode], Callable[[torch.Tensor], torch.Tensor]] = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _xywh_to_xyxy,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _xyxy_to_xywh,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _xywha_to_xyxy,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _xywh_to_xywha,
}


class Boxes:
    """The boxes of one image; behaves like a tensor whose rows are boxes.

    Attributes:
        tensor: (N, 4) float32, xyxy.
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray | Sequence[Any]) -> None:
        """Wraps boxes.

        Args:
            tensor: (N, 4), or anything without elements for no boxes; cast to float32.

        Raises:
            ValueError: Another shape.
        """
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise ValueError(f"Boxes takes rows of 4 coordinates, shape (N, 4); got shape {tuple(tensor.shape)}.")
        self.tensor = tensor

    @classmethod
    def cat(cls, boxes_list: Sequence["Boxes"]) -> "Boxes":
        """Joins boxes into a new object that shares no storage with them; none give no boxes."""
        if not boxes_list:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> torch.Tensor:
        """(N,) areas in square pixels, negative where exactly one side is turned round."""
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        return (x1 - x0) * (y1 - y0)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limits the boxes to an image, replacing ``tensor``.

        Args:
            box_size: (height, width) of the image.

        Raises:
            ValueError: A coordinate is infinite or NaN. Checked on the CPU only: elsewhere it would stall the device,
                and NaN stays NaN.
        """
        if self.tensor.device.type == "cpu" and not torch.isfinite(self.tensor).all():
            raise ValueError("cannot clip boxes that hold infinite or NaN coordinates; did the training diverge?")
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        self.tensor = torch.stack(
            (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), dim=1
        )

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """(N,) bool: both sides are longer than ``threshold`` pixels."""
        width, height = (self.tensor[:, 2:] - self.tensor[:, :2]).unbind(dim=1)
        return (width > threshold) & (height > threshold)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: float = 0) -> torch.Tensor:
        """(N,) bool: the box leaves an image of ``box_size`` = (height, width) by at most ``boundary_threshold``."""
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        reaches_in = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        return reaches_in & (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)

    def get_centers(self) -> torch.Tensor:
        """(N, 2) centres, (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiplies the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def __getitem__(self, item: Any) -> "Boxes":
        """Selects boxes by an integer (one box), a slice, a list, an index vector or a bool vector."""
        if isinstance(item, int):
            return Boxes(self.tensor[item][None])
        selected = self.tensor[item]
        if selected.dim() != 2:
            raise IndexError(f"indexing Boxes with {item!r} gives shape {tuple(selected.shape)}, not rows of boxes.")
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields each box as a tensor of 4 coordinates."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) areas of overlap of every box in the first with every box in the second."""
    left, top, right, bottom = (column[:, None] for column in boxes1.tensor.unbind(dim=1))
    x0, y0, x1, y1 = boxes2.tensor.unbind(dim=1)
    # One (N, M) map per axis: half the memory of the usual (N, M, 2) one, which hurts with 200,000 anchors.
    width = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp_(min=0)
    height = (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp_(min=0)
    return width * height


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) intersection over union of every pair, 0 where two boxes do not overlap (empty boxes included)."""
    overlap = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - overlap
    return torch.where(overlap > 0, overlap / union, 0.0)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) intersection over the area of the second box: the share of it that the first covers."""
    overlap = pairwise_intersection(boxes1, boxes2)
    return torch.where(overlap > 0, overlap / boxes2.area(), 0.0)
