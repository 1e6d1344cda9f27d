"""Pictures with holes, for training and tests."""

import copy
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from densekit.d2.config import CfgNode, configurable
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.data.holes import HoleFolder, fit_hole, read_hole, say_if_strange, stretch_hole
from densekit.data.mapper import MAPPERS, DatasetMapper
from densekit.data.training_images import TrainingInput, as_planes, read_training_image

from .holes import KINDS

_ANY = 2**31  # pixels: the longer side is not limited, for the shorter one has to hold a crop


class HoleMaker:
    """Draws holes, or takes them from files of no particular picture.

    Args:
        kinds: names of :data:`~.holes.KINDS`, of which each hole is one.
        area: the least and the largest share of the picture.
        folder: mask files that are taken instead, mirrored at random; None draws.

    Raises:
        ValueError: A kind is unknown or the shares are out of order.
    """

    def __init__(self, kinds: Sequence[str], area: Sequence[float], folder: HoleFolder | None = None) -> None:
        if not kinds or any(kind not in KINDS for kind in kinds):
            raise ValueError(f"INPUT.HOLES.KINDS is {tuple(kinds)}; it takes {', '.join(KINDS)}.")
        if len(area) != 2 or not 0 < area[0] <= area[1] < 1:
            raise ValueError(f"INPUT.HOLES.AREA is {tuple(area)}; it takes two shares with 0 < least <= largest < 1.")
        self._kinds, self._area, self._folder = tuple(kinds), (area[0], area[1]), folder

    def hole(self, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
        """A random hole (H, W), bool, for a picture of (height, width)."""
        if self._folder is not None:
            hole = self._folder.read(int(generator.integers(len(self._folder))))
            mirrored = np.flip(hole, axis=tuple(axis for axis in (0, 1) if generator.integers(2)))
            return stretch_hole(mirrored, size)
        kind = self._kinds[int(generator.integers(len(self._kinds)))]
        return KINDS[kind](size, float(generator.uniform(*self._area)), generator)


@MAPPERS.register()
class InpaintingMapper(DatasetMapper):
    """A crop of a picture, and its hole: ``image`` (3, H, W) uint8 and ``hole`` (H, W) bool, True in the hole.

    Annotations are not looked at. In training the picture is resized, cropped at random and maybe mirrored; its hole
    comes from the draw's own seed, so that it is another one in each epoch and the same in a run that was resumed. In
    tests the picture is resized and cropped in its middle, and its hole depends on the name of its file alone.

    Predictions see whole pictures of any size, with the masks they are given (``augmentations`` are those of such).

    Args:
        holes: draws them.
        own_holes: in tests, mask files by the names of the pictures instead.
        preparation: resizes and crops.
        options: of the mapper.
    """

    @configurable
    def __init__(
        self, *, holes: HoleMaker, own_holes: HoleFolder | None, preparation: T.AugmentationList, **options: Any
    ) -> None:
        super().__init__(**options)
        self._holes, self._own_holes, self._preparation = holes, own_holes, preparation

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        node = cfg.INPUT.HOLES
        folder = HoleFolder(node.FOLDER, node.POLARITY) if node.FOLDER else None
        own = HoleFolder(node.TEST_FOLDER, node.POLARITY) if node.TEST_FOLDER and not is_train else None
        return {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "augmentations": [],
            "holes": HoleMaker(node.KINDS, node.AREA, folder),
            "own_holes": own,
            "preparation": T.AugmentationList(_preparation(cfg, is_train)),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        keys = ("file_name", "image_id", "height", "width")
        record = {key: copy.deepcopy(dataset_dict[key]) for key in keys if key in dataset_dict}
        try:
            if self.is_train:
                return self._training(record)
            image = utils.read_image(record["file_name"], format=self.image_format)
            utils.check_image_size(record, image)
        except Exception as error:
            raise self._explained(dataset_dict, error) from error
        return self._test(record, image)

    def _training(self, record: dict[str, Any]) -> dict[str, Any]:
        image = read_training_image(record["file_name"], self.image_format)
        utils.check_image_size(record, image)
        inputs = TrainingInput(image)
        self._preparation(inputs)
        # All that is random about a sample derives from the state of numpy's generator, which the loader seeds.
        generator = np.random.default_rng(np.random.randint(2**31))
        hole = self._holes.hole(inputs.image.shape[:2], generator)
        return _sample(record, inputs.image, hole)

    def _test(self, record: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        path = record["file_name"]
        if self._own_holes is not None:
            mask = self._own_holes.of_picture(path)
            hole = fit_hole(read_hole(mask, self._own_holes.polarity), image.shape[:2], f"Mask {mask}")
            inputs = T.AugInput(image)
            transforms = self._preparation(inputs)
            hole = transforms.apply_segmentation(hole.astype(np.uint8)) > 0
            say_if_strange(hole, f"Picture {path} with mask {mask}")
            return _sample(record, inputs.image, hole)
        inputs = T.AugInput(image)
        self._preparation(inputs)
        digest = hashlib.sha256(os.path.basename(path).encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return _sample(record, inputs.image, self._holes.hole(inputs.image.shape[:2], generator))


class MiddleCrop(T.Augmentation):
    """Cuts the middle of (height, width) ``size`` out of a larger picture."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self._size = tuple(size)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The crop of an image (H, W, C)."""
        (height, width), (h, w) = image.shape[:2], self._size
        return T.CropTransform((width - w) // 2, (height - h) // 2, w, h)


def _sample(record: dict[str, Any], image: np.ndarray, hole: np.ndarray) -> dict[str, Any]:
    size = {"height": image.shape[0], "width": image.shape[1]}
    return record | size | {"image": as_planes(image), "hole": torch.from_numpy(np.ascontiguousarray(hole))}


def _preparation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Resizing so that the shortest side fits, then a crop of ``INPUT.CROP.SIZE``, in training anywhere."""
    crop = cfg.INPUT.CROP
    smallest = min(cfg.INPUT.MIN_SIZE_TRAIN) if is_train else cfg.INPUT.MIN_SIZE_TEST
    if not crop.ENABLED or crop.TYPE != "absolute" or max(crop.SIZE) > smallest:
        key = "MIN_SIZE_TRAIN" if is_train else "MIN_SIZE_TEST"
        raise ValueError(
            f"InpaintingMapper crops pictures to one size: INPUT.CROP.ENABLED True, TYPE absolute, and a SIZE, here "
            f"{tuple(crop.SIZE)}, that is not larger than INPUT.{key} {smallest}."
        )
    if not is_train:
        return [T.ResizeShortestEdge(smallest, _ANY), MiddleCrop(crop.SIZE)]
    _, *flips = utils.build_augmentation(cfg, is_train)
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, _ANY, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    return [resize, T.RandomCrop("absolute", crop.SIZE), *flips]
