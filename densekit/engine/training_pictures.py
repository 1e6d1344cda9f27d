"""A picture of the first training batch as the model sees it: wrong channels, boxes or classes show at a glance."""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from densekit.d2.data import Metadata
from densekit.d2.engine import HookBase
from densekit.d2.structures import BitMasks
from densekit.d2.utils import comm
from densekit.d2.utils.visualizer import Visualizer
from densekit.data.labels import IGNORE
from densekit.engine.batches import RememberedBatches
from densekit.files.atomic import atomic_write

__all__ = ["FirstBatchHook", "draw_batch", "draw_sample", "picture_grid"]

FILE = "first_batch.jpg"

_MOST = 16  # images
_CELL = 512  # pixels of the longer side
_GAP = 4


class FirstBatchHook(HookBase):
    """Draws the first batch of a run, in the main process.

    A batch that cannot be drawn is no reason to stop a training.

    Args:
        batches: the training loader.
        metadata: of the training data: names and colours.
        image_format: of the images, ``INPUT.FORMAT``.
        folder: for the picture, ``first_batch.jpg``; TensorBoard gets it too.
    """

    def __init__(self, batches: RememberedBatches, metadata: Metadata, image_format: str, folder: str) -> None:
        self._batches, self._metadata, self._format, self._folder = batches, metadata, image_format, folder

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 and comm.is_main_process():
            self._batches.look_at_next = self._draw

    def _draw(self, batch: Any) -> None:
        try:
            picture = draw_batch(batch, self._metadata, self._format)
        except Exception as error:
            logging.getLogger(__name__).warning(f"The first batch cannot be drawn: {type(error).__name__}: {error}")
            return
        path = os.path.join(self._folder, FILE)
        with atomic_write(path, "wb") as file:
            file.write(cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes())
        self.trainer.storage.put_image("first_batch", np.ascontiguousarray(picture.transpose(2, 0, 1)))
        logging.getLogger(__name__).info(f"The first batch, as the model sees it, is drawn in {path}")


def draw_batch(batch: Sequence[dict[str, Any]], metadata: Metadata, image_format: str) -> np.ndarray:
    """Draws the first images of a batch with their annotations, side by side.

    Args:
        batch: what a mapper gives the model.
        metadata: names and colours of the classes.
        image_format: ``"BGR"``, ``"RGB"`` or ``"L"``.

    Returns:
        (H, W, 3) uint8 in RGB.
    """
    return picture_grid([draw_sample(sample, metadata, image_format) for sample in batch[:_MOST]])


def picture_grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Puts pictures (H, W, 3) side by side and below each other, large ones smaller."""
    cells = [_shrunk(picture) for picture in pictures]
    height, width = (max(cell.shape[axis] for cell in cells) + _GAP for axis in (0, 1))
    # About as wide as high.
    columns = min(len(cells), math.ceil(math.sqrt(len(cells) * height / width)))
    grid = np.full((-(-len(cells) // columns) * height, columns * width, 3), 255, dtype=np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * width
        grid[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return grid


def draw_sample(sample: dict[str, Any], metadata: Metadata, image_format: str) -> np.ndarray:
    """Draws one training image: its label map below its objects.

    Returns:
        (H, W, 3) uint8 in RGB.
    """
    pixels = sample["image"].detach().cpu().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    pixels = np.ascontiguousarray(pixels[:, :, ::-1] if image_format == "BGR" else pixels)
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    # Small images are enlarged, so that names can be read.
    canvas = Visualizer(pixels, metadata, scale=max(1.0, _CELL / max(pixels.shape[:2])))
    if "sem_seg" in sample:
        labels = sample["sem_seg"].cpu()
        # Panoptic FPN's one class for all things would lie below each of them.
        if "instances" in sample and (metadata.get("stuff_classes") or [""])[0] == "things":
            labels = labels.masked_fill(labels == 0, IGNORE)
        canvas.draw_sem_seg(labels.numpy(), alpha=0.5)
    if "instances" in sample:
        _draw_instances(canvas, sample["instances"].to("cpu"), metadata)
    return canvas.get_output().get_image()


def _draw_instances(canvas: Visualizer, instances: Any, metadata: Metadata) -> None:
    fields = instances.get_fields()
    things = metadata.get("thing_classes") or []
    # Of panoptic data, whose segments are all objects to some models, stuff is numbered after the things.
    names = dict(enumerate(metadata.get("stuff_classes") or [])) | dict(enumerate(things))
    masks = fields.get("gt_masks")
    canvas.overlay_instances(
        boxes=fields.get("gt_boxes"),
        labels=[names.get(label, str(label)) for label in fields["gt_classes"].tolist()],
        masks=masks.tensor.numpy() if isinstance(masks, BitMasks) else masks,
        keypoints=fields.get("gt_keypoints"),
    )


def _shrunk(picture: np.ndarray) -> np.ndarray:
    factor = _CELL / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
