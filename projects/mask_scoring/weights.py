"""Weights of Mask Scoring R-CNN's head: its authors', who built on maskrcnn-benchmark, and mmdetection's.

The authors' last layer has a row for the background, which is left out. ``configs/mask_scoring`` has the settings that
their images want.
"""

import torch

from densekit.weights import maskrcnn_benchmark
from densekit.weights.openmmlab import DETECTORS
from densekit.weights.parts import Part, register_part


def _adapt(name: str, value: torch.Tensor) -> torch.Tensor:
    return maskrcnn_benchmark.without_background(name, value) if name.startswith("maskiou.") else value


register_part(
    Part(
        "MaskIoU head",
        (maskrcnn_benchmark.NAME,),
        "maskiou",
        (r"predictor\.maskiou\.weight",),
        [
            (r"feature_extractor\.(maskiou_f\w+\d)\.(.+)", r"\1.\2"),
            (r"predictor\.maskiou\.(.+)", r"maskiou.\1"),
        ],
        _adapt,
    )
)
register_part(
    Part(
        "MaskIoU head",
        (DETECTORS,),
        "mask_iou_head",
        (r"fc_mask_iou\.weight",),
        [
            (r"fc_mask_iou\.(\w+)", r"maskiou.\1"),
            *[(rf"convs\.{k}\.(\w+)", rf"maskiou_fcn{k + 1}.\1") for k in range(4)],
            *[(rf"fcs\.{k}\.(\w+)", rf"maskiou_fc{k + 1}.\1") for k in range(4)],
        ],
    )
)
