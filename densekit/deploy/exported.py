"""Exported models behind the host's interface: the same inputs and outputs as the model that they were made of."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.modeling import detector_postprocess
from densekit.d2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from densekit.d2.modeling.postprocessing import sem_seg_postprocess
from densekit.d2.modeling.roi_heads.keypoint_head import keypoint_rcnn_inference
from densekit.d2.structures import Boxes, Instances
from densekit.deploy.graphs import Placement, enlarged
from densekit.deploy.targets import SUFFIXES, Runner, opened, read

__all__ = ["ExportedModel", "is_exported", "load_exported"]

# kind of a graph -> keys of the model's outputs
_KINDS = {
    "sem_seg": ("sem_seg",),
    "instances": ("instances",),
    "panoptic": ("instances", "sem_seg", "panoptic_seg"),
    "classes": ("class_scores",),
}


class ExportedModel(nn.Module):
    """A file behind the host's interface of a model, on the CPU.

    Args:
        about: what the file says of itself.
        run: runs it.

    Attributes:
        output_kinds: keys of the outputs.
    """

    def __init__(self, about: Mapping[str, Any], run: Runner) -> None:
        super().__init__()
        self.about, self._run = about, run
        self._least = about["input"]["least_side"]
        self.output_kinds = _KINDS[about["kind"]]
        self.placement = Placement(**about["input"]["placement"])
        self.eval()

    def check_size(self, keys: Any) -> None:
        """Refuses a size of pictures that the file cannot take.

        Args:
            keys: ``INPUT`` of a configuration. Its MIN_SIZE_TEST counts, where 0 leaves pictures as they are; for
                classifiers its CUT.SIZE.

        Raises:
            ValueError: It is too small.
        """
        classifies = self.about["kind"] == "classes"
        name, side = ("CUT.SIZE", keys.CUT.SIZE) if classifies else ("MIN_SIZE_TEST", keys.MIN_SIZE_TEST)
        image, _ = self.placement.place(torch.zeros(len(self.placement.value), max(side, 1), max(side, 1)))
        if side and image.shape[-1] < self._least:
            made_for = self.about["input"].get("square_of_its_middle", self.about["input"]["shorter_side"])
            raise ValueError(
                f"INPUT.{name} {side}: exported models take images of {self._least} x {self._least} and more; "
                f"this one was made for {made_for}."
            )

    def run(self, picture: Tensor) -> dict[str, Tensor]:
        """Returns the outputs for a resized picture (C, h, w), in its pixels, by their names."""
        image, corner = self.placement.place(picture)
        if min(image.shape[-2:]) < self._least:
            height, width = image.shape[-2:]
            raise ValueError(
                f"an image of {height} x {width} is too small: exported models take {self._least} x {self._least} up"
            )
        inputs = {"image": image, "size": torch.tensor(picture.shape[-2:], dtype=torch.float32)}
        found = self._run([inputs[name] for name in self.about["inputs"]])
        return self.placement.take_back(dict(zip(self.about["outputs"], found)), picture.shape[-2:], corner)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predicts.

        Args:
            batched_inputs: per image a dict with ``image`` (C, h, w), and ``height`` and ``width``, the frame of the
                results.

        Returns:
            Per image what the model gives: ``sem_seg`` (K, height, width), ``instances`` and ``panoptic_seg``; or
            ``class_scores`` (K,).
        """
        return [self._one(item) for item in batched_inputs]

    def _one(self, item: dict[str, Any]) -> dict[str, Any]:
        size = item["image"].shape[-2], item["image"].shape[-1]
        frame = item.get("height", size[0]), item.get("width", size[1])
        outputs = self.run(item["image"].cpu())
        result: dict[str, Any] = {}
        if "class_scores" in outputs:
            result["class_scores"] = outputs["class_scores"]
        if "sem_seg" in outputs:
            result["sem_seg"] = self._scores(outputs["sem_seg"], size, frame)
        if "boxes" in outputs:
            result["instances"] = detector_postprocess(_instances(outputs, size), *frame)
        if self.about["kind"] == "panoptic":
            limits = self.about["settings"]
            result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                result["instances"],
                result["sem_seg"].argmax(dim=0),
                limits["combine_overlap_thresh"],
                limits["combine_stuff_area_thresh"],
                limits["combine_instances_score_thresh"],
            )
        return result

    def _scores(self, scores: Tensor, size: tuple[int, int], frame: tuple[int, int]) -> Tensor:
        """Brings scores (K, h, w) to the frame of the results, as the model does it."""
        corners = self.about["settings"].get("align_corners")
        if corners is None:
            return sem_seg_postprocess(scores, size, *frame)
        return scores if frame == size else enlarged(scores, frame, corners)


def _instances(outputs: Mapping[str, Tensor], size: tuple[int, int]) -> Instances:
    found = Instances(size, pred_boxes=Boxes(outputs["boxes"]), scores=outputs["scores"])
    found.pred_classes = outputs["classes"]
    if "masks" in outputs:
        found.pred_masks = outputs["masks"][:, None]
    if "mask_scores" in outputs:
        found.mask_scores = outputs["mask_scores"]
    if "heatmaps" in outputs:
        keypoint_rcnn_inference(outputs["heatmaps"], [found])
    return found


def is_exported(path: Any) -> bool:
    """Tells an exported file from other sources of a model, by its name."""
    return isinstance(path, (str, Path)) and Path(path).suffix in SUFFIXES.values()


def load_exported(path: str | Path) -> ExportedModel:
    """Loads a file that ``densekit export`` has written.

    Raises:
        FileNotFoundError, MissingPackageError, ValueError: There is no such file, a package is missing, or the file is
            damaged or of another maker.
    """
    path = Path(path)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _opened_once(path, changed)


@functools.lru_cache(maxsize=1)
def _opened_once(path: Path, changed: int) -> ExportedModel:
    """Opens a file, which configuration, class names and predictions are read from, as long as it does not change."""
    target = next(key for key, suffix in SUFFIXES.items() if suffix == path.suffix)
    return ExportedModel(*opened(read(path), target, str(path)))
