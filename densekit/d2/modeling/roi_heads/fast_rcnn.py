"""Box outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.fast_rcnn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
else:
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]
