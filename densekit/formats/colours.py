"""Label maps in the colours of their classes: indexed PNGs, and a list of the colours."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes
from densekit.formats.palettes import class_colours

FOLDER, LIST = "colours", "colours.json"
_INDICES = 256  # of an indexed PNG

Line = dict[str, Any]


def write_list(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes the id, name and colour of each class."""
    categories = [
        {"id": key, "name": name, "color": list(colour)}
        for (key, name), colour in zip(classes.labels, class_colours(classes))
    ]
    with atomic_write(folder / LIST) as file:
        json.dump({"categories": categories}, file)
        file.write("\n")


def write_picture(folder: Path, line: Line, source: str, classes: Classes) -> None:
    """Writes a picture's label map in colours, as ``colours/<stem>.png``.

    Its pixels are the label ids of ``semantic/<stem>.png``, with a palette; where ids go beyond 255, which a palette
    does not reach, its pixels are the colours.

    Args:
        folder: of the output, with the label map.
        line: the picture's.
        source: the picture's file.
        classes: with their colours.
    """
    with Image.open(folder / "semantic" / f"{line['stem']}.png") as image:
        ids = np.asarray(image)
    largest = max([key for key, _ in classes.labels] + [_INDICES - 1])
    table = np.zeros((largest + 1, 3), dtype=np.uint8)
    for (key, _), colour in zip(classes.labels, class_colours(classes)):
        table[key] = colour
    if largest < _INDICES:
        picture = Image.fromarray(ids.astype(np.uint8), mode="P")
        picture.putpalette(table.ravel().tolist())
    else:
        picture = Image.fromarray(table[ids])
    path = folder / FOLDER / f"{line['stem']}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        picture.save(file, format="PNG")
