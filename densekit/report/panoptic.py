"""What a page needs of an evaluation of panoptic segmentation, from the PNGs and the JSON that the evaluator kept."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densekit.d2.utils.colormap import colormap
from densekit.evaluation.panoptic_truth import PanopticTruth
from densekit.metrics.panoptic_quality import Matching, Quality, match_segments, panoptic_quality
from densekit.ops.panoptic_png import read_panoptic_png
from densekit.report.run_files import RunFiles

__all__ = ["Panoptic", "PanopticImage", "read_panoptic"]

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class PanopticImage:
    """One image.

    Attributes:
        image_id: its id.
        path: its file.
        prediction: PNG of the predicted segments.
        segments: id of a predicted segment -> category.
        matching: what became of the segments.
    """

    image_id: Any
    path: str
    prediction: Path
    segments: dict[int, int]
    matching: Matching


@dataclass(frozen=True)
class Panoptic:
    """An evaluation of panoptic segmentation.

    Attributes:
        truth: the ground truth.
        classes: category id -> name.
        qualities: category id -> its numbers, 0 to 1.
        images: all of them.
    """

    truth: PanopticTruth
    classes: dict[int, str]
    qualities: dict[int, Quality]
    images: list[PanopticImage]

    def colours(self, image: PanopticImage) -> tuple[dict[int, Colour], dict[int, Colour]]:
        """Returns the colours of the annotated and of the predicted segments of an image."""
        annotated = {key: segment.category for key, segment in self.truth.segments(image.image_id).items()}
        return self._shades(annotated), self._shades(image.segments)

    def _shades(self, segments: dict[int, int]) -> dict[int, Colour]:
        """The colour of the class, a little lighter or darker for each further segment of it."""
        table = colormap(rgb=True, maximum=255).astype(int).tolist()
        numbers = {key: number for number, key in enumerate(self.classes)}
        seen: dict[int, int] = {}
        shades = {}
        for key, category in segments.items():
            entry = self.truth.file.categories.get(category, {})
            base = entry.get("color") or table[numbers.get(category, 0) % len(table)]
            turn = seen.setdefault(category, 0)
            seen[category] += 1
            factor = (1.0, 0.75, 1.25, 0.6, 1.4)[turn % 5]
            red, green, blue = (int(min(255, channel * factor)) for channel in base)
            shades[key] = (red, green, blue)
        return shades


def read_panoptic(run: RunFiles, records: Iterable[Mapping[str, Any]]) -> Panoptic | None:
    """Compares the kept segments with the data set's; None where there are none.

    Raises:
        FileNotFoundError: A kept PNG is missing.
        ValueError: The files are damaged or of another data set.
    """
    document = run.inference / "predictions.json"
    if not document.is_file():
        return None
    truth = PanopticTruth.of(run.dataset)
    try:
        annotations = json.loads(document.read_text(encoding="utf-8"))["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{document} is no JSON with 'annotations': {error!r}") from error
    files = {record["image_id"]: record["file_name"] for record in records}
    images = []
    for annotation in annotations:
        key = annotation["image_id"]
        if key not in truth.file.annotations or key not in files:
            raise ValueError(f"{document} has image {key!r}, which {truth.file.path} does not have.")
        path = run.inference / "panoptic" / annotation["file_name"]
        segments = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        ids = read_panoptic_png(path)
        matching = match_segments(truth.ids(key), truth.segments(key), ids, segments)
        images.append(PanopticImage(key, files[key], path, segments, matching))
    qualities = panoptic_quality((image.matching for image in images), list(truth.file.categories))
    names = {key: str(category["name"]) for key, category in truth.file.categories.items()}
    return Panoptic(truth, names, qualities, images)


def image_quality(matching: Matching) -> float:
    """Returns the quality of one image over its segments of all classes together; NaN where there are none."""
    weight = len(matching.matched) + (len(matching.missed) + len(matching.spurious)) / 2
    return float(np.sum([iou for _, iou in matching.matched]) / weight) if weight else float("nan")
