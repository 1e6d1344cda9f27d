"""Cuts a call of :mod:`~densekit.ops.carafe.blocked` into blocks, and holds the memory that they work in.

The letters are those of that module. Images are seen as (N, H, G, s, W, s, ...) and a chunk's blocks as
(n, R, G, B, s, T, s, ...); cut into the same spans, the two are copied into each other. All views that do not depend on
the chunk are made once, as making them takes as long as a small product.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from densekit.ops.carafe.geometry import compute_dtype, window

_CPU_CHUNK_BYTES = 2**22  # a few times a core's cache: smaller chunks spend their time on calls
_CHUNK_BYTES = 2**26  # elsewhere: enough work for a launch
_MIN_PRODUCT_ROWS = 16  # batched products of fewer rows are several times slower in the transposed order

Chunk = tuple[slice, slice]  # images, rows


class Blocks:
    """One call's geometry, and views of its tensors.

    Args:
        features: (N, C, H, W), of which only type, device and size are read here, as of ``kernels``.
        kernels: (N, G * k * k, sH, sW).
    """

    def __init__(self, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> None:
        self.images, self.channels, self.height, self.width = features.shape
        self.k, self.groups, self.scale = k_up, groups, scale
        self.depth = self.channels // groups
        self.before, after = window(k_up)
        self.block = -(-_MIN_PRODUCT_ROWS // scale**2)
        self.columns = self.block + k_up - 1
        self.per_row = -(-(self.width + after) // self.block)
        self.pitch = self.per_row * self.block
        self.m, self.kk = scale * self.block * scale, self.columns * k_up
        self.like = torch.empty(0, dtype=compute_dtype(features, kernels), device=features.device)
        self.rows = self._rows_per_chunk()

    def _rows_per_chunk(self) -> int:
        row = self.pitch * self.k * self.channels
        row += self.groups * self.per_row * self.m * (self.kk + self.depth)
        budget = _CPU_CHUNK_BYTES if self.like.device.type == "cpu" else _CHUNK_BYTES
        rows = max(1, budget // self.like.itemsize // row)
        return rows if rows < self.height else self.height * min(rows // self.height, self.images)

    def chunks(self) -> Iterator[Chunk]:
        """Several images where they fit into the working memory, else rows of one image."""
        images, rows = max(1, self.rows // self.height), min(self.rows, self.height)
        for i in range(0, self.images, images):
            for y in range(0, self.height, rows):
                yield slice(i, min(i + images, self.images)), slice(y, min(y + rows, self.height))

    def new_padded(self) -> Tensor:
        """Zeros for the features with their padding, pixel by pixel: (N, H + k - 1, at least B * T + k - 1, C)."""
        width = self.pitch + -(-(self.k - 1) // self.block) * self.block
        return self.like.new_zeros((self.images, self.height + self.k - 1, width, self.channels))

    def inner(self, padded: Tensor) -> Tensor:
        """The part of ``padded`` that the features fill, as (N, C, H, W)."""
        rows, columns = (slice(self.before, self.before + size) for size in (self.height, self.width))
        return padded[:, rows, columns].permute(0, 3, 1, 2)

    def windows(self, padded: Tensor) -> Tensor:
        """The k rows below each padded pixel's, (N, H, B * T, k, C)."""
        return padded[:, :, : self.pitch].unfold(1, self.k, 1).permute(0, 1, 2, 4, 3)

    def kernel_spans(self, kernels: Tensor) -> list[Tensor]:
        """The kernels (N, G * k * k, sH, sW) as spans (N, H, G, b, s, t, s, dx, dy)."""
        k, s = self.k, self.scale
        image = kernels.view(self.images, self.groups, k, k, self.height, s, self.width, s)
        return self._image_spans(image.permute(0, 4, 1, 5, 6, 7, 3, 2))

    def output_spans(self, output: Tensor) -> list[Tensor]:
        """The output (N, C, sH, sW) as spans (N, H, G, b, s, t, s, D)."""
        s = self.scale
        image = output.view(self.images, self.groups, self.depth, self.height, s, self.width, s)
        return self._image_spans(image.permute(0, 3, 1, 4, 5, 6, 2))

    def overlaps(self, padded: Tensor) -> list[Tensor]:
        """Returns the pixels below the blocks' j-th T columns of sources, for each j: (N, H + k - 1, B, up to T, G, D).

        The blocks' windows overlap; T columns of each do not.
        """
        views = []
        for start in range(0, self.columns, self.block):
            lines = padded[:, :, start : start + self.pitch].unflatten(2, (self.per_row, self.block))
            width = min(self.block, self.columns - start)
            views.append(lines[:, :, :, :width].unflatten(4, (self.groups, self.depth)))
        return views

    def _image_spans(self, image: Tensor) -> list[Tensor]:
        spans = []
        for first, count, width in self.spans():
            part = image.narrow(4, first * self.block, count * width)
            spans.append(part.unflatten(4, (count, width)).movedim(4, 3))
        return spans

    def spans(self) -> list[tuple[int, int, int]]:
        """The full blocks of a row, then the one that the image's edge cuts: first block, blocks, pixels of each."""
        full, rest = divmod(self.width, self.block)
        return [span for span in ((0, full, self.block), (full, 1, rest)) if span[1] and span[2]]
