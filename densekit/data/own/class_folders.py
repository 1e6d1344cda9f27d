"""Form ``classes``: a folder for each class, with the pictures that show it, as ImageNet's training set is kept."""

import functools
import os
from typing import Any

from densekit.data.own.classes import ClassList, class_list
from densekit.data.own.options import Form, Option, classes, file, folder
from densekit.data.own.pairing import pick
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["CLASS_FOLDERS"]


def load_class_folders(images: str, classes: ClassList, split: str | None = None) -> Records:
    """Lists pictures with the class of their folder.

    Args:
        images: Folder of the classes' folders; what lies deeper belongs to the outermost.
        classes: The names of the folders.
        split: Text file with the names of the pictures to take; None takes all.

    Returns:
        ``file_name, image_id`` (the path within ``images`` without its ending)``, height, width`` and ``category_id``,
        the place of the class in the list.

    Raises:
        ValueError: There are no pictures, one lies in no class's folder, or one cannot be read.
    """
    index = {name: place for place, name in enumerate(classes.names)}

    def record(item: tuple[str, str]) -> dict[str, Any]:
        key, path = item
        name, inside, _ = key.partition("/")
        if not inside:
            raise ValueError(f"Image {path} lies in no class's folder. Move it to {images}/CLASS/.")
        if name not in index:
            raise ValueError(
                f"Image {path} lies in the folder {name!r}, which {classes.source} does not name. Add the class, or "
                "take the folder away."
            )
        height, width = image_size(path)
        return {"file_name": path, "image_id": key, "height": height, "width": width, "category_id": index[name]}

    return in_threads(record, list(pick(list_pictures(images), split).items()))


def _entry(name: str, *, images: str, classes: ClassList | None = None, split: str | None = None) -> Entry:
    known = classes or class_list(_folders(images), where=images)
    metadata = {
        "thing_classes": list(known.names),
        "thing_dataset_id_to_contiguous_id": {number: place for place, number in enumerate(known.ids)},
        "image_root": images,
        "evaluator_type": "image_classes",
    }
    return Entry(name, functools.partial(load_class_folders, images, known, split), metadata)


def _folders(images: str) -> list[str]:
    found = sorted(entry.name for entry in os.scandir(images) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{images} has no folders. Put the pictures of each class into a folder of its name.")
    return found


CLASS_FOLDERS = Form(
    "whole pictures by class: a folder of pictures for each class",
    {
        "images": Option(folder, "folder that holds the folders of the classes"),
        "classes": Option(classes, "names of the folders in order, or a file of them; by default all", required=False),
        "split": Option(file, "text file with the names of the images to take", required=False),
    },
    _entry,
)
