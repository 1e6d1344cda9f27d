"""Polygons and run-length masks of COCO annotations."""

from typing import Any

from densekit.data.coco_masks import Extent, polygon_problem, rle_problem, segmentation_extent
from densekit.data.inspect.coco_file import Entries, Entry
from densekit.data.inspect.findings import Findings

__all__ = ["MaskCheck"]


class MaskCheck:
    """Checks segmentations one by one.

    Args:
        entries: the file.
        findings: where to record.
        border: pixels by which rounding may carry a corner over the border.
    """

    def __init__(self, entries: Entries, findings: Findings, border: float) -> None:
        self._entries, self._findings, self._border = entries, findings, border

    def check(self, annotation: Entry) -> Extent | None:
        """Records what is wrong; returns the rectangle around the mask (xyxy), None without a sound mask."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            return None  # an empty list or nothing: an annotation without a mask
        image = self._entries.images[annotation["image_id"]]
        if isinstance(segmentation, dict):
            kind, detail = rle_problem(segmentation, image)
            if kind:
                self._add(kind, annotation, detail)
                return None
            return segmentation_extent(segmentation)
        if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
            self._add("segmentation-malformed", annotation, f"it begins with {str(segmentation)[:40]}")
            return None
        return self._polygons(annotation, segmentation, image)

    def _polygons(self, annotation: Entry, polygons: list[list[Any]], image: Entry) -> Extent | None:
        sound = []
        for number, polygon in enumerate(polygons):
            kind, detail = polygon_problem(polygon)
            if kind:
                self._add(kind, annotation, f"polygon {number}: {detail}")
            else:
                sound.append(polygon)
        extent = segmentation_extent(sound) if sound else None
        width, height = image.get("width"), image.get("height")
        if extent and isinstance(width, int | float) and isinstance(height, int | float):
            over = max(-extent[0], -extent[1], extent[2] - width, extent[3] - height)
            if over > self._border:
                self._add("polygon-outside", annotation, f"by {over:.1f} pixels", box=extent)
        return extent

    def _add(self, kind: str, annotation: Entry, detail: str, **fields: Any) -> None:
        place = self._entries.place(annotation)
        self._findings.add(kind, self._entries.where(annotation), detail, **place, **fields)
