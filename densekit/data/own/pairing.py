"""Images and their annotation files, joined by their names."""

import os

from densekit.data.pictures import SUFFIXES, list_pictures

__all__ = ["list_annotations", "pick", "read_lines"]


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
