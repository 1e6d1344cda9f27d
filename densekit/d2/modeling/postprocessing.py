"""Outputs in original pixels: the names that densekit uses of ``detectron2.modeling.postprocessing``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.postprocessing as host
else:
    import detectron2.modeling.postprocessing as host

detector_postprocess = host.detector_postprocess
sem_seg_postprocess = host.sem_seg_postprocess
