"""From files to model inputs in the loader's processes: decoded, upright, 8 bits, cut into tiles, resized for the test.

A picture that cannot be read becomes a loaded item with a reason, so that one bad file does not end a run of thousands.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from densekit.d2.data import transforms as T
from densekit.data.pictures import read_picture
from densekit.files.image_limit import readable
from densekit.files.picture import decode
from densekit.files.remote import is_url, read_url
from densekit.inference.hole_masks import Masks
from densekit.inference.inputs import Picture
from densekit.inference.tiles import Tile, Tiling
from densekit.inference.video import VideoReader

_TILED_PIXELS = 2**30


@dataclass
class Loaded:
    """A picture as the model takes it.

    Attributes:
        picture: which one.
        size: height and width in pixels.
        tiles: the parts; one that is the whole picture where it is not cut.
        views: for each part the model's input: ``image``, a (C, H', W') uint8 tensor, ``height`` and ``width``.
        problem: why it could not be read; "" if it could.
    """

    picture: Picture
    size: tuple[int, int] = (0, 0)
    tiles: Sequence[Tile] = ()
    views: Sequence[dict[str, Any]] = ()
    problem: str = ""


class PictureReader:
    """Reads pictures as arrays.

    Args:
        image_format: the channels' order that the model wants, ``INPUT.FORMAT``.
        bits: how many bits of a channel of 16 are used, ``INPUT.BIT_DEPTH``; 0 takes what the file says.
    """

    def __init__(self, image_format: str, bits: int = 0) -> None:
        self._format, self._bits = image_format, bits
        self._videos = VideoReader()

    def read(self, picture: Picture) -> np.ndarray:
        """Returns a picture as (H, W, C) in 0..255, upright as its EXIF orientation says.

        Grey pictures get as many equal channels as the model wants, an alpha channel is dropped as in training, the
        first of several pictures in a file counts, and 16 bits become 8.

        Raises:
            ValueError, OSError: It cannot be read.
        """
        if picture.frame is not None:
            return self._ordered(self._videos.read(picture.path, picture.frame)[:, :, ::-1])
        if is_url(picture.path):
            return decode(io.BytesIO(read_url(picture.path)), self._format, self._bits)
        return read_picture(picture.path, self._format, self._bits)

    def _ordered(self, rgb: np.ndarray) -> np.ndarray:
        if self._format == "L":
            return np.asarray(Image.fromarray(rgb).convert("L"))[:, :, None]
        if self._format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT {self._format} is for image files only, not for videos")
        return rgb if self._format == "RGB" else rgb[:, :, ::-1]


class Views(Dataset):
    """The pictures as a map-style data set of :class:`Loaded`.

    Args:
        pictures: all of them.
        image_format: ``INPUT.FORMAT``.
        augmentations: the resizing of the test.
        tiling: how pictures are cut; None for not at all.
        bits: ``INPUT.BIT_DEPTH``.
        masks: of the pictures' holes, which a model that paints needs; a picture without one has a problem.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        image_format: str,
        augmentations: T.AugmentationList,
        tiling: Tiling | None,
        bits: int = 0,
        masks: Masks | None = None,
    ) -> None:
        self._pictures, self._reader = pictures, PictureReader(image_format, bits)
        self._augmentations, self._tiling, self._masks = augmentations, tiling, masks

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Loaded:
        picture = self._pictures[index]
        if self._tiling is not None:
            # Pillow takes pictures of this size for an attack; from twice the number on it is right.
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, _TILED_PIXELS)
        try:
            array = self._reader.read(picture)
        except Exception as error:  # decoders raise anything, SyntaxError and struct.error among it
            return Loaded(picture, problem=f"{picture.path} cannot be read: {_reason(error)}")
        height, width = array.shape[:2]
        tiles = (self._tiling or Tiling(max(height, width), 0)).tiles(height, width)
        hole = None
        if self._masks is not None:
            try:
                hole = self._masks.hole(picture, (height, width))
            except (ValueError, FileNotFoundError) as error:
                return Loaded(picture, problem=str(error).rstrip("."))
        try:
            return Loaded(picture, (height, width), tiles, [self._view(array, tile, hole) for tile in tiles])
        except (ValueError, RuntimeError, OverflowError) as error:
            return Loaded(
                picture, problem=f"{picture.path}, {width} x {height} pixels, cannot be resized: {_reason(error)}"
            )

    def _view(self, array: np.ndarray, tile: Tile, hole: np.ndarray | None) -> dict[str, Any]:
        x0, y0, x1, y1 = tile.box
        inputs = T.AugInput(np.ascontiguousarray(array[y0:y1, x0:x1]))
        self._augmentations(inputs)
        image = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))  # (C, H', W')
        view = {"image": image, "height": y1 - y0, "width": x1 - x0}
        return view if hole is None else view | {"hole": torch.from_numpy(hole[y0:y1, x0:x1].copy())}


def _reason(error: Exception) -> str:
    return " ".join(readable(error).split()).rstrip(".") or type(error).__name__


def stamp(path: str) -> str:
    """Returns a mark that tells a file from a later one of the same name: its size and the time of its last change.

    A URL has none, because asking for it costs a request for each picture: what lies there is taken not to change.
    """
    if is_url(path):
        return ""
    status = os.stat(path)
    return f"{status.st_size}-{status.st_mtime_ns}"
