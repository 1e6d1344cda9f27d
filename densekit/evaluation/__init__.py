"""Evaluators: what a model's outputs are worth on a registered data set, on either host."""

from densekit.evaluation.build import build_evaluator
from densekit.evaluation.cityscapes import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from densekit.evaluation.coco import COCOEvaluator

__all__ = ["COCOEvaluator", "CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator", "build_evaluator"]
