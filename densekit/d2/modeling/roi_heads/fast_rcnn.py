"""Box outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.fast_rcnn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.roi_heads.fast_rcnn as host
else:
    import detectron2.modeling.roi_heads.fast_rcnn as host

FastRCNNOutputLayers = host.FastRCNNOutputLayers
fast_rcnn_inference = host.fast_rcnn_inference
