"""Form ``images``: a folder of images without annotations, for predictions."""

import functools
from typing import Any

from densekit.data.own.options import Form, Option, file, folder
from densekit.data.own.pairing import pick
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["IMAGES"]


def load_images(images: str, split: str | None = None) -> Records:
    """Lists images: ``file_name, image_id`` (the name)``, height, width``.

    Raises:
        ValueError: There are none, or one cannot be read.
    """

    def record(item: tuple[str, str]) -> dict[str, Any]:
        height, width = image_size(item[1])
        return {"file_name": item[1], "image_id": item[0], "height": height, "width": width}

    return in_threads(record, list(pick(list_pictures(images), split).items()))


def _entry(name: str, *, images: str, split: str | None = None) -> Entry:
    return Entry(name, functools.partial(load_images, images, split), {"image_root": images})


IMAGES = Form(
    "images without annotations, for predictions only",
    {
        "images": Option(folder, "folder of the images"),
        "split": Option(file, "text file with the names of the images to take", required=False),
    },
    _entry,
)
