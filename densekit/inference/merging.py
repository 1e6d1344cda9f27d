"""One detection of each object from the detections of overlapping tiles.

Two tiles share a strip. If a detection of one and a detection of the other agree on what the strip holds, they are two
views of one object, whether it lies within the strip, reaches into one tile or through both. They agree if what they
claim of the strip is much the same (IoU), or if one that its tile's border has cut claims little that the other does
not claim too: a part is seen less exactly than a whole. Masks are compared where there are masks, else boxes.

This is non-maximum suppression with the overlap taken in the strip, and it joins in place of suppressing: an object
that no tile holds whole becomes the union of its parts, one that some tile holds whole is that tile's.

N: detections. Boxes are xyxy in the picture's pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import Tensor
from torchvision.ops import box_area

from densekit.d2.layers import batched_nms
from densekit.inference.rle import encode_in_frame
from densekit.inference.tiles import Box, Tile

_SAME = 0.5  # agreement in the shared strip from which two detections are one object; IoU of whole boxes at the end
_WHOLE = 0.9  # share of the union's area from which a detection that no border cuts stands for all
_CUT = 2.0  # a box that ends this near to a tile's inner border is cut by it, in pixels


@dataclass
class Fragments:
    """Detections of several tiles.

    Attributes:
        boxes: (N, 4).
        scores: (N,).
        classes: (N,) class numbers.
        tiles: (N,) the tile of each.
        masks: N run-length encodings in the picture's frame, or None.
        keypoints: (N, K, 3) x, y, score, or None.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    tiles: Tensor
    masks: list[dict[str, Any]] | None
    keypoints: Tensor | None

    @staticmethod
    def joined(parts: Sequence["Fragments"]) -> "Fragments":
        """All detections of the tiles."""
        with_masks = [part.masks for part in parts if part.masks is not None]
        with_keypoints = [part.keypoints for part in parts if part.keypoints is not None]
        return Fragments(
            boxes=torch.cat([part.boxes for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            classes=torch.cat([part.classes for part in parts]),
            tiles=torch.cat([part.tiles for part in parts]),
            masks=[mask for masks in with_masks for mask in masks] if with_masks else None,
            keypoints=torch.cat(with_keypoints) if with_keypoints else None,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def taken(self, keep: list[int]) -> "Fragments":
        """Those of these numbers, in this order."""
        return Fragments(
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            classes=self.classes[keep],
            tiles=self.tiles[keep],
            masks=None if self.masks is None else [self.masks[number] for number in keep],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )


def merge_fragments(found: Fragments, tiles: Sequence[Tile], size: tuple[int, int]) -> Fragments:
    """Joins what is one object.

    Args:
        found: the detections of all tiles.
        tiles: the tiles.
        size: height and width of the picture.

    Returns:
        Detections of different objects, best first; with one tile they are as they were.
    """
    if len(tiles) == 1 or not len(found):
        return found
    cut = _cut(found, tiles, size)
    groups = _groups(found, _agreements(found, cut, tiles, size))
    merged = [_joined(found, group, cut) for group in groups]
    whole = Fragments.joined(merged)
    # What is left of the same object twice: parts that different tiles see too differently to join.
    keep = batched_nms(whole.boxes, whole.scores, whole.classes, _SAME)
    return whole.taken(keep.tolist())


def _groups(found: Fragments, pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Puts detections together that agree, the surest agreement first; a group has one detection of a tile at most."""
    group_of = list(range(len(found)))
    members = {number: [number] for number in group_of}
    tile_of = found.tiles.tolist()
    for first, second in pairs:
        a, b = group_of[first], group_of[second]
        if a == b or {tile_of[k] for k in members[a]} & {tile_of[k] for k in members[b]}:
            continue
        for number in members[b]:
            group_of[number] = a
        members[a] += members.pop(b)
    return list(members.values())


def _agreements(found: Fragments, cut: Tensor, tiles: Sequence[Tile], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Pairs of detections of different tiles that agree in the strip that the tiles share, best first."""
    pairs, degrees = [], []
    by_tile = [torch.nonzero(found.tiles == number).flatten() for number in range(len(tiles))]
    filled = [number for number, those in enumerate(by_tile) if len(those)]
    for a, b in combinations(filled, 2):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = tiles[a].box, tiles[b].box
        strip = (max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1))
        if strip[0] >= strip[2] or strip[1] >= strip[3]:
            continue
        first, second = (_in_strip(found, by_tile[k], strip) for k in (a, b))
        if not len(first) or not len(second):
            continue
        shared, area_first, area_second = _overlaps(found, first, second, strip, size)
        degree = shared / (area_first[:, None] + area_second - shared)
        degree = torch.maximum(degree, shared / area_first[:, None] * cut[first][:, None])
        degree = torch.maximum(degree, shared / area_second * cut[second])
        degree = degree.nan_to_num(0.0) * (found.classes[first][:, None] == found.classes[second])
        rows, columns = torch.nonzero(degree >= _SAME, as_tuple=True)
        pairs.append(torch.stack([first[rows], second[columns]], dim=1))
        degrees.append(degree[rows, columns])
    if not pairs:
        return []
    order = torch.cat(degrees).argsort(descending=True, stable=True)
    return [(first, second) for first, second in torch.cat(pairs)[order].tolist()]


def _in_strip(found: Fragments, numbers: Tensor, strip: Box) -> Tensor:
    """Those of the detections whose boxes reach into a strip."""
    x0, y0, x1, y1 = found.boxes[numbers].unbind(dim=1)
    return numbers[(x0 < strip[2]) & (x1 > strip[0]) & (y0 < strip[3]) & (y1 > strip[1])]


def _overlaps(
    found: Fragments, first: Tensor, second: Tensor, strip: Box, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Areas within a strip: (A, B) what two detections share, (A,) and (B,) what each has of it."""
    if found.masks is None:
        low, high = found.boxes.new_tensor(strip[:2] * 2), found.boxes.new_tensor(strip[2:] * 2)
        a, b = (found.boxes[numbers].clamp(min=low, max=high) for numbers in (first, second))
        common = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
        return common.clamp(min=0).prod(dim=2), box_area(a), box_area(b)
    x0, y0, x1, y1 = strip
    window = encode_in_frame(torch.ones(1, y1 - y0, x1 - x0), (x0, y0), size)[0]
    clipped = [
        [mask_utils.merge([found.masks[number], window], intersect=True) for number in numbers.tolist()]
        for numbers in (first, second)
    ]
    areas = [torch.from_numpy(mask_utils.area(masks).astype("float64")).reshape(-1) for masks in clipped]
    # Against a crowd pycocotools takes the share of the detection that lies in it.
    shares = np.asarray(mask_utils.iou(*clipped, [1] * len(clipped[1])), dtype=np.float64)
    return torch.from_numpy(shares.reshape(len(first), len(second))) * areas[0][:, None], areas[0], areas[1]


def _cut(found: Fragments, tiles: Sequence[Tile], size: tuple[int, int]) -> Tensor:
    """(N,) whether a detection ends at a border of its tile that is none of the picture."""
    height, width = size
    borders = found.boxes.new_tensor([tile.box for tile in tiles])  # (tiles, 4)
    inner = borders != borders.new_tensor([0, 0, width, height])
    near = (found.boxes - borders[found.tiles]).abs() <= _CUT
    return (near & inner[found.tiles]).any(dim=1)


def _joined(found: Fragments, group: list[int], cut: Tensor) -> Fragments:
    """One detection for a group."""
    group = sorted(group, key=lambda number: -float(found.scores[number]))
    if len(group) == 1:
        return found.taken(group)
    boxes = found.boxes[group]  # (members, 4), best first
    union = torch.cat([boxes[:, :2].min(dim=0).values, boxes[:, 2:].max(dim=0).values])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    covers = (areas >= _WHOLE * (union[2:] - union[:2]).prod()) & ~cut[group]
    if covers.any():
        best = found.taken([group[int(covers.nonzero()[0])]])
        best.scores = found.scores[group[:1]]
        return best
    return _union(found, group, union)


def _union(found: Fragments, group: list[int], box: Tensor) -> Fragments:
    """All parts as one: the masks laid over each other, each keypoint from the part that is surest of it."""
    joined = found.taken(group[:1])
    joined.boxes = box[None]
    if found.masks is not None:
        joined.masks = [mask_utils.merge([found.masks[number] for number in group])]
    if found.keypoints is not None:
        points = found.keypoints[group]  # (members, K, 3)
        surest = points[..., 2].argmax(dim=0)  # (K,)
        joined.keypoints = points[surest, torch.arange(points.shape[1])][None]
    return joined
