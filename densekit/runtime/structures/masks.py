"""Instance masks of one image: as bitmaps, as polygons, or as small grids inside boxes.

Shapes: N = objects, H, W = image, S = side of a training target. Polygons are flat float64 vectors x0, y0, x1, y1, ...
in continuous pixel coordinates; rasterisation is pycocotools', so that masks are what COCO's evaluation sees.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch

from densekit.runtime.layers.mask_ops import paste_masks_in_image
from densekit.runtime.layers.roi_align import roi_align
from densekit.runtime.structures.boxes import Boxes
from densekit.runtime.utils.memory import retry_if_cuda_oom


def polygons_to_bitmask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterises the union of the polygons of one object.

    Args:
        polygons: Flat coordinate vectors; none give an empty mask.
        height: H, pixels.
        width: W, pixels.

    Returns:
        (H, W) bool.
    """
    return _rasterise([list(polygons)], height, width)[0]


def _rasterise(objects: Sequence[list[np.ndarray]], height: int, width: int) -> np.ndarray:
    """Rasterises each object's polygons, (N, H, W) bool; one call into pycocotools for all of them."""
    masks = np.zeros((len(objects), height, width), dtype=bool)
    filled = [index for index, polygons in enumerate(objects) if polygons]
    if not filled:
        return masks
    pieces = iter(mask_util.frPyObjects([p for index in filled for p in objects[index]], height, width))
    runs = [mask_util.merge(list(itertools.islice(pieces, len(objects[index])))) for index in filled]
    masks[filled] = mask_util.decode(runs).transpose(2, 0, 1)
    return masks


class BitMasks:
    """Masks as bitmaps of the whole image.

    Attributes:
        tensor: (N, H, W) bool.
        image_size: (H, W).
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        """Wraps masks; cast to bool.

        Raises:
            ValueError: The shape is not (N, H, W).
        """
        tensor = torch.as_tensor(tensor, dtype=torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"BitMasks takes masks of shape (N, H, W); got {tuple(tensor.shape)}.")
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | Sequence[list[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        """Rasterises the polygons of each object onto an image of height x width pixels."""
        return BitMasks(_rasterise(list(polygon_masks), height, width))

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        """Joins at least one BitMasks into a new object."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Samples each mask in its box by RoIAlign: the targets of Mask R-CNN's mask head.

        Args:
            boxes: (N, 4) xyxy in pixels, one per mask.
            mask_size: S.

        Returns:
            (N, S, S) bool, on the device of the masks.
        """
        _check_one_box_each(boxes, len(self))
        index = torch.arange(len(boxes), device=self.device, dtype=torch.float32)[:, None]
        rois = torch.cat((index, boxes.to(index)), dim=1)
        sampled = roi_align(self.tensor[:, None].float(), rois, (mask_size, mask_size), 1.0, 0, True)
        return sampled[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the masks; all zero for an empty mask."""
        height, width = self.image_size
        if len(self) == 0:
            return Boxes(torch.zeros(0, 4, device=self.device))
        columns, rows = self.tensor.any(dim=1).int(), self.tensor.any(dim=2).int()  # (N, W), (N, H)
        first_and_end = (
            columns.argmax(dim=1),
            rows.argmax(dim=1),
            width - columns.flip(1).argmax(dim=1),
            height - rows.flip(1).argmax(dim=1),
        )
        return Boxes(torch.stack(first_and_end, dim=1) * columns.any(dim=1)[:, None])

    def __getitem__(self, item: Any) -> "BitMasks":
        """Selects masks by an integer (one mask), a slice, a list, an index vector or a bool vector."""
        return BitMasks(self.tensor[item][None] if isinstance(item, int) else self.tensor[item])

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields each mask, (H, W) bool."""
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"


class PolygonMasks:
    """Masks as polygons; they stay on the CPU.

    Attributes:
        polygons: For each object the list of its polygons.
    """

    def __init__(self, polygons: Sequence[Sequence[Any]]) -> None:
        """Wraps polygons.

        Args:
            polygons: For each object a list of flat coordinate vectors, cast to float64.

        Raises:
            ValueError: Not a list of lists, an odd number of coordinates, or fewer than 3 points.
        """
        if not isinstance(polygons, list):
            raise ValueError(f"PolygonMasks takes a list of lists of polygons; got {type(polygons).__name__}.")
        self.polygons: list[list[np.ndarray]] = [_as_polygons(number, item) for number, item in enumerate(polygons)]

    @classmethod
    def _of(cls, polygons: list[list[np.ndarray]]) -> "PolygonMasks":
        """Wraps polygons that were checked before."""
        masks = cls([])
        masks.polygons = polygons
        return masks

    @staticmethod
    def cat(polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        """Joins PolygonMasks; the polygons are shared."""
        return PolygonMasks._of([polygons for masks in polymasks_list for polygons in masks.polygons])

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Does nothing: polygons are many small arrays, of no use on another device."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the object has a polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def area(self) -> torch.Tensor:
        """(N,) float64 sums of the polygons' areas, square pixels (overlaps between them count twice)."""
        return torch.tensor([sum(map(_polygon_area, polygons), 0.0) for polygons in self.polygons], dtype=torch.float64)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the objects; all zero for an object without polygons."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, polygons in zip(boxes, self.polygons):
            if polygons:
                points = np.concatenate(polygons).reshape(-1, 2)
                box[:2], box[2:] = points.min(axis=0), points.max(axis=0)
        return Boxes(boxes)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Rasterises each object's polygons inside its box: the targets of Mask R-CNN's mask head.

        Args:
            boxes: (N, 4) xyxy in pixels, one per object.
            mask_size: S.

        Returns:
            (N, S, S) bool, on the device of the boxes.
        """
        _check_one_box_each(boxes, len(self))
        frames = boxes.detach().cpu().numpy()
        # A box thinner than a tenth of a pixel would blow the polygon up beyond what pycocotools can count.
        zoom = np.float32(mask_size) / np.maximum(frames[:, 2:] - frames[:, :2], np.float32(0.1))
        # pycocotools wants one Python array per polygon, so this loop cannot be a tensor operation.
        placed = [
            [((polygon.reshape(-1, 2) - frame[:2]) * factor).ravel() for polygon in polygons]
            for polygons, frame, factor in zip(self.polygons, frames, zoom)
        ]
        return torch.from_numpy(_rasterise(placed, mask_size, mask_size)).to(boxes.device)

    def __getitem__(self, item: Any) -> "PolygonMasks":
        """Selects objects by an integer (one object), a slice, a list, an index vector or a bool vector."""
        if isinstance(item, int):
            return PolygonMasks._of([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks._of(self.polygons[item])
        index = torch.as_tensor(item)
        if index.dtype == torch.bool:
            if index.shape != (len(self),):
                raise IndexError(f"a bool index of shape {tuple(index.shape)} does not fit {len(self)} objects.")
            index = index.nonzero()[:, 0]
        elif index.numel() and index.is_floating_point():
            raise IndexError(f"PolygonMasks cannot be indexed with {index.dtype}; use integers or bool.")
        return PolygonMasks._of([self.polygons[int(i)] for i in index.tolist()])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Yields the polygons of each object."""
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"


