"""Features of the regions of each training picture, on the disk as far as there is room for them."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from densekit.files.atomic import atomic_write

__all__ = ["FeatureStore", "Regions"]

logger = logging.getLogger(__name__)

_HEADERS = 2048  # bytes of a file beside its numbers, and more


@dataclass(frozen=True)
class Regions:
    """Regions of a picture: first its objects, then its proposals.

    Attributes:
        boxes: (G + R, 4) xyxy.
        features: (G + R, D) float32.
        classes: (G,) of the objects.
    """

    boxes: np.ndarray
    features: np.ndarray
    classes: np.ndarray


class FeatureStore:
    """Keeps what is computed once for later passes and later runs, up to a number of bytes.

    What does not fit is computed again for each pass. Pictures of other weights or settings, which have another key,
    are removed.

    Args:
        folder: for files of all keys.
        key: of what the features depend on; a name for a folder.
        limit: bytes, of all processes.
        processes: that write, each an equal part of what is left.
    """

    def __init__(self, folder: Path, key: str, limit: int, processes: int = 1) -> None:
        self._folder, self._own = folder, folder / key
        if folder.is_dir():
            for other in folder.iterdir():
                if other != self._own:
                    shutil.rmtree(other, ignore_errors=True)
        self._own.mkdir(parents=True, exist_ok=True)
        taken = sum(path.stat().st_size for path in self._own.glob("*.npz"))
        self._room = (limit - taken) // processes
        self._full = False

    def get(self, index: int, make: Callable[[int], Regions]) -> Regions:
        """Returns the regions of a picture, which are made where they are not there yet."""
        path = self._own / f"{index:08d}.npz"
        if path.is_file():
            with np.load(path) as file:
                return Regions(**{name: file[name] for name in file.files})
        made = make(index)
        size = sum(array.nbytes for array in asdict(made).values()) + _HEADERS
        if size <= self._room:
            with atomic_write(path, "wb", durable=False) as file:
                np.savez(file, **asdict(made))
            self._room -= path.stat().st_size
        elif not self._full:
            self._full = True
            logger.warning(
                f"{self._own} holds as much as MODEL.RCNN.STORE_GIB allows: the features of the pictures from here on "
                "are computed again for each pass."
            )
        return made

    def path(self, name: str) -> Path:
        """Returns the path of a result that belongs to these features."""
        return self._own / name

    def remove(self) -> None:
        """Removes everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
