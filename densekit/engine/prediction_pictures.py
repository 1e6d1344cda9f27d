"""Pictures of what a model predicts while it learns, always on the same images."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from densekit.d2.data import Metadata
from densekit.d2.engine import HookBase
from densekit.d2.structures import Instances
from densekit.d2.utils import comm
from densekit.d2.utils.visualizer import Visualizer
from densekit.data.pictures import read_picture
from densekit.engine.training_pictures import picture_grid
from densekit.files.atomic import atomic_write

__all__ = ["FOLDER", "PredictionPicturesHook", "draw_prediction"]

FOLDER = "pictures"
IMAGES = 4

_SURE = 0.5  # score of the objects that are drawn
_BEST = 3  # objects that are drawn where none is as sure
_CELL = 512  # pixels of the longer side


class PredictionPicturesHook(HookBase):
    """Draws predictions on the same few images every so many iterations.

    Images that cannot be read, drawn or written are no reason to stop a training: a line in the log says so, once.

    Args:
        period: iterations.
        inputs: returns what the model takes for each of the images; asked once.
        model: gives the model in evaluation mode for a while; entered by all processes.
        metadata: of the data set: names and colours.
        folder: for the pictures, ``pictures/<iteration>.jpg``; TensorBoard gets them too.
    """

    def __init__(
        self,
        period: int,
        inputs: Callable[[], Sequence[dict[str, Any]]],
        model: Callable[[], AbstractContextManager[nn.Module]],
        metadata: Metadata,
        folder: str,
    ) -> None:
        self._period, self._ask, self._model = period, inputs, model
        self._metadata, self._folder = metadata, os.path.join(folder, FOLDER)
        self._inputs: Sequence[dict[str, Any]] | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if not self._period or done % self._period:
            return
        with self._model() as model:
            if not comm.is_main_process():
                return
            try:
                picture = picture_grid(list(self._cells(model)))
                path = self._write(picture, done)
            except Exception as error:
                logging.getLogger(__name__).warning(
                    f"Predictions cannot be drawn (TEST.PICTURES_PERIOD): {type(error).__name__}: {error}"
                )
                self._period = 0
                return
        self.trainer.storage.put_image("predictions", np.ascontiguousarray(picture.transpose(2, 0, 1)))
        logging.getLogger(__name__).info(f"Predictions so far are drawn in {path}")

    def _write(self, picture: np.ndarray, done: int) -> str:
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, f"{done:07d}.jpg")
        with atomic_write(path, "wb", durable=False) as file:
            file.write(cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes())
        return path

    def _cells(self, model: nn.Module) -> Iterator[np.ndarray]:
        if self._inputs is None:
            self._inputs = self._ask()
        for item in self._inputs:
            with torch.no_grad():
                output = model([item])[0]
            yield draw_prediction(read_picture(item["file_name"], "RGB"), output, self._metadata)


def draw_prediction(pixels: np.ndarray, output: dict[str, Any], metadata: Metadata) -> np.ndarray:
    """Draws what a model says about an image: the panoptic map if there is one, else the labels below the objects.

    Args:
        pixels: (H, W, 3) uint8 in RGB, at the size of the output.
        output: the model's.
        metadata: names and colours of the classes.

    Returns:
        (H', W', 3) uint8 in RGB, small images larger, so that names can be read.

    Raises:
        ValueError: nothing of the output can be drawn.
    """
    canvas = Visualizer(pixels, metadata, scale=max(1.0, _CELL / max(pixels.shape[:2])))
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        canvas.draw_panoptic_seg(ids.cpu(), segments)
    elif "sem_seg" in output or "instances" in output:
        if "sem_seg" in output:
            canvas.draw_sem_seg(_labels(output["sem_seg"]), alpha=0.5)
        if "instances" in output:
            canvas.draw_instance_predictions(_surest(output["instances"].to("cpu")))
    else:
        raise ValueError(f"{', '.join(output)} cannot be drawn")
    return canvas.get_output().get_image()


def _labels(scores: Tensor) -> np.ndarray:
    return scores.argmax(dim=0).cpu().numpy()


def _surest(instances: Instances) -> Instances:
    sure = instances[instances.scores >= _SURE]
    return sure if len(sure) else instances[instances.scores.argsort(descending=True)[:_BEST]]
