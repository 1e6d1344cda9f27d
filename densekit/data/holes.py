"""The holes of pictures from mask files, and what may be wrong with them.

Polarity is stated once, by ``INPUT.HOLES.POLARITY`` and in predictions ``--mask-polarity``: with "white", values above
half of the file's range are the hole; with "black" the others. A file of the values 0 and 1 has the range 1, files of
16 bits have 65535, others 255. In memory a hole is always True in the hole.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import cv2
import numpy as np
from PIL import Image

from densekit.data.pictures import list_pictures
from densekit.files.image_limit import readable

POLARITIES = ("white", "black")
_MOSTLY = 0.75  # a folder whose masks are a larger share of hole than this is likely to be read the wrong way round
_LOOKED_AT = 16  # masks of a folder
_GREY = 0.1  # a larger share of values in the middle of the range is no mask's

logger = logging.getLogger(__name__)


def check_polarity(polarity: str) -> None:
    """Raises a ValueError if there is no such polarity."""
    if polarity not in POLARITIES:
        raise ValueError(f"The polarity of masks is {polarity!r}; it can be {' or '.join(POLARITIES)}.")


def read_hole(path: str, polarity: str = "white") -> np.ndarray:
    """Reads a mask file.

    Args:
        path: of a picture: black and white, grey, a palette, or colour, whose brightness counts.
        polarity: which values are the hole.

    Returns:
        (H, W) bool, True in the hole.

    Raises:
        ValueError: It cannot be read, or it is transparent in places, of which nobody knows what they mean.
    """
    try:
        with Image.open(path) as image:
            image.load()
            alpha = np.asarray(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None
            values = np.asarray(image if image.mode in ("1", "I;16", "I", "F") else image.convert("L"))
    except Exception as error:
        raise ValueError(f"Mask {path} cannot be read: {readable(error)}.") from error
    if alpha is not None and alpha.min() < 255:
        raise ValueError(
            f"Mask {path} is transparent in places; it may mean the hole or the opposite. Save it without transparency."
        )
    values = values.astype(np.float64)
    highest = values.max(initial=0)
    values /= 1 if highest <= 1 else 255 if highest <= 255 else 65535
    if (share := np.mean((values > 0.2) & (values < 0.8))) > _GREY:
        logger.warning(f"Mask {path} has grey values in {100 * share:.0f} % of its pixels; above the middle is white.")
    white = values > 0.5
    return white if polarity == "white" else ~white


def fit_hole(hole: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Checks that a hole has the size (height, width) of its picture.

    Raises:
        ValueError: It has another one.
    """
    if hole.shape == tuple(size):
        return hole
    raise ValueError(
        f"{where} is {hole.shape[1]} x {hole.shape[0]} (width x height) and its picture {size[1]} x {size[0]}. A mask "
        "has the size of its picture."
    )


def stretch_hole(hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A hole of no particular picture in another size (height, width), with the same share of it."""
    height, width = size
    return cv2.resize(hole.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def say_if_strange(hole: np.ndarray, where: str) -> None:
    """Warns of a picture without a hole, and of one that is nothing else."""
    if not hole.any():
        logger.warning(f"{where} has no hole: there is nothing to paint. Is the polarity of the masks right?")
    elif hole.all():
        logger.warning(f"{where} is a hole from edge to edge: nothing is left to paint from.")


class HoleFolder:
    """Mask files below a folder.

    Args:
        folder: of pictures.
        polarity: which of their values are the hole.

    Raises:
        ValueError: The polarity is unknown, or there are no pictures.
        FileNotFoundError: There is no such folder.
    """

    def __init__(self, folder: str, polarity: str = "white") -> None:
        check_polarity(polarity)
        self.folder, self.polarity = folder, polarity
        self._files: Mapping[str, str] = list_pictures(folder)
        self._order: Sequence[str] = list(self._files.values())
        self._by_stem = {PurePath(name).name: file for name, file in self._files.items()}
        self._check()

    def __len__(self) -> int:
        return len(self._order)

    def of_picture(self, path: str) -> str:
        """The mask file with the name of a picture, whatever their endings.

        Raises:
            FileNotFoundError: There is none.
        """
        file = self._by_stem.get(PurePath(path).stem)
        if file is None:
            raise FileNotFoundError(
                f"Picture {path} has no mask: there is no {PurePath(path).stem}.png or the like in {self.folder}."
            )
        return file

    def read(self, index: int) -> np.ndarray:
        """One of them by its place in alphabetical order."""
        return read_hole(self._order[index], self.polarity)

    def _check(self) -> None:
        """Warns if the masks are nearly all hole."""
        looked_at = self._order[:: max(1, len(self) // _LOOKED_AT)][:_LOOKED_AT]
        share = float(np.mean([read_hole(path, self.polarity).mean() for path in looked_at]))
        if share > _MOSTLY:
            other = POLARITIES[1 - POLARITIES.index(self.polarity)]
            logger.warning(
                f"Mask folder {self.folder}: {100 * share:.0f} % of the pixels are hole with INPUT.HOLES.POLARITY "
                f"{self.polarity}. If the hole is what is {other}, set INPUT.HOLES.POLARITY {other}."
            )
