"""Detections as plain COCO results in the user's category ids, also those that were found tile by tile.

N: detections of a picture. H, W: its height and width in pixels. Boxes are xyxy in its pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from densekit.d2.structures import Boxes, Instances
from densekit.evaluation.predictions import instances_to_coco_json
from densekit.formats.classes import Classes
from densekit.inference.merging import Fragments, merge_fragments
from densekit.inference.rle import encode_in_frame
from densekit.inference.tiles import Tile


def whole_results(instances: Instances, image_id: Any, classes: Classes, threshold: float) -> list[dict[str, Any]]:
    """COCO results of a picture that the model saw in one piece.

    Args:
        instances: the model's, with ``pred_boxes``, ``scores``, ``pred_classes`` and maybe masks or keypoints.
        image_id: the picture's.
        classes: from class numbers to the data set's ids.
        threshold: detections with a lower score are left out.
    """
    return _in_ids(instances_to_coco_json(instances[instances.scores >= threshold], image_id), classes)


def tiled_results(
    found: Sequence[Instances],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    image_id: Any,
    classes: Classes,
    threshold: float,
) -> list[dict[str, Any]]:
    """COCO results of a picture that the model saw in parts; what several parts show is one result.

    Args:
        found: for each tile the model's detections in the tile's pixels.
        tiles: where the tiles lie.
        size: H and W.
        image_id: the picture's.
        classes: from class numbers to the data set's ids.
        threshold: detections with a lower score are left out.
    """
    parts = [_fragments(one[one.scores >= threshold], number, tiles[number], size) for number, one in enumerate(found)]
    merged = merge_fragments(Fragments.joined(parts), tiles, size)
    instances = Instances(size)
    instances.pred_boxes = Boxes(merged.boxes)
    instances.scores, instances.pred_classes = merged.scores, merged.classes
    if merged.keypoints is not None:
        instances.pred_keypoints = merged.keypoints
    results = _in_ids(instances_to_coco_json(instances, image_id), classes)
    if merged.masks is None:
        return results
    return [{**result, "segmentation": _text(mask)} for result, mask in zip(results, merged.masks)]


def _in_ids(results: list[dict[str, Any]], classes: Classes) -> list[dict[str, Any]]:
    return [{**result, "category_id": classes.thing_id(result["category_id"])} for result in results]


def _fragments(instances: Instances, number: int, tile: Tile, size: tuple[int, int]) -> Fragments:
    """Moves a tile's detections into the picture's frame."""
    x, y = tile.box[:2]
    boxes = instances.pred_boxes.tensor.float().cpu()
    masks: list[dict[str, Any]] | None = None
    if instances.has("pred_masks"):
        found = instances.pred_masks
        masks = encode_in_frame(found if isinstance(found, Tensor) else found.tensor, (x, y), size)
    keypoints = None
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.float().cpu()
        keypoints = keypoints + keypoints.new_tensor([x, y, 0])
    return Fragments(
        boxes=boxes + boxes.new_tensor([x, y, x, y]),
        scores=instances.scores.float().cpu(),
        classes=instances.pred_classes.cpu(),
        tiles=torch.full((len(instances),), number),
        masks=masks,
        keypoints=keypoints,
    )


def _text(mask: dict[str, Any]) -> dict[str, Any]:
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}
