"""Pixel-level semantic labelling: IoU, and iIoU, which weighs each object alike whatever its size."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from densekit.d2.data import MetadataCatalog
from densekit.evaluation.cityscapes.evaluator import CityscapesEvaluator
from densekit.evaluation.cityscapes.frames import label_ids, write_png
from densekit.evaluation.cityscapes.semantic_scores import score_semantic, scored_names
from densekit.evaluation.predicted_classes import PIXEL_OUTPUTS, predicted_classes

UNLABELED = 0  # the label id of what no class is predicted for
_AVERAGES = {
    "mIoU": "averageScoreClasses",  # once more under the name that other data sets have
    "IoU": "averageScoreClasses",
    "iIoU": "averageScoreInstClasses",
    "IoU_sup": "averageScoreCategories",
    "iIoU_sup": "averageScoreInstCategories",
}
_PER_NAME = {
    "IoU": "classScores",
    "iIoU": "classInstScores",
    "IoU_sup": "categoryScores",
    "iIoU_sup": "categoryInstScores",
}


class CityscapesSemSegEvaluator(CityscapesEvaluator):
    """``IoU`` and ``iIoU`` of classes, ``IoU_sup`` and ``iIoU_sup`` of categories, from a model's ``"sem_seg"``.

    Where it has none, the classes of its ``"panoptic_seg"`` are judged. The metadata's ``stuff_classes`` name the
    channels of the output. Into ``output_dir/semantic`` go ``<frame>_pred.png``, with label ids, and
    ``resultPixelLevelSemanticLabeling.json``.
    """

    output = "sem_seg"
    task = "sem_seg"
    folder_name = "semantic"
    ending = "_pred.png"
    truth_kind = "labelIds"
    tables = (("IoU", "iIoU"), ("IoU_sup", "iIoU_sup"))

    @cached_property
    def _label_ids(self) -> np.ndarray:
        return np.array(label_ids(self._metadata("stuff_classes"), self._dataset_name), dtype=np.uint8)

    def _prediction(self, output: Mapping[str, Any]) -> np.ndarray | None:
        """The class of each pixel (H, W)."""
        if not output.keys() & PIXEL_OUTPUTS:
            return None
        channels = len(output.get("sem_seg", self._label_ids))
        if channels != len(self._label_ids):
            raise ValueError(
                f"'sem_seg' has {channels} channels, but '{self._dataset_name}' has {len(self._label_ids)} "
                f"stuff_classes. MODEL.SEM_SEG_HEAD.NUM_CLASSES must be {len(self._label_ids)}."
            )
        return predicted_classes(output, MetadataCatalog.get(self._dataset_name))

    def _write(self, frame: str, prediction: np.ndarray) -> None:
        """Writes the label ids of classes (H, W)."""
        table = np.append(self._label_ids, np.uint8(UNLABELED))  # what NOTHING points to
        write_png(self._file(frame), table[prediction])

    def _score(self, files: list[tuple[Path, Path]]) -> dict[str, float]:
        scores = score_semantic(files)
        self._keep("resultPixelLevelSemanticLabeling", scores)
        metrics = {name: 100 * scores[average] for name, average in _AVERAGES.items()}
        for metric, key in _PER_NAME.items():
            metrics.update({f"{metric}-{name}": 100 * scores[key][name] for name in scored_names(metric)})
        return {name: float(value) for name, value in metrics.items()}
