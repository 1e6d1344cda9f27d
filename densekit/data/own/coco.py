"""Forms ``coco`` and ``coco_panoptic``: COCO's JSON files beside folders of images."""

import os

from densekit.data.coco import instances_entry
from densekit.data.own.options import Form, Option, file, folder, pairs
from densekit.data.panoptic import separated_entry
from densekit.data.registry import Entry

__all__ = ["COCO", "COCO_PANOPTIC"]


def _instances(
    name: str, *, json: str, images: str, keypoint_flip_map: tuple[tuple[str, str], ...] | None = None
) -> Entry:
    metadata = {} if keypoint_flip_map is None else {"keypoint_flip_map": keypoint_flip_map}
    return instances_entry(name, metadata, json, images)


def _panoptic(name: str, *, json: str, images: str, segments: str | None = None, instances: str | None = None) -> Entry:
    segments = segments or os.path.splitext(json)[0]
    if not os.path.isdir(segments):
        raise FileNotFoundError(
            f"the panoptic PNGs of {json} are looked for in {segments}, which does not exist. Name "
            "their folder under 'segments'."
        )
    return separated_entry(name, images, segments, json, instances, None, {"label_divisor": 1000})


_JSON = Option(file, "annotation file")
_IMAGES = Option(folder, "folder that its file names are relative to")

COCO = Form(
    "COCO JSON of instances or keypoints",
    {
        "json": _JSON,
        "images": _IMAGES,
        "keypoint_flip_map": Option(pairs, "names of keypoints that a mirror exchanges", required=False),
    },
    _instances,
)
COCO_PANOPTIC = Form(
    "COCO panoptic JSON with a PNG of segments for each image",
    {
        "json": _JSON,
        "images": _IMAGES,
        "segments": Option(folder, "folder of the PNGs; by default named as the JSON file", required=False),
        "instances": Option(
            file, "COCO JSON of the objects; by default they are outlined from the PNGs", required=False
        ),
    },
    _panoptic,
)
