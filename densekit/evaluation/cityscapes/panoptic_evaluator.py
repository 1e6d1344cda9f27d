"""Panoptic labelling: PQ, SQ and RQ of all classes, of things and of stuff."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densekit.evaluation.cityscapes.evaluator import warn_if_undefined
from densekit.evaluation.cityscapes.frames import refuse_missing
from densekit.evaluation.panoptic_evaluator import COCOPanopticEvaluator


class CityscapesPanopticEvaluator(COCOPanopticEvaluator):
    """``PQ``, ``SQ``, ``RQ`` and those of things (``_th``) and stuff (``_st``), from a model's ``"panoptic_seg"``.

    The figures are those of ``evalPanopticSemanticLabeling`` of cityscapesscripts, which defines them as COCO does; a
    class that is neither annotated nor predicted has NaN here and 0 there, and counts in no mean.

    Into ``output_dir/panoptic`` go the files that the script and the benchmark take, named as those of the ground
    truth: ``cityscapes_panoptic_<split>.json``, and a folder of that name with the PNGs.
    """

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        """Reads the ground truth.

        Args:
            dataset_name: A registered data set with ``panoptic_json``, ``panoptic_root``.
            output_dir: Where the predictions go, in a folder of their own; several machines have to share it.

        Raises:
            ValueError: The data set names no panoptic annotation, or it is not COCO's.
        """
        super().__init__(dataset_name, output_dir)

    def evaluate(self) -> Mapping[str, Any]:
        results = super().evaluate()
        if results:
            warn_if_undefined(self._dataset_name, results["panoptic_seg"])
        return results

    def _document(self, output_dir: Path) -> Path:
        return output_dir / "panoptic" / Path(self._truth.file.path).name

    def _pngs(self, output_dir: Path) -> Path:
        return self._document(output_dir).with_suffix("")

    def _are_complete(self, predictions: list[dict[str, Any]]) -> bool:
        assert self._output_dir is not None  # the constructor asks for one
        folder = self._pngs(self._output_dir)
        expected = {image_id: folder / self._png_name(image_id) for image_id in self._truth.file.annotations}
        refuse_missing("panoptic_seg", expected, {prediction["image_id"] for prediction in predictions})
        return True
