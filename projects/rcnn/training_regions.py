"""The regions of the training pictures, as the stages of R-CNN after its fine-tuning see them."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from densekit.d2.config import CfgNode
from densekit.d2.structures import BoxMode
from densekit.data.mapper import build_mapper
from densekit.data.proposals import load_records
from densekit.engine.errors import DataError

from .feature_store import Regions

__all__ = ["TrainingRegions"]

_INPUT = ("MIN_SIZE_TEST", "MAX_SIZE_TEST", "FORMAT", "MAPPER")


class TrainingRegions:
    """Objects and proposals of ``DATASETS.TRAIN`` with features, in pixels of the input of an inference.

    Args:
        model: An :class:`~densekit.projects.rcnn.meta_arch.RCNN`, in evaluation mode.
        cfg: Its configuration.
    """

    def __init__(self, model: Any, cfg: CfgNode) -> None:
        self._model, self._cfg = model, cfg
        self._mapper = build_mapper(cfg, is_train=False)
        self._records = load_records(
            cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )

    def __len__(self) -> int:
        return len(self._records)

    def key(self, settings: Any) -> str:
        """A name for all that the features and the SVMs depend on, the weights among it."""
        cfg, model = self._cfg, self._model
        stated = {
            "input": {key: cfg.INPUT[key] for key in _INPUT},
            "crop": [model.crop_size, model.context],
            "data": [cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN, len(self)],
            "proposals": cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST,
            "settings": asdict(settings),
        }
        found = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
        for part in (model.backbone, model.neck):
            for name, value in part.state_dict().items():
                found.update(name.encode())
                found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def __getitem__(self, index: int) -> Regions:
        """The regions of a picture.

        Raises:
            DataError: The picture cannot be used, or its features are not finite.
        """
        record = self._records[index]
        try:
            item = self._mapper(dict(record))
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        objects = [one for one in record.get("annotations", ()) if not one.get("iscrowd", 0)]
        height, width = item["image"].shape[-2:]
        scale = np.array([width / record["width"], height / record["height"]] * 2)
        corners = [BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYXY_ABS) for one in objects]
        placed = (np.asarray(corners, dtype=np.float64).reshape(-1, 4) * scale).astype(np.float32)
        classes = np.array([one["category_id"] for one in objects], dtype=np.int64)
        whole = (placed[:, 2:] > placed[:, :2]).all(axis=1)
        placed, classes = placed[whole], classes[whole]
        proposals = item["proposals"].proposal_boxes.tensor.float()
        boxes = torch.cat([torch.from_numpy(placed), proposals])
        features = self._model.features(self._model.normalised(item), boxes.to(self._model.device)).float().cpu()
        if not features.isfinite().all():
            raise DataError(
                f"The features of {record['file_name']} are not finite: the fine-tuning has diverged. Lower "
                "SOLVER.BASE_LR."
            )
        return Regions(boxes.numpy(), features.numpy(), classes)
