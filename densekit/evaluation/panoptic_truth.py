"""The ground truth of panoptic segmentation: COCO's JSON of segments beside a folder of PNGs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densekit.d2.data import MetadataCatalog
from densekit.d2.utils.file_io import PathManager
from densekit.metrics.panoptic_quality import VOID, TrueSegment
from densekit.ops.panoptic_png import read_panoptic_png


@dataclass(frozen=True)
class PanopticImage:
    """The annotation of one image: its PNG's name, and the segments in it by id."""

    file_name: str
    segments: dict[int, TrueSegment]


@dataclass(frozen=True)
class PanopticTruth:
    """What a panoptic test set says is in its images.

    Attributes:
        source: The JSON file.
        folder: Where the PNGs are.
        categories: The entries of the JSON file by id: ``name``, ``isthing`` and whatever else they have.
        images: The annotations by image id, in the file's order.
        rest: The JSON file without its annotations.
    """

    source: str
    folder: Path
    categories: dict[int, dict[str, Any]]
    images: dict[Any, PanopticImage]
    rest: dict[str, Any]

    @classmethod
    def of(cls, dataset_name: str) -> "PanopticTruth":
        """Reads what a registered data set names as ``panoptic_json`` and ``panoptic_root``.

        Raises:
            ValueError: The data set does not name them, or the file is not COCO's panoptic format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        source, folder = metadata.get("panoptic_json"), metadata.get("panoptic_root")
        if not source or not folder:
            raise ValueError(
                f"Data set '{dataset_name}' names no panoptic annotation. Set it with "
                f"MetadataCatalog.get('{dataset_name}').set(panoptic_json=FILE, panoptic_root=FOLDER)."
            )
        content = _read(source)
        categories = {category["id"]: category for category in content["categories"]}
        without = [key for key, category in categories.items() if not {"name", "isthing"} <= category.keys()]
        if without:
            raise ValueError(f"{source}: category {without[0]} has no name or does not say whether it 'isthing'.")
        images: dict[Any, PanopticImage] = {}
        for annotation in content.pop("annotations"):
            image_id = annotation["image_id"]
            if image_id in images:
                raise ValueError(f"{source}: two annotations are of image {image_id!r}. Remove one of them.")
            images[image_id] = _parse(annotation, categories, source)
        return cls(source, Path(folder), categories, images, content)

    def ids(self, image_id: Any) -> np.ndarray:
        """Returns the annotated segment of each pixel of an image (H, W) int32; 0 is void."""
        return read_panoptic_png(self.folder / self.images[image_id].file_name)


def _read(source: str) -> dict[str, Any]:
    with PathManager.open(source, "r") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{source} is not JSON: {error}") from error
    missing = {"images", "annotations", "categories"} - (content.keys() if isinstance(content, dict) else set())
    if missing:
        raise ValueError(f"{source} is not a COCO panoptic file: at its top level is no {', '.join(sorted(missing))}.")
    return content


def _parse(annotation: Mapping[str, Any], categories: Mapping[int, Any], source: str) -> PanopticImage:
    name, image_id = annotation["file_name"], annotation["image_id"]
    # The name is also that of the predicted PNG, which has to stay in the folder of the results.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{source}: the PNG {name!r} of image {image_id!r} lies outside the folder of the PNGs.")
    segments = {}
    for segment in annotation["segments_info"]:
        where = f"{source}: segment {segment['id']} of image {image_id!r}"
        if segment["category_id"] not in categories:
            raise ValueError(f"{where} has the category {segment['category_id']}, which the file does not have.")
        if segment["id"] == VOID or segment["id"] in segments:
            reason = "is void" if segment["id"] == VOID else "is there twice"
            raise ValueError(f"{where} {reason}. The ids in an image have to differ from 0 and from each other.")
        segments[segment["id"]] = TrueSegment(segment["category_id"], bool(segment.get("iscrowd", 0)))
    return PanopticImage(name, segments)
