"""The slot: what ``INPUT.MAPPER`` ``"YOLOv6Mapper"`` makes of records. arXiv 2209.02976, section 3.1."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from densekit.d2.config import CfgNode, configurable
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.d2.structures import Boxes, BoxMode, Instances
from densekit.data.loader import SampleContext
from densekit.data.mapper import MAPPERS, DatasetMapper
from densekit.data.picture_cache import PictureCache
from densekit.data.training_images import as_planes, read_training_image

from .augment import (
    Picture,
    WarpRange,
    coloured,
    letterboxed,
    mirrored,
    mixup,
    mosaic,
    random_centre,
    random_factors,
    random_share,
    resized,
    size_by_long_side,
)

_MEGABYTE = 2**20


class LongSideResize(T.Augmentation):
    """Resizes so that the longer side has ``side`` pixels; the shorter one is cut off to a whole number."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resizing of an image (H, W, C)."""
        size = image.shape[0], image.shape[1]
        return AveragingResize(*size, *size_by_long_side(size, self.side))


class AveragingResize(T.ResizeTransform):
    """Resizes images as :func:`~.augment.resized` does; all else is the host's."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resizes (H, W, C); with an ``interp`` of its own, as label maps have it, as the host."""
        if interp is not None:
            return super().apply_image(img, interp)
        return resized(img, (self.new_h, self.new_w))


