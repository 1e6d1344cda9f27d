"""The Cityscapes benchmark: pixels, instances and panoptic segments, with the figures of cityscapesscripts."""

from densekit.evaluation.cityscapes.instance import CityscapesInstanceEvaluator
from densekit.evaluation.cityscapes.panoptic_evaluator import CityscapesPanopticEvaluator
from densekit.evaluation.cityscapes.semantic_evaluator import CityscapesSemSegEvaluator

__all__ = ["CityscapesInstanceEvaluator", "CityscapesPanopticEvaluator", "CityscapesSemSegEvaluator"]
