"""Label maps: values against the class list, sizes against the images, pixels of each class."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from densekit.data.inspect.findings import Findings, Histogram
from densekit.data.inspect.pictures import PictureFacts, progress_map
from densekit.data.labels import IGNORE, read_values
from densekit.files.image_limit import UNREADABLE, readable

__all__ = ["LabelMap", "check_label_maps"]


@dataclass(frozen=True)
class LabelMap:
    """A label map as a data set lists it.

    Attributes:
        path: its file.
        image: the file of its image.
        image_id: its id, if any.
        values: value in the file -> class number, IGNORE for what belongs to no class; or a function that tells the
            class numbers of an array of values, -1 for what stands for nothing.
    """

    path: str
    image: str
    image_id: Any
    values: Mapping[int, int] | Callable[[np.ndarray], np.ndarray]


class _Content(NamedTuple):
    """Content of a label map: its size as (width, height), its values and their counts."""

    size: tuple[int, int]
    values: np.ndarray
    counts: np.ndarray


class _Problem(NamedTuple):
    kind: str
    detail: str = ""


def check_label_maps(
    maps: Sequence[LabelMap],
    classes: Sequence[str],
    facts: Mapping[str, PictureFacts],
    findings: Findings,
    workers: int,
    progress: bool,
) -> None:
    """Decodes each label map once and compares it with its image and the class list.

    Args:
        maps: what to check.
        classes: the names of the classes; none where only values and sizes are to be checked.
        facts: what the images' files say.
        findings: where to record, the histogram too, in pixels.
        workers: threads.
        progress: show a progress bar on a terminal.
    """
    pixels, images = np.zeros(len(classes), dtype=np.int64), np.zeros(len(classes), dtype=np.int64)
    contents = progress_map(_read, [entry.path for entry in maps], workers, progress, "label maps")
    for entry, content in zip(maps, contents):
        pixels_here = _check(entry, content, len(classes), facts.get(entry.image), findings)
        pixels += pixels_here
        images += pixels_here > 0
    counts, seen = (dict(zip(classes, numbers.tolist())) for numbers in (pixels, images))
    findings.histogram = Histogram("pixels", counts, seen)
    for name, count in counts.items():
        if not count and len(maps):
            findings.add("class-unused", f"class {name}")


def _read(path: str) -> _Content | _Problem:
    if not os.path.isfile(path):
        return _Problem("label-missing")
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                return _Problem("label-channels", "it is a JPEG, whose compression changes values")
        array = read_values(path)
    except UNREADABLE as error:
        return _Problem("label-unreadable", readable(error))
    if array.dtype == np.uint8:
        every = np.bincount(array.ravel(), minlength=256)
        values = np.flatnonzero(every)
        counts = every[values]
    else:
        values, counts = np.unique(array, return_counts=True)
    return _Content((array.shape[1], array.shape[0]), values.astype(np.int64), counts)


def _check(
    entry: LabelMap, content: _Content | _Problem, classes: int, image: PictureFacts | None, findings: Findings
) -> np.ndarray:
    """Records what is wrong with one map; returns the pixels of each class (C,)."""

    def add(kind: str, detail: str) -> None:
        shown = entry.image if os.path.isfile(entry.image) else None
        findings.add(kind, entry.path, detail, image=shown, image_id=entry.image_id)

    pixels = np.zeros(classes, dtype=np.int64)
    if isinstance(content, _Problem):
        add(*content)
        return pixels
    if image is not None and image.upright_size is not None and image.upright_size != content.size:
        size = image.upright_size
        add("label-size", f"{content.size[0]} x {content.size[1]}, its image {size[0]} x {size[1]} (width x height)")
    numbers = _numbers(entry.values, content.values)
    strange = numbers < 0
    if strange.any():
        named = ", ".join(map(str, content.values[strange][:8].tolist())) + (", ..." if strange.sum() > 8 else "")
        hint = "; is it a picture of colours?" if content.values[strange].max() > IGNORE else ""
        add("label-values", f"{named} in {content.counts[strange].sum():,} pixels{hint}")
    known = ~strange & (numbers != IGNORE)
    if classes and not known.any() and not strange.any():
        add("label-void", "")
    np.add.at(pixels, numbers[known], content.counts[known])
    return pixels


def _numbers(values: Mapping[int, int] | Callable[[np.ndarray], np.ndarray], found: np.ndarray) -> np.ndarray:
    if callable(values):
        return values(found)
    return np.array([values.get(value, -1) for value in found.tolist()], dtype=np.int64)
