"""Predictions in Python: pictures in, Detectron2's outputs out, through evaluation's own preprocessing."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, repeat
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from densekit.d2.config import CfgNode
from densekit.d2.data import transforms as T
from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.data.holes import fit_hole, read_hole
from densekit.data.mapper import build_mapper, inference_augmentations
from densekit.data.pictures import read_picture
from densekit.deploy import inference_form
from densekit.engine.loading import build_with_weights
from densekit.engine.setup import read_config
from densekit.engine.sources import ModelSource, with_model
from densekit.inference.class_names import find_classes
from densekit.modeling.semantic_inference import semantic_inference
from densekit.run_options import RunOptions

__all__ = ["Picture", "Predictor", "check_predicts", "load_model"]

Picture = str | os.PathLike[str] | np.ndarray | Image.Image
Mask = str | os.PathLike[str] | np.ndarray
Output = dict[str, Any]


def load_model(
    source: ModelSource,
    weights: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    optimized: bool = True,
) -> nn.Module:
    """Builds a model with its weights, in evaluation mode.

    Args:
        source: The folder of a run, with its last weights; a checkpoint in such a folder; a configuration file, the
            name of a shipped one, or a configuration, with its MODEL.WEIGHTS. Or a file of ``densekit export``.
        weights: A weight file instead of these, of any known format; "" for random weights.
        device: "cpu", "cuda", "cuda:1" ...; by default the configuration's, or the CPU where there is no CUDA device.
        optimized: In the form of MODEL.INFERENCE, which predicts the same faster and cannot be trained; False for the
            model with all of its modules and the names of its weights.

    Raises:
        FileNotFoundError: There is no such source or weight file.
        ValueError: The weights are damaged or of another architecture, or there is no such device.
    """
    cfg = _config(source, weights, device)
    model = build_with_weights(cfg)
    return inference_form(cfg, model) if optimized else model


class Predictor:
    """Runs a model on pictures.

    A picture is a file, a Pillow image, or an array: (H, W, 3) uint8 with the channels of ``array_format``, or (H, W)
    grey. Files and Pillow images are turned upright as their EXIF orientation says.

    Args:
        source: As of :func:`load_model`.
        weights: As of :func:`load_model`.
        device: As of :func:`load_model`.
        batch_size: Pictures that the model gets at once. Those of a batch are padded to one size, by which scores may
            change in the last digits; evaluation takes one at a time.
        array_format: "BGR" as OpenCV reads pictures and as Detectron2's DefaultPredictor takes them, or "RGB".

    Attributes:
        cfg: The configuration, frozen.
        model: With its weights, in the form of MODEL.INFERENCE, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such source or weight file.
        ValueError: As of :func:`load_model`; or there are no weights, or the model needs more than pictures.
    """

    def __init__(
        self,
        source: ModelSource,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        batch_size: int = 1,
        array_format: str = "BGR",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; at least one picture makes a batch.")
        if array_format not in ("BGR", "RGB"):
            raise ValueError(f"array_format is {array_format!r}; it can be 'BGR' or 'RGB'.")
        self.cfg = _config(source, weights, device)
        check_predicts(self.cfg, random_weights=weights == "")
        self.cfg.freeze()
        self.model = inference_form(self.cfg, build_with_weights(self.cfg))
        self._inference = semantic_inference(self.cfg, self.model)
        self._batch_size, self._array_format = batch_size, array_format
        self._paints = "inpainted" in getattr(self.model, "output_kinds", ())
        self._mapper = build_mapper(self.cfg, is_train=False)
        self._augmentations = inference_augmentations(self.cfg)

    @overload
    def __call__(self, pictures: Picture, masks: Mask | None = None) -> Output: ...

    @overload
    def __call__(
        self, pictures: list[Picture] | tuple[Picture, ...], masks: Iterable[Mask] | None = None
    ) -> list[Output]: ...

    @overload
    def __call__(self, pictures: Iterator[Picture], masks: Iterable[Mask] | None = None) -> Iterator[Output]: ...

    def __call__(self, pictures: Any, masks: Any = None) -> Any:
        """Predicts.

        Args:
            pictures: One, a list of them, or an iterator, of which no more than a batch is held at a time.
            masks: For a model that paints, the hole of each picture, one for one picture: a file, white in the hole, or
                an array (H, W) of bool, True in it.

        Returns:
            For one picture a dictionary with the outputs of the model, as ``"instances"``, ``"sem_seg"``,
            ``"panoptic_seg"`` and ``"inpainted"``, in the picture's own pixels and on the model's device; for several a
            list of such, for an iterator an iterator.

        Raises:
            FileNotFoundError, ValueError: A picture or a mask does not exist, or cannot be used; the message names it.
                Or the model paints and there are no masks, or it does not and there are some.
        """
        if self._paints != (masks is not None):
            raise ValueError(
                "This model paints the holes of pictures: give masks, one for each picture."
                if self._paints
                else "masks are for a model that paints, and this one does not."
            )
        if isinstance(pictures, (str, os.PathLike, np.ndarray, Image.Image)):
            return self._predict([pictures], [masks])[0]
        outputs = self._stream(pictures, masks)
        return outputs if isinstance(pictures, Iterator) else list(outputs)

    @cached_property
    def class_names(self) -> list[str]:
        """The names of the classes of objects, or where the model has none, of pixels; by ``pred_classes``."""
        classes = find_classes(self.cfg, "")
        return [name for _, name in classes.things or classes.labels]

    def inputs(self, picture: Picture, mask: Mask | None = None) -> dict[str, Any]:
        """Returns what the model takes for a picture: ``image`` (C, H', W') uint8, ``height`` and ``width``.

        With a mask also ``hole`` (height, width) bool.
        """
        view = self._view(picture)
        if mask is None:
            return view
        if isinstance(mask, np.ndarray):
            if mask.dtype != bool or mask.ndim != 2:
                raise ValueError(
                    f"A mask of shape {mask.shape} and type {mask.dtype} is none: it must be (H, W) of bool."
                )
            hole, where = mask, "The mask"
        else:
            hole, where = read_hole(os.fspath(mask)), f"Mask {mask}"
        return view | {"hole": torch.from_numpy(fit_hole(hole, (view["height"], view["width"]), where).copy())}

    def _view(self, picture: Picture) -> dict[str, Any]:
        if not isinstance(picture, (str, os.PathLike)):
            array = self._ordered(picture)
        elif self._paints:  # evaluation cuts a part out of such a picture and draws a hole into it
            array = read_picture(os.fspath(picture), self.cfg.INPUT.FORMAT, self.cfg.INPUT.BIT_DEPTH)
        else:
            return self._mapper({"file_name": os.fspath(picture)})
        taken = T.AugInput(array)
        self._augmentations(taken)
        image = torch.as_tensor(np.ascontiguousarray(taken.image.transpose(2, 0, 1)))  # (C, H', W')
        return {"image": image, "height": array.shape[0], "width": array.shape[1]}

    def _stream(self, pictures: Iterable[Picture], masks: Iterable[Mask] | None) -> Iterator[Output]:
        remaining, holes = iter(pictures), repeat(None) if masks is None else iter(masks)
        while batch := list(islice(remaining, self._batch_size)):
            given = list(islice(holes, len(batch)))
            if len(given) < len(batch):
                raise ValueError("There are fewer masks than pictures; each picture needs one.")
            yield from self._predict(batch, given)

    def _predict(self, batch: list[Picture], masks: Sequence[Mask | None]) -> list[Output]:
        with torch.no_grad():
            return self._inference([self.inputs(picture, mask) for picture, mask in zip(batch, masks)])

    def _ordered(self, picture: np.ndarray | Image.Image) -> np.ndarray:
        """Returns a picture as (H, W, C) uint8 with the channels of INPUT.FORMAT."""
        if isinstance(picture, Image.Image):
            rgb = np.asarray((ImageOps.exif_transpose(picture) or picture).convert("RGB"))
        else:
            rgb = self._rgb(picture)
        if self.cfg.INPUT.FORMAT == "L":
            return np.asarray(Image.fromarray(rgb).convert("L"))[:, :, None]
        if self.cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT {self.cfg.INPUT.FORMAT} is for files; arrays become RGB, BGR or L.")
        return rgb if self.cfg.INPUT.FORMAT == "RGB" else np.ascontiguousarray(rgb[:, :, ::-1])

    def _rgb(self, array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
            raise ValueError(
                f"An array of shape {array.shape} and type {array.dtype} is no picture: it must be (H, W, 3) or (H, W) "
                "of uint8, 0 to 255."
            )
        if array.ndim == 2 or array.shape[2] == 1:
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        return array if self._array_format == "RGB" else np.ascontiguousarray(array[:, :, ::-1])


def check_predicts(cfg: CfgNode, *, random_weights: bool = False) -> None:
    """Refuses a model that cannot predict on pictures alone.

    Raises:
        ValueError: It has no weights, and they are not meant to be random; or it needs proposals.
    """
    if not cfg.MODEL.WEIGHTS and not cfg.MODEL.EXPORTED and not random_weights:
        raise ValueError("A model without weights predicts noise: add --weights FILE (in Python: weights=FILE).")
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if cfg.MODEL.LOAD_PROPOSALS and not getattr(architecture, "searches_pictures", False):
        raise ValueError(
            "MODEL.LOAD_PROPOSALS True: this model needs a file of proposals for its pictures, not pictures."
        )


def _config(source: ModelSource, weights: str | os.PathLike[str] | None, device: str | None) -> CfgNode:
    options = with_model(RunOptions(), source, weights, device)
    return read_config(options)[0]
