"""A batch of images of different sizes in one padded tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class ImageList:
    """Images padded at the right and the bottom to one size.

    Attributes:
        tensor: (N, ..., H, W), the padded images.
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Returns one image without its padding, a view of shape (..., Hi, Wi)."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> "ImageList":
        """Pads images to the largest height and width among them.

        Args:
            tensors: At least one image, each (..., Hi, Wi) with equal leading sizes.
            size_divisibility: The padded sides are multiples of it, where it is above 1.
            pad_value: What the padding holds.
            padding_constraints: May hold ``"size_divisibility"``, which replaces the argument, and ``"square_size"``:
                where positive, the padded image is a square of that side (then rounded up as above).

        Raises:
            ValueError: No images, images that differ in more than height and width, or an image larger than the square.
        """
        if not tensors:
            raise ValueError("ImageList.from_tensors needs at least one image; the batch is empty.")
        lead = tensors[0].shape[:-2]
        if any(image.shape[:-2] != lead for image in tensors):
            shapes = [tuple(image.shape) for image in tensors]
            raise ValueError(f"images of one batch may differ in height and width only; got shapes {shapes}.")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
        height, width = _padded_size(sizes, size_divisibility, padding_constraints or {})
        batch = tensors[0].new_full((len(tensors), *lead, height, width), pad_value)
        for slot, image, (h, w) in zip(batch, tensors, sizes):
            slot[..., :h, :w].copy_(image)
        return ImageList(batch, sizes)


def _padded_size(sizes: list[tuple[int, int]], divisor: int, constraints: Mapping[str, int]) -> tuple[int, int]:
    height, width = (max(side) for side in zip(*sizes))
    square = constraints.get("square_size", 0)
    if square > 0:
        if max(height, width) > square:
            raise ValueError(f"an image of {height} x {width} pixels does not fit into the square of side {square}.")
        height = width = square
    divisor = max(1, constraints.get("size_divisibility", divisor))
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor
