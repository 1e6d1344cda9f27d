"""Region pooling: the names that densekit uses of ``detectron2.modeling.poolers``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.poolers as host
else:
    import detectron2.modeling.poolers as host

ROIPooler = host.ROIPooler
assign_boxes_to_levels = host.assign_boxes_to_levels
convert_boxes_to_pooler_format = host.convert_boxes_to_pooler_format
