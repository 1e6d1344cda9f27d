"""Discriminators: patches of the picture, or the whole picture and a crop around its hole.

N: images, H, W: size of the images, h, w: size of the map of scores. Scores are logits, larger for real pictures.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_SLOPE = 0.2


class Scores(NamedTuple):
    """Scores of a discriminator.

    Attributes:
        logits: (N, 1, h, w).
        weights: (N, 1, h, w), those of an image sum to 1: which scores are about its hole.
    """

    logits: Tensor
    weights: Tensor


class PatchDiscriminator(nn.Module):
    """Convolutions of stride 2 and a score for each patch (PatchGAN, arXiv 1611.07004), which sees the hole too.

    Only patches whose cell of the map has a part of the hole count, the inpainted region.

    Args:
        widths: channels of the convolutions, each of which halves the size.
        spectral: divides the weights by their spectral norm (arXiv 1802.05957), as in SN-PatchGAN (arXiv 1806.03589).
    """

    def __init__(self, *, widths: Sequence[int] = (64, 128, 256, 256), spectral: bool = True) -> None:
        super().__init__()
        if not widths:
            raise ValueError("A PatchDiscriminator needs the width of at least one convolution.")
        normed = spectral_norm if spectral else (lambda conv: conv)
        inputs = [4, *widths]
        layers: list[nn.Module] = []
        for before, width in zip(inputs, widths):
            layers += [normed(nn.Conv2d(before, width, 5, stride=2, padding=2)), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.predictor = normed(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, image: Tensor, hole: Tensor) -> Scores:
        """Scores normalised images (N, 3, H, W) with holes (N, 1, H, W), 1 in the hole."""
        hole = hole.to(image.dtype)
        logits = self.predictor(self.layers(torch.cat([image, hole], dim=1)))
        touched = F.adaptive_max_pool2d(hole, logits.shape[2:])
        return Scores(logits, touched / touched.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1))


class GlobalLocalDiscriminator(nn.Module):
    """Two towers, of the whole picture and of a square around its hole, joined by a linear layer.

    "Globally and Locally Consistent Image Completion" (2017), table 2; ReLU before BatchNorm, as in its generator here.

    Args:
        size: (height, width) of the images, which linear layers depend on.
        local_size: side of the square.
        global_widths, local_widths: channels of the towers' convolutions, each of which halves the size.
        features: of each tower's vector.
        norm: makes the norm behind each convolution, for a number of channels.

    Raises:
        ValueError: A size is not divisible by what its tower divides it by.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        local_size: int,
        global_widths: Sequence[int] = (64, 128, 256, 512, 512, 512),
        local_widths: Sequence[int] = (64, 128, 256, 512, 512),
        features: int = 1024,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if local_size > min(size):
            raise ValueError(f"A local crop of {local_size} pixels does not fit into images of {tuple(size)}.")
        self.size, self.local_size = (size[0], size[1]), local_size
        self.global_tower = _tower(self.size, global_widths, features, norm)
        self.local_tower = _tower((local_size, local_size), local_widths, features, norm)
        self.predictor = nn.Linear(2 * features, 1)

    def forward(self, image: Tensor, hole: Tensor) -> Scores:
        """Scores normalised images (N, 3, H, W) with holes (N, 1, H, W), 1 in the hole."""
        if tuple(image.shape[2:]) != self.size:
            raise ValueError(
                f"The discriminator was built for pictures of {self.size} (height, width) and got "
                f"{tuple(image.shape[2:])}. Set INPUT.CROP.SIZE and MODEL.INPAINTING.DISCRIMINATOR.SIZE alike."
            )
        corners = _corners(hole, self.local_size)
        crops = [
            x[:, top : top + self.local_size, left : left + self.local_size] for x, (top, left) in zip(image, corners)
        ]
        logits = self.score(image, torch.stack(crops))[:, :, None, None]
        return Scores(logits, torch.ones_like(logits))

    def score(self, image: Tensor, crop: Tensor) -> Tensor:
        """The logits (N, 1) of images and of crops of them."""
        return self.predictor(torch.cat([self.local_tower(crop), self.global_tower(image)], dim=1))


def _corners(hole: Tensor, side: int) -> list[tuple[int, int]]:
    """Top and left of the square around the middle of each hole's bounding box, moved into the picture."""
    corners = []
    for one in hole[:, 0] > 0:
        corner = []
        for axis, size in ((1, one.shape[0]), (0, one.shape[1])):
            places = torch.nonzero(one.any(dim=axis))
            middle = (int(places.min()) + int(places.max()) + 1) // 2 if len(places) else size // 2
            corner.append(min(max(middle - side // 2, 0), size - side))
        corners.append((corner[0], corner[1]))
    return corners


def _tower(
    size: tuple[int, int], widths: Sequence[int], features: int, norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    factor = 2 ** len(widths)
    if size[0] % factor or size[1] % factor:
        raise ValueError(
            f"Sides of {size[0]} x {size[1]} pixels must be multiples of {factor} for {len(widths)} layers."
        )
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths):
        layers += [nn.Conv2d(before, width, 5, stride=2, padding=2), nn.ReLU(), norm(width)]
    cells = size[0] // factor * (size[1] // factor)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * cells, features), nn.ReLU())
