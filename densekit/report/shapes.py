"""Annotations and results of COCO as shapes of SVG, in pixels of the image.

Every shape says what the page's script filters by: ``data-c`` the class number, ``data-s`` the score of a prediction,
``data-m`` the score from which on an annotated object is missed.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils

from densekit.data.coco_masks import polygon_problem
from densekit.metrics.detection_errors import FALSE, TRUE
from densekit.report.html import Markup, el, join
from densekit.report.instance_page import InstanceImage

__all__ = ["object_shapes", "outline"]

_LEAST_SCORE = 0.05  # lower ones are noise that nobody looks at
_TOLERANCE = 0.75  # pixels by which an outline may cut corners

Entry = Mapping[str, Any]
_FATES = {TRUE: "true", FALSE: "false"}


def object_shapes(
    image: InstanceImage, numbers: Mapping[int, int], names: Mapping[int, str], limbs: list[tuple[int, int]]
) -> tuple[Markup, Markup]:
    """Draws one image's annotations and predictions.

    Args:
        image: the image.
        numbers: category id -> class number.
        names: category id -> name.
        limbs: pairs of keypoint numbers from 0, to be joined by lines.

    Returns:
        The annotations and the predictions; the best predictions last, on top.
    """
    matches = image.matches
    truth = []
    for entry, score, crowd in zip(image.truth, matches.found_score.tolist(), matches.ignored.tolist()):
        name = names[entry["category_id"]]
        fate = "crowd" if crowd else "object"
        label = f"{name} (crowd)" if crowd else name
        truth.append(_group(entry, limbs, fate, label, data_c=numbers[entry["category_id"]], data_m=f"{score:.4f}"))
    found = []
    for k in np.argsort(matches.scores, kind="stable").tolist():
        if matches.scores[k] < _LEAST_SCORE:
            continue
        entry, score = image.found[k], float(matches.scores[k])
        fate = _FATES.get(int(matches.fate[k]), "crowd")
        label = f"{names[entry['category_id']]} {score:.2f}"
        found.append(_group(entry, limbs, fate, label, data_c=numbers[entry["category_id"]], data_s=f"{score:.4f}"))
    return join(truth), join(found)


def _group(entry: Entry, limbs: list[tuple[int, int]], fate: str, label: str, **data: Any) -> Markup:
    x, y, width, height = entry["bbox"]
    parts = [el("title", label)]
    if path := outline(entry.get("segmentation")):
        parts.append(el("path", d=path, class_="mask"))
    parts.append(el("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", class_="box"))
    if entry.get("keypoints"):
        parts += _pose(np.reshape(entry["keypoints"], (-1, 3)), limbs, "score" in entry)
    parts.append(el("text", label, x=f"{max(x, 0):.1f}", y=f"{max(y - 3, 10):.1f}"))
    return el("g", parts, class_=f"shape {fate}", **data)


def _pose(points: np.ndarray, limbs: list[tuple[int, int]], predicted: bool) -> list[Markup]:
    """Labelled points and the limbs between them; a prediction's third number is a score, and all points are shown."""
    shown = np.ones(len(points), dtype=bool) if predicted else points[:, 2] > 0
    place = [(f"{x + 0.5:.1f}", f"{y + 0.5:.1f}") for x, y in points[:, :2]]
    lines = [
        f"M{place[a][0]} {place[a][1]}L{place[b][0]} {place[b][1]}"
        for a, b in limbs
        if max(a, b) < len(points) and shown[a] and shown[b]
    ]
    # Lines of no length with round ends are dots whose size does not follow the zoom.
    dots = [f"M{place[k][0]} {place[k][1]}h0" for k in np.flatnonzero(shown)]
    return [el("path", d="".join(lines), class_="limb"), el("path", d="".join(dots), class_="joint")]


def outline(segmentation: Any) -> str:
    """Returns the path of sound polygons or of a run-length mask; empty where there is none."""
    if not segmentation:
        return ""
    if isinstance(segmentation, list):
        polygons = [np.reshape(polygon, (-1, 2)) for polygon in segmentation if not polygon_problem(polygon)[0]]
    else:
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = mask_utils.frPyObjects(dict(rle), *rle["size"])
        mask = mask_utils.decode(dict(rle))
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        close = [cv2.approxPolyDP(contour, _TOLERANCE, True)[:, 0] for contour in contours]
        polygons = [contour + 0.5 for contour in close if len(contour) > 2]  # from pixels to their centres
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in polygon) + "Z" for polygon in polygons)
