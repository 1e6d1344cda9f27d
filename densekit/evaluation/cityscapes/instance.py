"""Instance-level semantic labelling: AP over overlaps of .5 to .95, and AP at .5."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densekit.d2.structures import Instances
from densekit.evaluation.cityscapes.evaluator import CityscapesEvaluator
from densekit.evaluation.cityscapes.frames import label_ids, threaded, write_png
from densekit.evaluation.cityscapes.instance_scores import percentages, score_instances
from densekit.files.atomic import atomic_write


class CityscapesInstanceEvaluator(CityscapesEvaluator):
    """``AP`` and ``AP50`` of masks, from a model's ``"instances"``.

    The metadata's ``thing_classes`` name the model's classes. Into ``output_dir/instances`` go ``<frame>_pred.txt``
    with lines ``mask labelID score``, a folder of masks for each frame, and
    ``resultInstanceLevelSemanticLabeling.json``. The score is that of the mask, ``mask_scores``, where there is one.
    """

    output = "instances"
    task = "segm"
    folder_name = "instances"
    ending = "_pred.txt"
    truth_kind = "instanceIds"
    tables = (("AP", "AP50"),)

    @cached_property
    def _label_ids(self) -> list[int]:
        return label_ids(self._metadata("thing_classes"), self._dataset_name)

    def _write(self, frame: str, prediction: Instances) -> None:
        """Writes the masks of a frame, then the list of them, which so never names a mask that is not there.

        Another process may write the same frame at the same time, if a sampler has padded its share.
        """
        listing, folder = self._file(frame), self.folder / frame
        listing.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        files = [folder / f"{index:03d}.png" for index in range(len(prediction))]
        list(threaded(_write_mask, files, _masks(prediction)))  # which raises what a thread has raised
        for left in set(folder.glob("*.png")) - set(files):  # by an earlier evaluation
            left.unlink(missing_ok=True)
        scores = prediction.mask_scores if prediction.has("mask_scores") else prediction.scores
        rows = zip(files, prediction.pred_classes.tolist(), scores.tolist())
        with atomic_write(listing, durable=False) as file:
            file.writelines(f"{frame}/{path.name} {self._label_id(k)} {score}\n" for path, k, score in rows)

    def _label_id(self, predicted_class: int) -> int:
        if not 0 <= predicted_class < len(self._label_ids):
            raise ValueError(
                f"Class {predicted_class} was predicted, but '{self._dataset_name}' has the classes 0 .. "
                f"{len(self._label_ids) - 1}. MODEL.ROI_HEADS.NUM_CLASSES must be {len(self._label_ids)}."
            )
        return self._label_ids[predicted_class]

    def _score(self, files: list[tuple[Path, Path]]) -> dict[str, float]:
        scores = score_instances(files)
        self._keep("resultInstanceLevelSemanticLabeling", scores)
        return percentages(scores)


def _write_mask(path: Path, mask: np.ndarray) -> None:
    write_png(path, mask * np.uint8(255))


def _masks(prediction: Instances) -> np.ndarray:
    """(N, H, W) uint8, 0 or 1."""
    if not prediction.has("pred_masks"):
        raise ValueError("The model predicts boxes without masks, and Cityscapes judges masks. Set MODEL.MASK_ON True.")
    masks = prediction.pred_masks
    masks = masks if isinstance(masks, Tensor) else masks.tensor
    return masks.to(torch.bool).to(torch.uint8).cpu().numpy()
