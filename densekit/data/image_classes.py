"""The data of classifiers of whole images: a square cut at a random place and scale, the middle in evaluation."""

from typing import Any

import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop

from densekit.d2.config import CfgNode
from densekit.d2.data import transforms as T
from densekit.data.class_counts import CLASS_COUNTS, THINGS
from densekit.data.colour import SSDColours
from densekit.data.mapper import MAPPERS, DatasetMapper

__all__ = ["ImageClassMapper", "MiddleCut", "RandomCut"]


class RandomCut(T.Augmentation):
    """Cuts a rectangle of random area and aspect and resizes it to a square ("Inception", arXiv 1409.4842, section 6).

    Args:
        size: Side of the square, pixels.
        area: Least and largest share of the image, drawn uniformly.
        aspect: Least and largest width over height, drawn uniformly in the logarithm.

    Raises:
        ValueError: A range is empty or beyond the image.
    """

    def __init__(self, size: int, area: tuple[float, float], aspect: tuple[float, float]) -> None:
        super().__init__()
        if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1] or size < 1:
            raise ValueError(
                f"INPUT.CUT has SIZE {size}, AREA {area} and ASPECT {aspect}; each range goes from the least to the "
                "largest, and a share of the image is above 0 and at most 1."
            )
        self.size, self.area, self.aspect = size, list(area), list(aspect)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draws the rectangle for an image (H, W, C); after ten that do not fit, the largest possible in the middle."""
        height, width = image.shape[:2]
        shape = torch.empty(1, 1, 1).expand(1, height, width)  # the draw asks for the size alone
        top, left, h, w = RandomResizedCrop.get_params(shape, self.area, self.aspect)
        return _cut_and_resize((left, top, max(w, 1), max(h, 1)), (height, width), self.size)


class MiddleCut(T.Augmentation):
    """Cuts a square from the middle and resizes it.

    Args:
        size: Side of the result, pixels.
        share: Side of the square over the shorter side of the image.

    Raises:
        ValueError: The square would not be inside the image.
    """

    def __init__(self, size: int, share: float) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"INPUT.CUT.TEST_SHARE is {share}; it is a share of the shorter side, at most 1.")
        self.size, self.share = size, share

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The square of an image (H, W, C)."""
        height, width = image.shape[:2]
        side = max(1, round(self.share * min(height, width)))
        return _cut_and_resize(((width - side) // 2, (height - side) // 2, side, side), (height, width), self.size)


def _cut_and_resize(box: tuple[int, int, int, int], image_size: tuple[int, int], size: int) -> T.Transform:
    """The rectangle (left, top, width, height) of an image (height, width), resized to a square."""
    left, top, w, h = box
    height, width = image_size
    return T.TransformList([T.CropTransform(left, top, w, h, width, height), T.ResizeTransform(h, w, size, size)])


@MAPPERS.register()
class ImageClassMapper(DatasetMapper):
    """Maps records with the ``category_id`` of the whole image, by ``INPUT.CUT`` and ``INPUT.RANDOM_FLIP``."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options, keys = super().from_config(cfg, is_train), cfg.INPUT.CUT
        if not is_train:
            return options | {"augmentations": [MiddleCut(keys.SIZE, keys.TEST_SHARE)]}
        augmentations: list[T.Augmentation] = [RandomCut(keys.SIZE, keys.AREA, keys.ASPECT)]
        if cfg.INPUT.RANDOM_FLIP != "none":
            mirrored = cfg.INPUT.RANDOM_FLIP == "horizontal"
            augmentations.append(T.RandomFlip(horizontal=mirrored, vertical=not mirrored))
        if cfg.INPUT.COLOR_AUG_SSD:
            augmentations.append(SSDColours(cfg.INPUT.FORMAT))
        return options | {"augmentations": augmentations}


@CLASS_COUNTS.register()
def image_classifier_counts(cfg: CfgNode) -> dict[str, str]:
    """The key of the classes of whole images."""
    return {"MODEL.CLASSIFIER.NUM_CLASSES": THINGS} if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier" else {}
