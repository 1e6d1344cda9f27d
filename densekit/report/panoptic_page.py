"""Page data of an evaluation of panoptic segmentation, from the PNGs and the JSON that the evaluator kept."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from densekit.d2.data import MetadataCatalog
from densekit.d2.utils.colormap import colormap
from densekit.evaluation.panoptic_truth import PanopticTruth
from densekit.files.atomic import leads_out
from densekit.files.panoptic_png import read_panoptic_png
from densekit.metrics.panoptic_quality import Matching, match_segments, panoptic_confusion
from densekit.report.confusion import confusion_data
from densekit.report.run_files import RunFiles

__all__ = ["Panoptic", "PanopticImage", "image_quality", "panoptic_data", "read_panoptic"]

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
        images: all of them.
    """

    truth: PanopticTruth
    classes: dict[int, str]
    images: list[PanopticImage]

    def colours(self, image: PanopticImage) -> tuple[dict[int, Colour], dict[int, Colour]]:
        """Returns the colours of the annotated and of the predicted segments of an image."""
        annotated = {key: segment.category for key, segment in self.truth.segments(image.image_id).items()}
        return self._shades(annotated), self._shades(image.segments)

    def class_colours(self) -> dict[int, Colour]:
        """Returns category id -> the colour of its first segment."""
        table = colormap(rgb=True, maximum=255).astype(int).tolist()
        listed = [entry.get("color") for entry in self.truth.file.categories.values()]
        chosen = [colour or table[number % len(table)] for number, colour in enumerate(listed)]
        return {key: (red, green, blue) for key, (red, green, blue) in zip(self.classes, chosen)}

    def _shades(self, segments: dict[int, int]) -> dict[int, Colour]:
        """The colour of the class, a little lighter or darker for each further segment of it."""
        colours = self.class_colours()
        seen: dict[int, int] = {}
        shades = {}
        for key, category in segments.items():
            turn = seen.setdefault(category, 0)
            seen[category] += 1
            factor = (1.0, 0.75, 1.25, 0.6, 1.4)[turn % 5]
            red, green, blue = (int(min(255, channel * factor)) for channel in colours[category])
            shades[key] = (red, green, blue)
        return shades


def read_panoptic(run: RunFiles, records: Iterable[Mapping[str, Any]]) -> Panoptic | None:
    """Compares the kept segments with the data set's; None where there are none.

    Raises:
        FileNotFoundError: A kept PNG is missing.
        ValueError: The files are damaged or of another data set.
    """
    found = _kept_files(run)
    if found is None:
        return None
    document, folder = found
    truth = PanopticTruth.of(run.dataset)
    try:
        annotations = json.loads(document.read_text(encoding="utf-8"))["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{document} is no JSON with 'annotations': {error!r}") from error
    files = {record["image_id"]: record["file_name"] for record in records}
    images = []
    for annotation in tqdm(annotations, desc="panoptic maps", unit="image", disable=None):
        key = annotation["image_id"]
        if key not in truth.file.annotations or key not in files:
            raise ValueError(f"{document} has image {key!r}, which {truth.file.path} does not have.")
        path = folder / annotation["file_name"]
        if leads_out(annotation["file_name"]):
            raise ValueError(f"{document}: the file name {annotation['file_name']!r} leads out of {folder}.")
        segments = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        ids = read_panoptic_png(path)
        matching = match_segments(truth.ids(key), truth.segments(key), ids, segments)
        images.append(PanopticImage(key, files[key], path, segments, matching))
    names = {key: str(category["name"]) for key, category in truth.file.categories.items()}
    return Panoptic(truth, names, images)


def panoptic_data(panoptic: Panoptic) -> dict[str, Any]:
    """Returns what the page's script draws."""
    counts = panoptic_confusion((image.matching for image in panoptic.images), list(panoptic.classes))
    return {"confusion": confusion_data([counts])}


def _kept_files(run: RunFiles) -> tuple[Path, Path] | None:
    """Returns the JSON and the folder of its PNGs, as COCO's or as Cityscapes' evaluator leaves them."""
    if (run.inference / "predictions.json").is_file():
        return run.inference / "predictions.json", run.inference / "panoptic"
    truth = MetadataCatalog.get(run.dataset).get("panoptic_json")
    document = run.inference / "panoptic" / Path(truth).name if truth else None
    return (document, document.with_suffix("")) if document is not None and document.is_file() else None


def image_quality(matching: Matching) -> float:
    """Returns the quality of one image over its segments of all classes together; NaN where there are none."""
    weight = len(matching.matched) + (len(matching.missed) + len(matching.spurious)) / 2
    return float(np.sum([iou for _, iou in matching.matched]) / weight) if weight else float("nan")
