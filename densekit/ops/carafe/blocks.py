"""How :mod:`~densekit.ops.carafe.blocked` cuts a call into blocks, and the memory that the blocks work in.

The letters are those of that module; views of images and of blocks are brought to one order of axes,
(G, n, R, s, W, s, ...) and (G, n, R, B, s, T, s, ...), and then copied into each other.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from densekit.ops.carafe.geometry import compute_dtype, window

_CPU_CHUNK_BYTES = 2**21  # about the size of a core's cache
_CHUNK_BYTES = 2**26  # elsewhere: enough work for a launch
_MIN_PRODUCT_ROWS = 16  # batched products of fewer rows are several times slower in the transposed order

Chunk = tuple[slice, slice]  # images, rows


class Blocks:
    """One call's blocks. Working memory is made once and filled anew for each chunk.

    In the sources, one image row follows the other with the padding between them shared, so that all blocks of a chunk
    are equally far apart and one batched product reads them where they lie.

    Args:
        features: (N, C, H, W), of which only type and size are read here, as of ``kernels``.
        kernels: (N, G * k * k, sH, sW).
        pixelwise: whether all channels of an output pixel lie together in its block; else all pixels of a channel do.
    """

    def __init__(
        self, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int, *, pixelwise: bool
    ) -> None:
        self.images, self.channels, self.height, self.width = features.shape
        self.k, self.groups, self.scale, self.pixelwise = k_up, groups, scale, pixelwise
        self.depth = self.channels // groups
        self.before, after = window(k_up)
        self.block = -(-_MIN_PRODUCT_ROWS // scale**2)
        self.columns = self.block + k_up - 1
        self.per_row = -(-(self.width + after) // self.block)
        self.pitch = self.per_row * self.block
        self.m, self.kk = scale * self.block * scale, self.columns * k_up
        self._like = torch.empty(0, dtype=compute_dtype(features, kernels), device=features.device)
        self.rows = self._rows_per_chunk()
        # What no chunk writes is zero: padding behind the last row, weights beside the band, pixels beyond the edge.
        self._sources = self._like.new_zeros((self.rows * self.pitch + k_up - 1, k_up, self.channels))
        self._bands = self._like.new_zeros((groups, self.rows * self.per_row, self.m, self.kk))
        shape = (self.m, self.depth) if pixelwise else (self.depth, self.m)
        self._pixels = self._like.new_zeros((groups, self.rows * self.per_row, *shape))

    def _rows_per_chunk(self) -> int:
        row = self.pitch * self.k * self.channels
        row += self.groups * self.per_row * self.m * (self.kk + self.depth)
        budget = _CPU_CHUNK_BYTES if self._like.device.type == "cpu" else _CHUNK_BYTES
        rows = max(1, budget // self._like.itemsize // row)
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
        return self._like.new_zeros((self.images, self.height + self.k - 1, width, self.channels))

    def inner(self, padded: Tensor) -> Tensor:
        """The part of ``padded`` that the features fill, as (N, C, H, W)."""
        rows, columns = (slice(self.before, self.before + size) for size in (self.height, self.width))
        return padded[:, rows, columns].permute(0, 3, 1, 2)

    def sources(self, padded: Tensor, chunk: Chunk) -> tuple[Tensor, ...]:
        """Every block's source pixels, (b, K, D) for each group; blocks overlap in memory."""
        images, rows = chunk
        part = padded[images, rows.start : rows.stop + self.k - 1, : self.pitch]
        windows = part.unfold(1, self.k, 1).permute(0, 1, 2, 4, 3)  # (n, R, B * T, k, C)
        self._sources[: windows[..., 0, 0].numel()].view(windows.shape).copy_(windows)
        lines = self._sources.flatten(0, 1)
        blocks = lines.unfold(0, self.kk, self.block * self.k).transpose(1, 2)
        return blocks[: self._count(chunk)].split(self.depth, dim=2)

    def bands(self, kernels: Tensor, chunk: Chunk) -> Tensor:
        """Every block's kernels, (G, b, M, K)."""
        bands = self._bands[:, : self._count(chunk)]
        for image, block in self._pairs(self._kernel_image(kernels, chunk), self._diagonals(bands, chunk)):
            block.copy_(image)
        return bands

    def store(self, bands: Tensor, kernels: Tensor, chunk: Chunk) -> None:
        """Copies the bands of (G, b, M, K) to where :meth:`bands` takes them from."""
        for image, block in self._pairs(self._kernel_image(kernels, chunk), self._diagonals(bands, chunk)):
            image.copy_(block)

    def pixels(self, chunk: Chunk) -> Tensor:
        """Memory for every block's output pixels, (G, b, M, D)."""
        pixels = self._pixels[:, : self._count(chunk)]
        return pixels if self.pixelwise else pixels.transpose(2, 3)

    def output_pairs(self, output: Tensor, chunk: Chunk) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of (N, C, sH, sW) beside the parts of :meth:`pixels` that hold the same pixels."""
        images, rows = chunk
        size = (self.images, self.groups, self.depth, self.height, self.scale, self.width, self.scale)
        image = output.view(size)[images, :, :, rows].permute(1, 0, 3, 4, 5, 6, 2)  # (G, n, R, s, W, s, D)
        block = self.pixels(chunk).unflatten(2, (self.scale, self.block, self.scale))
        return self._pairs(image, block.unflatten(1, (*image.shape[1:3], self.per_row)))

    def scatter(self, grad_sources: Tensor, grad_padded: Tensor, chunk: Chunk) -> None:
        """Adds gradients (G, b, K, D) of the blocks' source pixels where the blocks overlap."""
        images, rows = chunk
        n, r = images.stop - images.start, rows.stop - rows.start
        grads = grad_sources.view(self.groups, n, r, self.per_row, self.columns, self.k, self.depth)
        grads = grads.permute(1, 2, 3, 4, 5, 0, 6)  # (n, R, B, J, k, G, D)
        for start in range(0, self.columns, self.block):  # T columns at a time are no two blocks' at once
            width = min(self.block, self.columns - start)
            for dy in range(self.k):
                lines = grad_padded[images, rows.start + dy : rows.stop + dy, start : start + self.pitch]
                lines = lines.unflatten(2, (self.per_row, self.block)).unflatten(4, (self.groups, self.depth))
                lines[:, :, :, :width].add_(grads[:, :, :, start : start + width, dy])

    def _count(self, chunk: Chunk) -> int:
        images, rows = chunk
        return (images.stop - images.start) * (rows.stop - rows.start) * self.per_row

    def _kernel_image(self, kernels: Tensor, chunk: Chunk) -> Tensor:
        images, rows = chunk
        k, s = self.k, self.scale
        view = kernels.view(self.images, self.groups, k, k, self.height, s, self.width, s)
        return view[images, :, :, :, rows].permute(1, 0, 4, 5, 6, 7, 3, 2)  # (G, n, R, s, W, s, dx, dy)

    def _diagonals(self, bands: Tensor, chunk: Chunk) -> Tensor:
        """The band of (G, b, M, K) alone: (G, n, R, B, s, T, s, dx, dy), dx being the source column less t."""
        images, rows = chunk
        n, r = images.stop - images.start, rows.stop - rows.start
        full = bands.unflatten(3, (self.columns, self.k)).unflatten(2, (self.scale, self.block, self.scale))
        full = full.unflatten(1, (n, r, self.per_row))
        strides = list(full.stride())
        strides[5] += strides[7]
        return full.as_strided((*full.shape[:7], self.k, self.k), strides, full.storage_offset())

    def _pairs(self, image: Tensor, block: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(G, n, R, s, W, s, ...) beside (G, n, R, B, s, T, s, ...): whole blocks, then the one that the edge cuts."""
        whole, rest = divmod(self.width, self.block)
        spans = [(0, whole, self.block), (whole, 1, rest)]
        for start, count, width in spans:
            if count and width:
                part = image.narrow(4, start * self.block, count * width).unflatten(4, (count, width))
                yield part.movedim(4, 3), block.narrow(3, start, count).narrow(5, 0, width)