class ROIMasks:
    """Masks as small grids, each inside a box that is kept elsewhere.

    Attributes:
        tensor: (N, M, M), usually probabilities.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        """Wraps grids.

        Raises:
            ValueError: The shape is not (N, M, M).
        """
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks takes masks of shape (N, M, M); got {tuple(tensor.shape)}.")
        self.tensor = tensor

    def to(self, device: torch.device | str) -> "ROIMasks":
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Pastes the grids into an image.

        Args:
            boxes: One box per grid, in the image's pixels.
            height: H, pixels.
            width: W, pixels.
            threshold: A pixel belongs to the mask where the resampled grid reaches it.
        """
        paste = retry_if_cuda_oom(paste_masks_in_image)
        return BitMasks(paste(self.tensor, boxes, (height, width), threshold=threshold))

    def __getitem__(self, item: Any) -> "ROIMasks":
        """Selects masks by a slice, a list, an index vector or a bool vector."""
        return ROIMasks(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"ROIMasks(num_instances={len(self)})"


def _as_polygons(number: int, polygons: Any) -> list[np.ndarray]:
    if not isinstance(polygons, list):
        raise ValueError(f"object {number} must have a list of polygons; got {type(polygons).__name__}.")
    vectors = [np.asarray(p.cpu() if isinstance(p, torch.Tensor) else p, dtype=np.float64) for p in polygons]
    for vector in vectors:
        if vector.ndim != 1 or len(vector) % 2 or len(vector) < 6:
            raise ValueError(
                f"object {number} has a polygon of shape {vector.shape}; it must be a flat list x0, y0, x1, y1, ... "
                "of at least 3 points."
            )
    return vectors


def _polygon_area(polygon: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = polygon[0::2], polygon[1::2]
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _check_one_box_each(boxes: torch.Tensor, count: int) -> None:
    if len(boxes) != count:
        raise ValueError(f"crop_and_resize takes one box per mask; got {len(boxes)} boxes for {count} masks.")
