"""Evaluators: what a model's outputs are worth on a registered data set, on either host."""

from densekit.evaluation.build import build_evaluator
from densekit.evaluation.coco import COCOEvaluator

__all__ = ["COCOEvaluator", "build_evaluator"]
