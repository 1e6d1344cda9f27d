"""The formats of predictions: what each is made from, and which functions write it.

All are made from the lines of finished pictures and their label maps, so that any of them can be had later without
running the model again. A line is a dict with ``image_id``, ``file_name``, ``stem`` (the name of files made from the
picture, without a suffix), ``height``, ``width`` and, where the model gives them, ``instances`` (COCO results in the
data set's ids, with a ``track_id`` where they were tracked), ``segments_info`` and ``classes`` (ids and scores of the
whole picture, best first).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.formats import coco_json, colours, image_classes, labelme, maps, mot, yolo
from densekit.formats.classes import Classes

Line = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        needs: the products that it can be made from, any of them.
        files: what it consists of, in the output folder.
        whole: writes the files of the whole output: (folder, lines, classes).
        each: writes a picture's file: (folder, line, path of the picture, classes).
    """

    needs: tuple[str, ...]
    files: tuple[str, ...]
    whole: Callable[[Path, Iterable[Line], Classes], None] | None = None
    each: Callable[[Path, Line, str, Classes], None] | None = None


FORMATS = {
    "coco": Format(("instances",), (coco_json.RESULTS,), coco_json.write_results),
    "coco_full": Format(("instances",), (coco_json.FULL,), coco_json.write_full),
    "panoptic": Format(("panoptic",), (maps.PANOPTIC, "panoptic"), maps.write_panoptic),
    "semantic": Format(("semantic",), (maps.SEMANTIC, "semantic"), maps.write_semantic),
    "colours": Format(("semantic",), (colours.LIST, colours.FOLDER), colours.write_list, colours.write_picture),
    "labelme": Format(("instances",), (labelme.FOLDER,), each=labelme.write_picture),
    "yolo": Format(("instances",), (yolo.FOLDER,), yolo.write_names, yolo.write_picture),
    "mot": Format(("instances",), (mot.FOLDER,), mot.write_tracks),  # of --track
    "inpainted": Format(("inpainted",), ("inpainted",)),  # inpainted/*.png, written as they are predicted
    "classes": Format(("classes",), (image_classes.FILE,), image_classes.write_classes),
    # Drawn by densekit.formats.drawing from all that there is; pictures are read once more for it.
    "overlay": Format(("instances", "semantic", "panoptic"), ("overlay",)),
}
_DEFAULTS = ("coco", "panoptic", "semantic", "inpainted", "classes")


def check_formats(names: Sequence[str]) -> None:
    """Refuses names that are no formats.

    Raises:
        ValueError: There are such.
    """
    if unknown := sorted(set(names) - FORMATS.keys()):
        raise ValueError(f"--format {' '.join(unknown)}: the formats are {', '.join(FORMATS)}.")


def choose_formats(wanted: Sequence[str], given: Sequence[str]) -> list[str]:
    """Returns the formats to write: those asked for, or by default the evaluators' own of what the model gives.

    Args:
        wanted: names of formats; none for the default.
        given: the model's products: ``instances``, ``semantic``, ``panoptic``, ``classes`` ...

    Raises:
        ValueError: A format that this model cannot fill.
    """
    possible = [name for name, entry in FORMATS.items() if set(entry.needs) & set(given)]
    if lacking := [name for name in wanted if name not in possible]:
        raise ValueError(
            f"--format {' '.join(lacking)} needs {' or '.join(FORMATS[lacking[0]].needs)}, and this model gives "
            f"{', '.join(given)}: choose from {', '.join(possible)}."
        )
    return list(dict.fromkeys(wanted)) or [name for name in _DEFAULTS if name in possible]


def needed_products(formats: Sequence[str], given: Sequence[str]) -> list[str]:
    """The products that have to be kept for these formats: an overlay alone is drawn from all that the model gives."""
    needed = {product for name in formats if name != "overlay" for product in FORMATS[name].needs}
    return [product for product in given if product in needed or not needed]
