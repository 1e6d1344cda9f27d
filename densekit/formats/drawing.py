"""Drawing on pictures what was predicted for them.

H, W: height and width of the drawn picture in pixels.
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import torch
from PIL import Image

from densekit.d2.data import Metadata
from densekit.d2.structures import Boxes, BoxMode, Instances
from densekit.d2.utils.visualizer import Visualizer
from densekit.files.atomic import atomic_write
from densekit.files.panoptic_png import rgb2id
from densekit.formats.classes import Classes

_SMALL, _LARGE = 1024, 4096  # the drawn picture's longer side is at least and at most so long, in pixels
_GOLDEN = 0.618034  # of the circle of hues, by which colours of neighbouring numbers differ much
_AT_ONCE = 32  # detections whose masks are in memory as pixels


def results_to_instances(
    results: Sequence[Mapping[str, Any]], record: Mapping[str, Any], metadata: Metadata
) -> Instances:
    """Returns COCO results of one image as a model's detections.

    Args:
        results: Results in the data set's category ids.
        record: The data set's dict of the image, with ``height`` and ``width``.
        metadata: Of the data set; maps its category ids to classes.

    Returns:
        Instances with ``pred_boxes`` (xyxy, pixels), ``scores``, ``pred_classes``, and ``pred_masks`` or
        ``pred_keypoints`` where the results have them.
    """
    classes = metadata.get("thing_dataset_id_to_contiguous_id") or {k: k for k in range(len(metadata.thing_classes))}
    unknown = {r["category_id"] for r in results} - classes.keys()
    if unknown:
        raise ValueError(
            f"The predictions have the category ids {sorted(unknown)}; the data set has {sorted(classes)}."
        )
    height, width = record["height"], record["width"]
    instances = Instances((height, width))
    boxes = torch.tensor([r["bbox"] for r in results], dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    instances.scores = torch.tensor([r["score"] for r in results], dtype=torch.float32)
    instances.pred_classes = torch.tensor([classes[r["category_id"]] for r in results], dtype=torch.int64)
    if results and all("segmentation" in r for r in results):
        masks = mask_utils.decode([dict(r["segmentation"]) for r in results])  # (H, W, N)
        if masks.shape[:2] != (height, width):
            raise ValueError(f"{record['file_name']} is {height} x {width}, its predicted masks are {masks.shape[:2]}.")
        instances.pred_masks = torch.from_numpy(masks.transpose(2, 0, 1).astype(bool))
    if results and all("keypoints" in r for r in results):
        points = torch.tensor([r["keypoints"] for r in results], dtype=torch.float32).reshape(len(results), -1, 3)
        # From COCO's pixel indices back to continuous coordinates.
        instances.pred_keypoints = points + points.new_tensor([0.5, 0.5, 0.0])
    return instances


def draw_picture(
    pixels: np.ndarray, line: Mapping[str, Any], folder: Path, classes: Classes, *, keep_size: bool = False
) -> np.ndarray:
    """Draws what a line says: the panoptic map if there is one, else the semantic map below the objects.

    Args:
        pixels: (height, width, 3) in RGB.
        line: the picture's; see :mod:`densekit.formats.formats`.
        folder: the output's, with its label maps.
        classes: the line's.
        keep_size: draw at the size of the picture, as frames of a video are.

    Returns:
        (H, W, 3) in RGB: small pictures larger, so that names can be read, and huge ones smaller.
    """
    longer = max(line["height"], line["width"])
    if longer > _LARGE and not keep_size:
        line, pixels = _shrunk(line, pixels, _LARGE / longer)
    metadata = classes.metadata()
    canvas = Visualizer(pixels, metadata, scale=1.0 if keep_size else max(1.0, _SMALL / longer))
    if "segments_info" in line:
        _draw_panoptic(canvas, line, _read_map(folder / "panoptic" / f"{line['stem']}.png", pixels), classes)
        return canvas.output.get_image()
    semantic = folder / "semantic" / f"{line['stem']}.png"
    if semantic.exists():
        canvas.draw_sem_seg(_class_numbers(_read_map(semantic, pixels), classes), alpha=0.5)
    results = line.get("instances", [])
    if any("track_id" in result for result in results):
        results = _draw_tracks(canvas, results, line, metadata)
    for start in range(0, len(results), _AT_ONCE):
        canvas.draw_instance_predictions(results_to_instances(results[start : start + _AT_ONCE], line, metadata))
    return canvas.output.get_image()


def write_overlay(folder: Path, line: Mapping[str, Any], pixels: np.ndarray, classes: Classes) -> None:
    """Writes the drawn picture as ``overlay/<stem>.jpg``."""
    path = folder / "overlay" / f"{line['stem']}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_picture(pixels, line, folder, classes)
    with atomic_write(path, "wb") as file:
        Image.fromarray(picture).save(file, format="JPEG", quality=90)


def _draw_tracks(
    canvas: Visualizer, results: Sequence[Mapping[str, Any]], line: Mapping[str, Any], metadata: Metadata
) -> list[Mapping[str, Any]]:
    """Draws the objects that have an identity, each in its colour, and returns the other results."""
    tracked = [result for result in results if "track_id" in result]
    for start in range(0, len(tracked), _AT_ONCE):
        part = tracked[start : start + _AT_ONCE]
        found = results_to_instances(part, line, metadata)
        names = [metadata.thing_classes[number] for number in found.pred_classes]
        canvas.overlay_instances(
            boxes=found.pred_boxes,
            masks=found.pred_masks.numpy() if found.has("pred_masks") else None,
            keypoints=found.pred_keypoints if found.has("pred_keypoints") else None,
            labels=[f"{name} {result['track_id']}" for name, result in zip(names, part)],
            assigned_colors=[colorsys.hsv_to_rgb(result["track_id"] * _GOLDEN % 1, 0.8, 1.0) for result in part],
            alpha=0.5,
        )
    return [result for result in results if "track_id" not in result]


def _draw_panoptic(canvas: Visualizer, line: Mapping[str, Any], colours: np.ndarray, classes: Classes) -> None:
    things = {key: number for number, (key, _) in enumerate(classes.things)}
    labels = {key: number for number, (key, _) in enumerate(classes.labels)}
    segments = [
        {**info, "category_id": (things if info["isthing"] else labels)[info["category_id"]]}
        for info in line["segments_info"]
    ]
    canvas.draw_panoptic_seg(torch.from_numpy(rgb2id(colours)), segments)


def _read_map(path: Path, pixels: np.ndarray) -> np.ndarray:
    """A label map at the size of the picture to draw."""
    with Image.open(path) as image:
        values = np.asarray(image)
    if values.shape[:2] == pixels.shape[:2]:
        return values
    return cv2.resize(values, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _class_numbers(ids: np.ndarray, classes: Classes) -> np.ndarray:
    """From the data set's label ids to the numbers that its metadata lists the names by."""
    table = np.full(int(ids.max()) + 1, 255, dtype=np.int64)
    for number, (key, _) in enumerate(classes.labels):
        if key < len(table):
            table[key] = number
    return table[ids]


def _shrunk(line: Mapping[str, Any], pixels: np.ndarray, factor: float) -> tuple[dict[str, Any], np.ndarray]:
    """The same for a smaller picture; one mask at a time is in memory at the old size."""
    width, height = round(line["width"] * factor), round(line["height"] * factor)
    results = [_shrunk_result(result, factor, (width, height)) for result in line.get("instances", [])]
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return {**line, "height": height, "width": width, "instances": results}, small


def _shrunk_result(result: Mapping[str, Any], factor: float, size: tuple[int, int]) -> dict[str, Any]:
    small = {**result, "bbox": [value * factor for value in result["bbox"]]}
    if "keypoints" in result:
        small["keypoints"] = [v * factor if k % 3 < 2 else v for k, v in enumerate(result["keypoints"])]
    if "segmentation" in result:
        share = cv2.resize(mask_utils.decode(dict(result["segmentation"])) * 255, size, interpolation=cv2.INTER_AREA)
        small["segmentation"] = mask_utils.encode(np.asfortranarray(share > 127, dtype=np.uint8))
    return small
