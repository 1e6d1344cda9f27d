"""Features of VGG16 that perceptual and style losses compare: behind its first three poolings."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The convolutions of torchvision's ``vgg16().features`` up to the third pooling, between the poolings.
_BLOCKS = ((0, 2), (5, 7), (10, 12, 14))
# What its weights expect: RGB in 0..1, normalised with these.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """The first layers of torchvision's VGG16.

    Its weights are the user's file and neither trained nor saved with the model: they are buffers.

    Args:
        weights: of torchvision's ``vgg16``, with or without the prefix ``features.``; what else the file holds is left
            out. The widths are those of the weights.

    Raises:
        ValueError: A convolution is missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        own = {name.removeprefix("features."): value.float() for name, value in weights.items()}
        for number in (number for block in _BLOCKS for number in block):
            for kind in ("weight", "bias"):
                if f"{number}.{kind}" not in own:
                    raise ValueError(
                        f"There is no 'features.{number}.{kind}' among the weights: torchvision's vgg16 is expected."
                    )
                self.register_buffer(f"{kind}{number}", own[f"{number}.{kind}"].clone(), persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Three maps of images (N, 3, H, W), RGB in 0..1, each half as large as the one before."""
        return self.of_normalised((image - self.mean) / self.std)

    def of_normalised(self, x: Tensor) -> list[Tensor]:
        """As :meth:`forward`, for images that are normalised as the weights expect."""
        maps = []
        for block in _BLOCKS:
            for number in block:
                x = F.relu(F.conv2d(x, self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}"), padding=1))
            x = F.max_pool2d(x, 2)
            maps.append(x)
        return maps
