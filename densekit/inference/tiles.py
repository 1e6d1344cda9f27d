"""Tiles of a large image: their places, and the part of each that counts.

T: side of a tile, o: overlap as a share of T. All boxes are (x0, y0, x1, y1) in image pixels, x1 and y1 exclusive.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Squares of ``size`` pixels that overlap by at least the share ``overlap`` of it.

    Raises:
        ValueError: A size that is not positive, or an overlap outside 0 .. 0.9.
    """

    size: int
    overlap: float

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"--tile {self.size}: the side of a tile in pixels has to be positive.")
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(f"--overlap {self.overlap}: the overlap is a share of the tile, 0 to 0.9.")

    def tiles(self, height: int, width: int) -> list["Tile"]:
        """The tiles of an image, row by row; one alone where the image is not larger than a tile."""
        return [
            Tile(box=(x0, y0, x1, y1), core=(left, top, right, bottom))
            for y0, y1, top, bottom in self._spans(height)
            for x0, x1, left, right in self._spans(width)
        ]

    def _spans(self, length: int) -> list[Box]:
        """Start and end of each tile along one side, and of the part that is nearer to its middle than to another's."""
        if length <= self.size:
            return [(0, length, 0, length)]
        step = max(1.0, self.size * (1 - self.overlap))
        count = math.ceil((length - self.size) / step) + 1
        # Spread evenly: all tiles are whole, and the overlap that is too much is shared among them.
        starts = [round(k * (length - self.size) / (count - 1)) for k in range(count)]
        seams = [0, *((first + self.size + second) // 2 for first, second in pairwise(starts)), length]
        return [(start, start + self.size, *seam) for start, seam in zip(starts, pairwise(seams))]


@dataclass(frozen=True)
class Tile:
    """A part of an image that the model sees as an image of its own.

    Attributes:
        box: the part.
        core: the pixels that are not nearer to the middle of another tile; the cores of all tiles are the whole image.
    """

    box: Box
    core: Box
