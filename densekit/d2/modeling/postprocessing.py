"""Outputs in original pixels: the names that densekit uses of ``detectron2.modeling.postprocessing``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
else:
    from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess

__all__ = ["detector_postprocess", "sem_seg_postprocess"]
