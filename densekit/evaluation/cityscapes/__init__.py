"""The Cityscapes benchmark: pixels and instances, with the figures of cityscapesscripts."""

from densekit.evaluation.cityscapes.instance import CityscapesInstanceEvaluator
from densekit.evaluation.cityscapes.semantic import CityscapesSemSegEvaluator

__all__ = ["CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"]
