"""Form ``semantic``: a folder of images, a folder of label pictures, and a list of classes."""

import functools
from typing import Any

from densekit.data.labels import IGNORE, MAX_CLASSES
from densekit.data.own.classes import ClassList
from densekit.data.own.options import Form, Option, classes, file, folder, labels, text
from densekit.data.own.pairing import list_annotations, pick
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["SEMANTIC"]


def load_semantic(
    images: str, labels: str, values: dict[int, int], split: str | None = None, label_suffix: str = ""
) -> Records:
    """Pairs images with label maps of the same name; the maps are not opened.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps, PNG.
        values: Value in the maps -> class index, 255 for none.
        split: Text file with the names to take.
        label_suffix: What a label map's name has beyond its image's.

    Returns:
        ``file_name, image_id`` (the name)``, height, width, sem_seg_file_name, sem_seg_values``.

    Raises:
        FileNotFoundError: An image has no label map.
        ValueError: There are no images, or one cannot be read.
    """
    maps = list_annotations(labels, ".png")

    def record(item: tuple[str, str]) -> dict[str, Any]:
        key, path = item
        if key + label_suffix not in maps:
            raise FileNotFoundError(
                f"Image {path} has no label map {key}{label_suffix}.png in {labels}. Add it, or list the images that "
                "have one in a file and name that under 'split'."
            )
        height, width = image_size(path)
        size = {"height": height, "width": width}
        label_map = {"sem_seg_file_name": maps[key + label_suffix], "sem_seg_values": values}
        return {"file_name": path, "image_id": key, **size, **label_map}

    return in_threads(record, list(pick(list_pictures(images), split).items()))


def _entry(
    name: str,
    *,
    images: str,
    labels: str,
    classes: ClassList,
    ignore: tuple[int, ...] = (),
    split: str | None = None,
    label_suffix: str = "",
) -> Entry:
    if len(classes.names) > MAX_CLASSES:
        raise ValueError(f"{classes.source} has {len(classes.names)} classes of {MAX_CLASSES} at most.")
    void = {*ignore, *classes.ignore}
    both = sorted(void & set(classes.ids))
    if both:
        named = dict(zip(classes.ids, classes.names))[both[0]]
        raise ValueError(
            f"the label value {both[0]} is the class {named!r} and is to be ignored too. A value cannot be both."
        )
    index = {number: place for place, number in enumerate(classes.ids)}
    values = {IGNORE: IGNORE} | dict.fromkeys(void, IGNORE) | index
    metadata: dict[str, Any] = {
        "stuff_classes": list(classes.names),
        "stuff_dataset_id_to_contiguous_id": index,
        "ignore_label": IGNORE,
        "image_root": images,
        "sem_seg_root": labels,
        "evaluator_type": "sem_seg",
    }
    if classes.colours:
        metadata["stuff_colors"] = [list(colour) for colour in classes.colours]
    load = functools.partial(load_semantic, images, labels, values, split, label_suffix)
    return Entry(name, load, metadata)


SEMANTIC = Form(
    "a folder of images and a folder of label pictures",
    {
        "images": Option(folder, "folder of the images"),
        "labels": Option(folder, "folder of PNGs named like the images; a pixel is the number of its class"),
        "classes": Option(classes, "names, {number: name}, or a file of them"),
        "ignore": Option(labels, "numbers that are no class; 255 is none anyway", required=False),
        "split": Option(file, "text file with the names of the images to take", required=False),
        "label_suffix": Option(text, "what the labels' names have beyond the images', such as _mask", required=False),
    },
    _entry,
)
