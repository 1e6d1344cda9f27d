"""The memory that the chunks of :mod:`~densekit.ops.carafe.blocked` work in, one after the other.

The letters are those of that module.
"""

from dataclasses import dataclass

from torch import Tensor

from densekit.ops.carafe.blocks import Blocks, Chunk


@dataclass(frozen=True)
class Views:
    """A chunk's memory, seen as what is copied (spans, see :class:`Blocks`) and as what is multiplied, by group.

    Attributes:
        windows: (n, R, B * T, k, C), the k rows below each padded pixel's.
        sources: (b, K, D) for each group, the same memory as ``windows``; blocks overlap.
        bands: (b, M, K) for each group, the kernels.
        band_spans: the same, (n, R, G, b, s, t, s, dx, dy), without the zeros beside the band.
        pixels: (b, M, D) for each group, output pixels.
        pixel_spans: the same, (n, R, G, b, s, t, s, D).
    """

    windows: Tensor
    sources: list[Tensor]
    bands: list[Tensor]
    band_spans: list[Tensor]
    pixels: list[Tensor]
    pixel_spans: list[Tensor]


@dataclass(frozen=True)
class GradViews:
    """A chunk's gradients.

    Attributes:
        sources: (b, K, D) for each group.
        overlaps: for each of ``Blocks.overlaps``, the same by the window's row: k of (n, R, B, up to T, G, D).
        bands: (b, M, K) for each group.
        band_spans: the same as in :class:`Views`.
    """

    sources: list[Tensor]
    overlaps: list[tuple[Tensor, ...]]
    bands: list[Tensor]
    band_spans: list[Tensor]


class Workspace:
    """Memory for the largest chunk. Views are made once for each size of chunk, of which there are few.

    In the sources, one image row follows the other with the padding between them shared, so that all blocks of a chunk
    are equally far apart and one batched product reads them where they lie. What no chunk writes stays zero: the
    padding behind the last row, the weights beside the band, the pixels beyond the image's edge.

    Args:
        blocks: the geometry.
        pixelwise: whether all channels of an output pixel lie together; else all pixels of a channel do.
        gradients: whether there is memory for gradients too.
    """

    def __init__(self, blocks: Blocks, *, pixelwise: bool, gradients: bool = False) -> None:
        count = blocks.rows * blocks.per_row
        new_zeros, new_empty = blocks.like.new_zeros, blocks.like.new_empty
        self._blocks, self._pixelwise, self._gradients = blocks, pixelwise, gradients
        self._sources = new_zeros((blocks.rows * blocks.pitch + blocks.k - 1, blocks.k, blocks.channels))
        self._bands = new_zeros((blocks.groups, count, blocks.m, blocks.kk))
        matrix = (blocks.m, blocks.depth) if pixelwise else (blocks.depth, blocks.m)
        self._pixels = new_zeros((blocks.groups, count, *matrix))
        if gradients:
            self._grad_sources = new_empty((blocks.groups, count, blocks.kk, blocks.depth))
            self._grad_bands = new_empty((blocks.groups, count, blocks.m, blocks.kk))
        self._views: dict[tuple[int, int], Views] = {}
        self._grad_views: dict[tuple[int, int], GradViews] = {}

    def views(self, chunk: Chunk) -> Views:
        """The memory for ``chunk``, with what the last chunk left in it."""
        size = _size(chunk)
        if size not in self._views:
            self._views[size] = self._make(*size)
        return self._views[size]

    def grad_views(self, chunk: Chunk) -> GradViews:
        """The memory for the gradients of ``chunk``."""
        size = _size(chunk)
        if size not in self._grad_views:
            self._grad_views[size] = self._make_grad(*size)
        return self._grad_views[size]

    def _make(self, n: int, rows: int) -> Views:
        b = self._blocks
        count = n * rows * b.per_row
        lines = self._sources.flatten(0, 1)  # one line of C channels for each source pixel of each window column
        sources = lines.unfold(0, b.kk, b.block * b.k)[:count].transpose(1, 2)
        bands, pixels = self._bands[:, :count], self._pixels[:, :count]
        if not self._pixelwise:
            pixels = pixels.transpose(2, 3)
        return Views(
            windows=self._sources[: n * rows * b.pitch].view(n, rows, b.pitch, b.k, b.channels),
            sources=list(sources.split(b.depth, dim=2)),
            bands=list(bands),
            band_spans=self._band_spans(bands, n, rows),
            pixels=list(pixels),
            pixel_spans=self._spans(pixels, n, rows),
        )

    def _make_grad(self, n: int, rows: int) -> GradViews:
        b = self._blocks
        count = n * rows * b.per_row
        sources, bands = self._grad_sources[:, :count], self._grad_bands[:, :count]
        window = sources.view(b.groups, n, rows, b.per_row, b.columns, b.k, b.depth).permute(1, 2, 3, 4, 0, 6, 5)
        overlaps = [window[:, :, :, j : j + b.block].unbind(-1) for j in range(0, b.columns, b.block)]
        return GradViews(list(sources), overlaps, list(bands), self._band_spans(bands, n, rows))

    def _spans(self, matrices: Tensor, n: int, rows: int) -> list[Tensor]:
        """(G, b, M, ...) as spans (n, R, G, b, s, t, s, ...)."""
        b = self._blocks
        view = matrices.unflatten(2, (b.scale, b.block, b.scale)).unflatten(1, (n, rows, b.per_row)).movedim(0, 2)
        return [view.narrow(3, first, count).narrow(5, 0, width) for first, count, width in b.spans()]

    def _band_spans(self, bands: Tensor, n: int, rows: int) -> list[Tensor]:
        """The band of (G, b, M, K) alone, (n, R, G, b, s, t, s, dx, dy): dx is the source column less t."""
        b = self._blocks
        spans = []
        for view in self._spans(bands.unflatten(3, (b.columns, b.k)), n, rows):
            strides = list(view.stride())
            strides[5] += strides[7]
            spans.append(view.as_strided((*view.shape[:7], b.k, b.k), strides, view.storage_offset()))
        return spans


def _size(chunk: Chunk) -> tuple[int, int]:
    images, rows = chunk
    return images.stop - images.start, rows.stop - rows.start
