"""Instance-level semantic labelling: AP over overlaps of .5 to .95, and AP at .5."""

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.d2.structures import Instances
from densekit.evaluation.cityscapes.evaluator import CityscapesEvaluator
from densekit.evaluation.cityscapes.frames import ground_truth, label_ids, threaded, write_png
from densekit.evaluation.cityscapes.instance_scores import score_instances
from densekit.ops.files import atomic_write, strict


class CityscapesInstanceEvaluator(CityscapesEvaluator):
    """``AP`` and ``AP50`` of masks, from a model's ``"instances"``.

    The metadata's ``thing_classes`` name the model's classes. Into ``output_dir/instances`` go ``<frame>_pred.txt``
    with lines ``mask labelID score``, a folder of masks for each frame, and
    ``resultInstanceLevelSemanticLabeling.json``.
    """

    output = "instances"
    task = "segm"
    folder_name = "instances"
    tables = (("AP", "AP50"),)

    @cached_property
    def _label_ids(self) -> list[int]:
        return label_ids(self._metadata("thing_classes"), self._dataset_name)

    def _write(self, frame: str, prediction: Instances) -> None:
        """Writes the masks of a frame, then the list of them, which so never names a mask that is not there."""
        listing, folder = self._file(frame), self.folder / frame
        listing.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        lines = []
        if len(prediction):
            folder.mkdir()
            files = [f"{frame}/{index:03d}.png" for index in range(len(prediction))]
            list(threaded(self._write_mask, files, _masks(prediction)))  # which raises what a thread has raised
            classes, scores = prediction.pred_classes.tolist(), prediction.scores.tolist()
            lines = [f"{name} {self._label_id(k)} {score}\n" for name, k, score in zip(files, classes, scores)]
        with atomic_write(listing, durable=False) as file:
            file.writelines(lines)

    def _write_mask(self, name: str, mask: np.ndarray) -> None:
        write_png(self.folder / name, mask * np.uint8(255))

    def _label_id(self, predicted_class: int) -> int:
        if not 0 <= predicted_class < len(self._label_ids):
            raise ValueError(
                f"Class {predicted_class} was predicted, but '{self._dataset_name}' has the classes 0 .. "
                f"{len(self._label_ids) - 1}. MODEL.ROI_HEADS.NUM_CLASSES must be {len(self._label_ids)}."
            )
        return self._label_ids[predicted_class]

    def _file(self, frame: str) -> Path:
        return self.folder / f"{frame}_pred.txt"

    def _frames(self) -> dict[str, Path]:
        return ground_truth(self._metadata("gt_dir"), "instanceIds")

    def _score(self, frames: dict[str, Any], written: dict[str, Any]) -> dict[str, float]:
        scores = score_instances([(self._file(frame), truth) for frame, truth in frames.items()])
        with atomic_write(self.folder / "resultInstanceLevelSemanticLabeling.json") as file:
            file.write(json.dumps(strict(scores), allow_nan=False))
        averages = scores["averages"]
        metrics = {"AP": 100 * averages["allAp"], "AP50": 100 * averages["allAp50%"]}
        for metric, key in (("AP", "ap"), ("AP50", "ap50%")):
            metrics.update({f"{metric}-{name}": 100 * ap[key] for name, ap in averages["classes"].items()})
        return {name: float(value) for name, value in metrics.items()}


def _masks(prediction: Instances) -> np.ndarray:
    """(N, H, W) uint8, 0 or 1."""
    masks = prediction.pred_masks
    masks = masks if isinstance(masks, Tensor) else masks.tensor
    return masks.to(torch.bool).to(torch.uint8).cpu().numpy()