@MAPPERS.register()
class YOLOv6Mapper(DatasetMapper):
    """Squares of one picture or four, warped, coloured and mirrored, with the boxes of their objects.

    In training each sample is, with the probability ``mosaic``, made of four pictures, and of these, with the
    probability ``mixup``, is laid over another such sample. In the last ``plain_epochs`` it is one picture, which is
    still warped, coloured and mirrored. All samples of a step have one size. A record alone, as validation losses take
    it, is resized and not changed at random. In tests pictures are resized by their longer side.

    Args:
        sides: sides of the square, pixels, of which each step takes one.
        mosaic: probability.
        mixup: probability.
        warp: rotation, scale, shear, translation.
        colour_gains: largest changes of hue, saturation and value, as shares.
        flip: "horizontal" or "vertical", of every other sample; "none".
        plain_epochs: at the end of the training without mosaic and mixup.
        cache_bytes: of resized pictures that each process keeps in memory.
        cache_folder: where all processes keep resized pictures; "": nowhere.
        options: of the mapper.
    """

    @configurable
    def __init__(
        self,
        *,
        sides: Sequence[int],
        mosaic: float,
        mixup: float,
        warp: WarpRange,
        colour_gains: Sequence[float],
        flip: str,
        plain_epochs: float,
        cache_bytes: int,
        cache_folder: str,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.sides, self.mosaic, self.mixup, self.warp = tuple(sides), mosaic, mixup, warp
        self.colour_gains, self.flip, self.plain_epochs = tuple(colour_gains), flip, plain_epochs
        self._cache = PictureCache(cache_bytes, cache_folder)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Reads ``INPUT``: its ``YOLOV6``, ``MIN_SIZE_TRAIN`` (sides), ``MAX_SIZE_TEST`` (the longer side).

        Raises:
            ValueError: the keys ask for something that this mapper does not make.
        """
        keys = cfg.INPUT.YOLOV6
        _refuse_what_is_not_made(cfg, is_train)
        resize = [LongSideResize(cfg.INPUT.MAX_SIZE_TEST)] if cfg.INPUT.MIN_SIZE_TEST else []
        return super().from_config(cfg, is_train) | {
            "augmentations": resize,
            "sides": cfg.INPUT.MIN_SIZE_TRAIN,
            "mosaic": keys.MOSAIC,
            "mixup": keys.MIXUP,
            "warp": WarpRange(keys.DEGREES, keys.TRANSLATE, keys.SCALE, keys.SHEAR),
            "colour_gains": keys.HSV,
            "flip": cfg.INPUT.RANDOM_FLIP,
            "plain_epochs": keys.PLAIN_EPOCHS,
            "cache_bytes": round(keys.CACHE_MB * _MEGABYTE),
            "cache_folder": keys.CACHE_DIR,
        }

    def map_training(self, record: dict[str, Any], context: SampleContext) -> dict[str, Any]:
        """Makes a training sample that begins with a record.

        Returns:
            The record with ``image`` (3, side, side) and ``instances`` in place of ``annotations``. Random numbers are
            those of Python's ``random``.

        Raises:
            FileNotFoundError: a picture is not there.
            ValueError: it or its annotations cannot be used; the message names the file.
        """
        # Of the step alone, so that all samples of a batch agree, in any process.
        side = random.Random(context.progress.iteration).choice(self.sides)
        plain = context.progress.is_in_last(self.plain_epochs)
        picture = self._composed(record, context, side, self.mosaic * (not plain))
        if not plain and random.random() < self.mixup:
            other = context.records[random.randrange(len(context.records))]
            picture = mixup(picture, self._composed(other, context, side, self.mosaic), random_share())
        pixels = coloured(picture.pixels, random_factors(self.colour_gains), self.image_format)
        picture = Picture(pixels, picture.boxes, picture.classes)
        if self.flip != "none" and random.random() < 0.5:
            picture = mirrored(picture, vertical=self.flip == "vertical")
        return _sample(record, picture)

    def _composed(self, record: dict[str, Any], context: SampleContext, side: int, probability: float) -> Picture:
        """A warped square of a side, of one picture or, with a probability, of four."""
        largest = max(self.sides)
        if random.random() < probability:
            records = [context.records[random.randrange(len(context.records))] for _ in range(3)]
            parts = [self._picture(each) for each in (record, *records)]
            picture = mosaic(parts, largest, random_centre(largest))
        else:
            picture = letterboxed(self._picture(record), largest)
        return self.warp.draw(side / largest)(picture, (side, side))

    def _for_training(self, record: dict[str, Any], labels: np.ndarray | None) -> dict[str, Any]:
        """A record alone, nothing about it random; ``labels`` are not learned."""
        return _sample(record, self._resized(record))

    def _picture(self, record: dict[str, Any]) -> Picture:
        try:
            return self._resized(record)
        except Exception as error:
            raise self._explained(record, error) from error

    def _resized(self, record: dict[str, Any]) -> Picture:
        """The picture of a record with the largest side as its longer one, and its objects but for crowds."""
        pixels, size = self._pixels(record)
        factors = np.tile((pixels.shape[1] / size[1], pixels.shape[0] / size[0]), 2)
        objects = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
        boxes = [BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
        inside = np.array(boxes, np.float64).reshape(-1, 4).clip(0, np.array([size[1], size[0]] * 2))
        return Picture(pixels, inside * factors, np.array([x["category_id"] for x in objects], np.int64))

    def _pixels(self, record: dict[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
        """The resized pixels of a record, and (height, width) of its file."""
        form = f"{max(self.sides)} {self.image_format} {self._bits(record)}"
        return self._cache.get(record["file_name"], form, lambda: self._made(record))

    def _made(self, record: dict[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_training_image(record["file_name"], self.image_format, self._bits(record))
        utils.check_image_size(dict(record), image)
        size = image.shape[0], image.shape[1]
        return resized(image, size_by_long_side(size, max(self.sides))), size


def _sample(record: dict[str, Any], picture: Picture) -> dict[str, Any]:
    sample = {key: value for key, value in record.items() if key not in ("annotations", "sem_seg_file_name")}
    instances = Instances(picture.size)
    instances.gt_boxes = Boxes(torch.from_numpy(picture.boxes).float())
    instances.gt_classes = torch.from_numpy(picture.classes)
    return sample | {"image": as_planes(picture.pixels), "instances": utils.filter_empty_instances(instances)}


def _refuse_what_is_not_made(cfg: CfgNode, is_train: bool) -> None:
    keys = cfg.INPUT
    reasons = {
        "MODEL.MASK_ON": cfg.MODEL.MASK_ON,
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS": cfg.MODEL.LOAD_PROPOSALS,
        "INPUT.CROP.ENABLED": keys.CROP.ENABLED,
        f"INPUT.FORMAT {keys.FORMAT}": keys.FORMAT not in ("BGR", "RGB"),
        f"INPUT.MIN_SIZE_TRAIN_SAMPLING {keys.MIN_SIZE_TRAIN_SAMPLING}": keys.MIN_SIZE_TRAIN_SAMPLING != "choice",
        f"INPUT.MIN_SIZE_TRAIN {tuple(keys.MIN_SIZE_TRAIN)}": min(keys.MIN_SIZE_TRAIN) < 1,
        f"INPUT.RANDOM_FLIP {keys.RANDOM_FLIP}": keys.RANDOM_FLIP not in ("none", "horizontal", "vertical"),
    }
    wrong = [name for name, given in reasons.items() if given]
    if is_train and wrong:
        raise ValueError(
            f"INPUT.MAPPER YOLOv6Mapper cannot do {', '.join(wrong)}: it makes squares of colour pictures with boxes, "
            "of the sides that INPUT.MIN_SIZE_TRAIN lists. Change the keys, or choose another mapper."
        )
