"""Holes of pictures, for models that paint: from mask files, or from objects that another run has found."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from PIL import Image

from densekit.data.holes import HoleFolder, check_polarity, fit_hole, read_hole, say_if_strange
from densekit.formats.coco_json import FULL
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED

Size = tuple[int, int]

logger = logging.getLogger(__name__)


class Masks:
    """The hole of each picture.

    Args:
        description: what the masks are, for the settings of a run.
        find: returns the hole (H, W), bool, of a picture of (height, width).
        grow: pixels by which holes are widened.
    """

    def __init__(
        self, description: Sequence[str], find: Callable[[Picture, Size], np.ndarray], *, grow: int = 0
    ) -> None:
        self.description = list(description)
        self._find, self._grow = find, grow

    def hole(self, picture: Picture, size: Size) -> np.ndarray:
        """Returns (H, W), bool, True in the hole.

        Raises:
            FileNotFoundError: The picture has no mask.
            ValueError: It has another size, or cannot be read.
        """
        hole = self._find(picture, size)
        if self._grow and hole.any():
            brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self._grow + 1, 2 * self._grow + 1))
            hole = cv2.dilate(hole.astype(np.uint8), brush) > 0
        say_if_strange(hole, f"Picture {picture.path}")
        if picture.frame is None and _is_transparent(picture.path):
            logger.warning(f"Picture {picture.path} is transparent in places, which is left out of what is painted.")
        return hole


def _is_transparent(path: str) -> bool:
    with Image.open(path) as image:
        return image.has_transparency_data


def masks_of_words(words: Sequence[str], polarity: str, classes: Sequence[str], grow: int) -> Masks | None:
    """Reads what ``--mask`` names; None for nothing.

    Args:
        words: one mask file, which is that of every picture; a folder with files named like the pictures; or the
            output folder of a run of predictions with instances.
        polarity: what of a mask is the hole, "white" or "black".
        classes: names of the objects that count; none: all.
        grow: pixels by which holes are widened.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is neither, or has no objects.
    """
    if not words:
        return None
    check_polarity(polarity)
    if len(words) > 1:
        raise ValueError(f"--mask takes one file or one folder, not {len(words)}: {' '.join(words)}.")
    if grow < 0:
        raise ValueError(f"--mask-grow {grow}: holes can be widened only.")
    path = Path(words[0]).expanduser()
    description = [str(path.absolute()), polarity, *classes, str(grow)]
    if (path / JOINED).is_file():
        return Masks(description, _Predictions(path, classes).hole, grow=grow)
    if classes:
        raise ValueError(f"--mask-classes: {path} is no output folder of densekit predict; it has no {JOINED}.")
    if path.is_dir():
        folder = HoleFolder(str(path), polarity)

        def named(picture: Picture, size: Size) -> np.ndarray:
            file = folder.of_picture(picture.path if picture.frame is None else picture.name)
            return fit_hole(read_hole(file, polarity), size, f"Mask {file}")

        return Masks(description, named, grow=grow)
    if not path.is_file():
        raise FileNotFoundError(f"--mask {path} does not exist; give a mask, a folder of masks, or of predictions.")
    hole = read_hole(str(path), polarity)
    return Masks(description, lambda picture, size: fit_hole(hole, size, f"Mask {path}"), grow=grow)


class _Predictions:
    """Objects that another run has found, by the names of its pictures."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        with open(folder / JOINED, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        self._objects = {Path(line["stem"]).name: line["instances"] for line in lines if "instances" in line}
        if not self._objects:
            raise ValueError(f"--mask {folder}: these predictions have no objects; take those of a detector.")
        self._wanted = self._ids(classes) if classes else None

    def _ids(self, names: Sequence[str]) -> set[int]:
        """The category ids of classes, whose names are in the folder's COCO file."""
        path = self._folder / FULL
        categories = json.loads(path.read_text(encoding="utf-8"))["categories"] if path.is_file() else []
        known = {entry["name"]: int(entry["id"]) for entry in categories}
        if missing := [name for name in names if name not in known and not name.isdecimal()]:
            has = (
                f"has the classes {', '.join(known)}" if known else "has ids only: predict with --format coco_full too"
            )
            raise ValueError(f"--mask-classes {' '.join(missing)}: {self._folder} {has}.")
        return {known[name] if name in known else int(name) for name in names}

    def hole(self, picture: Picture, size: Size) -> np.ndarray:
        """The union of the objects' masks, or of their boxes where they have none."""
        objects = self._objects.get(Path(picture.stem).name)
        if objects is None:
            raise FileNotFoundError(f"{picture.path} has no predictions in {self._folder}")
        hole = np.zeros(size, bool)
        for one in objects:
            if self._wanted is None or one["category_id"] in self._wanted:
                _add(hole, one, f"{picture.path}: the predictions in {self._folder}")
        return hole


def _add(hole: np.ndarray, found: dict[str, Any], where: str) -> None:
    if segmentation := found.get("segmentation"):
        hole |= fit_hole(mask_utils.decode(segmentation).astype(bool), (hole.shape[0], hole.shape[1]), where)
        return
    x, y, width, height = found["bbox"]
    top, left = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
    hole[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))] = True
