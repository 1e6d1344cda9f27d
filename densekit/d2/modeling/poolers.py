"""Region pooling: the names that densekit uses of ``detectron2.modeling.poolers``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.poolers import (
        ROIPooler,
        assign_boxes_to_levels,
        convert_boxes_to_pooler_format,
    )
else:
    from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format

__all__ = ["ROIPooler", "assign_boxes_to_levels", "convert_boxes_to_pooler_format"]
