"""Images and their annotation files, joined by their names."""

import os
from collections.abc import Callable
from typing import Any

from densekit.data.pictures import SUFFIXES, list_pictures
from densekit.data.regions import in_threads

__all__ = ["list_annotations", "pick", "read_lines", "read_pairs"]


def read_pairs(
    images: str, annotations: str, ending: str, split: str | None, read: Callable[[str, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Reads every annotation file together with the image of its name.

    Args:
        images: Folder of the images.
        annotations: Folder of the annotation files.
        ending: Of their names.
        split: Text file with the names to take; None takes all.
        read: Makes a record of an annotation file and its image.

    Returns:
        The records, with the name as ``image_id``.

    Raises:
        FileNotFoundError: An annotation file has no image.
        ValueError: There are no annotation files, or ``read`` refuses some.
    """
    pictures = list_pictures(images)

    def read_pair(item: tuple[str, str]) -> dict[str, Any]:
        key, path = item
        if key not in pictures:
            raise FileNotFoundError(f"{path} describes an image {key} that is not in {images}.")
        return read(path, pictures[key]) | {"image_id": key}

    return in_threads(read_pair, list(pick(list_annotations(annotations, ending), split).items()))


def list_annotations(folder: str, ending: str) -> dict[str, str]:
    """Finds the annotation files below a folder by their names without the ending, sorted.

    Raises:
        ValueError: There are none.
    """
    return list_pictures(folder, (ending,))


def read_lines(path: str) -> list[str]:
    """Reads the lines of a text file, without the space around them.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:  # some editors write a mark at the beginning
            return [line.strip() for line in stream]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}. Save it with that encoding.") from error


def pick(found: dict[str, str], split: str | None) -> dict[str, str]:
    """Leaves those files that a list names.

    Args:
        found: Name without ending -> path.
        split: Text file with a name on each line, with or without folders and ending; None leaves all.

    Raises:
        ValueError: A line names no file, or more than one; or the list is empty.
    """
    if split is None:
        return found
    by_end: dict[str, list[str]] = {}
    for key in found:
        by_end.setdefault(key.rsplit("/", 1)[-1], []).append(key)
    lines = [line for line in read_lines(split) if line]
    if not lines:
        raise ValueError(f"{split} is empty; it should name the images of the data set, one on each line.")
    picked: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name = _key(line, found, by_end)
        if name is None:
            raise ValueError(
                f"{split}, line {number}: {line!r} is the name of no image of the folder (or of several). Names are "
                "compared without endings, with folders where the last part alone is not enough."
            )
        picked[name] = found[name]
    return dict(sorted(picked.items()))


def _key(line: str, found: dict[str, str], by_end: dict[str, list[str]]) -> str | None:
    stem, ending = os.path.splitext(line.replace("\\", "/").removeprefix("./"))
    name = stem if ending.lower() in SUFFIXES else stem + ending
    if name in found:
        return name
    same = by_end.get(name.rsplit("/", 1)[-1], [])
    longer = [key for key in same if f"/{name}".endswith(f"/{key}") or f"/{key}".endswith(f"/{name}")]
    candidates = longer or same
    return candidates[0] if len(candidates) == 1 else None
