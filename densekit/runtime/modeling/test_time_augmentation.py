"""Detection over several sizes and mirror images of an input, merged into one result.

Boxes of all versions go through one more non-maximum suppression; masks of the merged boxes are predicted on each
version and averaged. As in Mask R-CNN, https://arxiv.org/abs/1703.06870, appendix B.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.data.detection_utils import read_image
from densekit.runtime.data.transforms import (
    AugInput,
    Augmentation,
    AugmentationList,
    HFlipTransform,
    RandomFlip,
    ResizeShortestEdge,
    ResizeTransform,
    TransformList,
)
from densekit.runtime.modeling.meta_arch import GeneralizedRCNN
from densekit.runtime.modeling.postprocessing import detector_postprocess
from densekit.runtime.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from densekit.runtime.structures import Boxes, Instances


def _to_image(array: np.ndarray) -> torch.Tensor:
    """(H, W, C) array to (C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


class DatasetMapperTTA:
    """Makes resized and mirrored versions of a model input.

    Args:
        min_sizes: short sides, in pixels.
        max_size: largest long side, in pixels.
        flip: whether each size comes mirrored too.
    """

    @configurable
    def __init__(self, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.TEST.AUG
        return {"min_sizes": node.MIN_SIZES, "max_size": node.MAX_SIZE, "flip": node.FLIP}

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """The versions of one input.

        Args:
            dataset_dict: with "image" (C, H, W) and the original "height" and "width".

        Returns:
            Copies of it with "image" replaced and "transforms" added, which maps original to version coordinates.
        """
        image = dataset_dict["image"].permute(1, 2, 0).numpy()
        original = (dataset_dict["height"], dataset_dict["width"])
        loaded = [ResizeTransform(*original, *image.shape[:2])] if image.shape[:2] != original else []
        versions = []
        for size in self.min_sizes:
            resize: list[Augmentation] = [ResizeShortestEdge(size, self.max_size)]
            for augmentations in [resize, [*resize, RandomFlip(prob=1.0)]] if self.flip else [resize]:
                version = AugInput(image.copy())
                transforms = AugmentationList(augmentations)(version)
                result = {k: copy.deepcopy(v) for k, v in dataset_dict.items() if k != "image"}
                result["image"] = _to_image(version.image)
                result["transforms"] = TransformList([*loaded, transforms])
                versions.append(result)
        return versions


class GeneralizedRCNNWithTTA(nn.Module):
    """Wraps a :class:`GeneralizedRCNN`; called like it, in inference, with the same results.

    Args:
        cfg: the model's config.
        model: the model, in a DistributedDataParallel or not.
        tta_mapper: makes the versions of an input; :class:`DatasetMapperTTA` of the config if None.
        batch_size: how many versions the model sees at a time.

    Raises:
        ValueError: if the model is of another kind, predicts keypoints or needs precomputed proposals.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None,
        batch_size: int = 3,
    ) -> None:
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, GeneralizedRCNN):
            raise ValueError(f"test-time augmentation works on a GeneralizedRCNN, not on {type(model).__name__}")
        for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise ValueError(
                    f"test-time augmentation cannot merge MODEL.{key}: set it or TEST.AUG.ENABLED to False"
                )
        self.model = model
        self.mask_on = cfg.MODEL.MASK_ON
        self.num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        self.nms_thresh = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
        self.topk_per_image = cfg.TEST.DETECTIONS_PER_IMAGE
        self.tta_mapper = DatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper
        self.batch_size = batch_size

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections per image, as :meth:`GeneralizedRCNN.forward`; an image may be given by "file_name" alone."""
        return [self._one_image(self._with_image(x)) for x in batched_inputs]

    def _with_image(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        loaded = dict(dataset_dict)
        if "image" not in loaded:
            loaded["image"] = _to_image(read_image(loaded.pop("file_name"), self.model.input_format))
        loaded.setdefault("height", loaded["image"].shape[1])
        loaded.setdefault("width", loaded["image"].shape[2])
        return loaded

    def _one_image(self, dataset_dict: dict[str, Any]) -> dict[str, Instances]:
        original = (dataset_dict["height"], dataset_dict["width"])
        versions = self.tta_mapper(dataset_dict)
        transforms = [x.pop("transforms") for x in versions]
        with self._boxes_only():
            detections = self._infer(versions)
        merged = self._merge(detections, transforms, original)
        if not self.mask_on:
            return {"instances": merged}
        given = [self._transfer(merged, tfm, x["image"]) for x, tfm in zip(versions, transforms)]
        merged.pred_masks = self._average_masks(self._infer(versions, given), transforms)
        return {"instances": detector_postprocess(merged, *original)}

    @contextmanager
    def _boxes_only(self) -> Iterator[None]:
        """Switches the mask branch off for a while: masks are wanted for the merged boxes only."""
        heads = self.model.roi_heads
        mask_on = getattr(heads, "mask_on", False)
        heads.mask_on = False
        try:
            yield
        finally:
            heads.mask_on = mask_on

    def _infer(self, versions: list[dict[str, Any]], instances: list[Instances] | None = None) -> list[Instances]:
        """Runs the model on a few versions at a time, on given boxes if there are any."""
        outputs: list[Instances] = []
        for start in range(0, len(versions), self.batch_size):
            part = slice(start, start + self.batch_size)
            given = None if instances is None else instances[part]
            outputs.extend(self.model.inference(versions[part], given, do_postprocess=False))
        return outputs

    def _merge(self, detections: list[Instances], transforms: list[TransformList], shape: tuple[int, int]) -> Instances:
        """All versions' detections in the original image, after non-maximum suppression."""
        boxes = torch.cat([_apply_box(tfm.inverse(), x.pred_boxes.tensor) for x, tfm in zip(detections, transforms)])
        classes = torch.cat([x.pred_classes for x in detections])
        scores = boxes.new_zeros(len(boxes), self.num_classes + 1)
        scores[torch.arange(len(boxes), device=boxes.device), classes] = torch.cat([x.scores for x in detections])
        # Each row has one score, so any threshold above 0 keeps what the model kept.
        return fast_rcnn_inference_single_image(boxes, scores, shape, 1e-8, self.nms_thresh, self.topk_per_image)[0]

    @staticmethod
    def _transfer(merged: Instances, transform: TransformList, image: torch.Tensor) -> Instances:
        """The merged detections in the coordinates of one version."""
        return Instances(
            (image.shape[1], image.shape[2]),
            pred_boxes=Boxes(_apply_box(transform, merged.pred_boxes.tensor)),
            pred_classes=merged.pred_classes,
            scores=merged.scores,
        )

    @staticmethod
    def _average_masks(outputs: list[Instances], transforms: list[TransformList]) -> torch.Tensor:
        """Mean mask probabilities (R, 1, M, M): masks live in their box, so that only mirroring must be undone."""
        masks = []
        for output, transform in zip(outputs, transforms):
            mirrored = any(isinstance(t, HFlipTransform) for t in transform.transforms)
            masks.append(output.pred_masks.flip(dims=[3]) if mirrored else output.pred_masks)
        return torch.stack(masks).mean(dim=0)


def _apply_box(transform: TransformList, boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (R, 4) through a transform that works on arrays."""
    moved = transform.apply_box(boxes.cpu().numpy())
    return torch.as_tensor(moved, dtype=boxes.dtype, device=boxes.device)
